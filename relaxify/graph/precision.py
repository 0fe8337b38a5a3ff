"""Running a model in a precision of our choice, even where its forward names float32, and leaving no trace of that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NamedInDouble(TorchFunctionMode):
    """Gives float64 to code that asks for float32 by name, as escnn's pooling over the group does.

    >>> with NamedInDouble():
    ...     torch.zeros(1, dtype=torch.float32).dtype, torch.zeros(1, dtype=torch.int64).float().dtype
    (torch.float64, torch.float64)
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        func = Tensor.double if func is Tensor.float else func
        return func(*map(_double, args), **{name: _double(value) for name, value in (kwargs or {}).items()})


def _double(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def quiet(dtype: torch.dtype = torch.float64) -> Iterator[None]:
    """Make new tensors in float64, or another type, and leave the user's random stream as it was."""
    default = torch.get_default_dtype()
    named = NamedInDouble() if dtype is torch.float64 else nullcontext()
    with torch.random.fork_rng(devices=[]), named:
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
