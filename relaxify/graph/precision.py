"""Running a copy of a model in float64, whatever precision its forward names, and without a word to other threads.

Inside `InDouble`, whoever asks for a lower precision by name gets float64, so do new tensors that name none, and so does
what an operation still returns in a lower one. The process's default dtype stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_WIDER = {
    torch.float32: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float16: torch.float64,
    torch.complex64: torch.complex128,
}
_METHODS: dict[Callable[..., Any], Callable[..., Any]] = {
    Tensor.float: Tensor.double,
    Tensor.half: Tensor.double,
    Tensor.bfloat16: Tensor.double,
    Tensor.cfloat: Tensor.cdouble,  # type: ignore[attr-defined]
}


def widened(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, in float64 or complex128 if it is floating or complex."""
    return tensor.to("cpu", _WIDER.get(tensor.dtype, tensor.dtype))


class InDouble(TorchFunctionMode):
    """Gives float64 to this thread alone. `lowest` is the lowest precision in which something was computed all the same.

    >>> with InDouble():
    ...     torch.zeros(1).dtype, torch.zeros(1, dtype=torch.float32).dtype, (torch.arange(2) / 2).dtype
    (torch.float64, torch.float64, torch.float64)
    >>> torch.zeros(1).dtype
    torch.float32
    """

    def __init__(self) -> None:
        super().__init__()
        self.lowest = torch.float64

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        # every operation of every run comes through here: what needs nothing is told by few questions
        kwargs = kwargs or {}
        if func in _METHODS:
            func = _METHODS[func]
        if any(value.__class__ is torch.dtype for value in args):
            args = tuple(map(_wider, args))
        if "dtype" in kwargs:
            kwargs = {**kwargs, "dtype": _wider(kwargs["dtype"])}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            return self._wide(result, func, args, kwargs) if result.dtype in _WIDER else result
        if isinstance(result, tuple | list) and any(isinstance(part, Tensor) and part.dtype in _WIDER for part in result):
            return pytree.tree_map_only(Tensor, lambda part: self._wide(part, func, args, kwargs), result)
        return result

    def _wide(self, result: Tensor, func: Any, args: Any, kwargs: Any) -> Tensor:
        if result.dtype not in _WIDER:
            return result
        if func in _makers() and kwargs.get("dtype") is None:
            # made anew, as a constant that is rounded to float32 stays rounded
            return func(*args, **{**kwargs, "dtype": _WIDER[result.dtype]})
        read = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(result is leaf for leaf in read) or func in _VIEWS:
            return result
        if any(leaf.dtype in _WIDER for leaf in read):
            self.lowest = max(self.lowest, result.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        return result.to(_WIDER[result.dtype])


def _wider(value: Any) -> Any:
    return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


@functools.cache
def _makers() -> frozenset[Any]:
    """What makes tensors from none."""
    from torch.utils._device import _device_constructors

    return frozenset(_device_constructors())


_VIEWS = {Tensor.data.__get__, Tensor.grad.__get__, Tensor.detach, torch.detach}  # type: ignore[attr-defined,union-attr]


@contextmanager
def quiet() -> Iterator[None]:
    """Operations in float64, and the user's random stream as it was afterwards."""
    with torch.random.fork_rng(devices=[]), InDouble():
        yield
