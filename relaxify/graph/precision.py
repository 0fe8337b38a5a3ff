"""Running a float64 copy of a model whose forward names float32, as escnn's pooling over the group does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NamedInDouble(TorchFunctionMode):
    """Gives float64 to whoever asks for float32 by name.

    >>> with NamedInDouble():
    ...     torch.zeros(1, dtype=torch.float32).dtype, torch.zeros(1, dtype=torch.int64).float().dtype
    (torch.float64, torch.float64)
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        func = Tensor.double if func is Tensor.float else func
        return func(*map(_double, args), **{name: _double(value) for name, value in (kwargs or {}).items()})


def _double(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
