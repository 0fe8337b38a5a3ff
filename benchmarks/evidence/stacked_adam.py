"""Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1) over stacked parameters, each member at its own rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class StackedAdam:
    """torch's Adam with its defaults, each member at its own rate."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], rates: Tensor) -> None:
        """Parameters that come to an end are the last ones, and have no gradient from then on."""
        self.steps += 1
        correction, root = 1 - 0.9**self.steps, (1 - 0.999**self.steps) ** 0.5
        for p, gradient, first, second in zip(parameters, gradients, self.first, self.second, strict=False):
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            size = (second.sqrt() / root).add_(1e-8)
            p.sub_((rates / correction).view(-1, *[1] * (p.ndim - 1)) * first / size)
