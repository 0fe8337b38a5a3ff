"""Small models to measure, sound and broken, with nothing of relaxify in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def points(count: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


class Mix(nn.Module):
    """Vectors to four channels of vectors, on axis -2."""

    def __init__(self, *, bias: bool = False, then: Callable[[Tensor], Any] = lambda v: v) -> None:
        super().__init__()
        self.mix = nn.Linear(1, 4, bias=bias)
        self.then = then

    def forward(self, x: Tensor) -> Any:
        return self.then(self.mix(x.unsqueeze(-1)))


class Of(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)
