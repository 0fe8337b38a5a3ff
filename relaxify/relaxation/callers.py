"""Who is calling, for what torch does to a model without leaving any other mark of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import torch
from torch._functorch import apis, eager_transforms, vmap

# where torch.func.grad, vjp, jvp, jacrev, jacfwd, hessian, linearize, functionalize and vmap are
_TRANSFORMS = frozenset(module.__file__ for module in (apis, eager_transforms, vmap))


def is_within(function: Callable[..., Any]) -> bool:
    """Whether this is called by a Python function, directly or through others.

    >>> def outer():
    ...     return is_within(outer)
    >>> outer(), is_within(outer)
    (True, False)
    """
    return _frame_of(function, sys._getframe(1)) is not None


def argument_of_caller(function: Callable[..., Any], name: str) -> Any:
    """An argument of the call of a Python function that this is called by, directly or through others; None if by none.

    >>> def outer(value):
    ...     return argument_of_caller(outer, "value")
    >>> outer(3), argument_of_caller(outer, "value")
    (3, None)
    """
    frame = _frame_of(function, sys._getframe(1))
    return None if frame is None else frame.f_locals[name]


def is_transform_of_a_module() -> bool:
    """Whether torch.func's transforms that are running now were begun by a module's forward, and not around the module.

    >>> class Slope(torch.nn.Module):
    ...     def forward(self, x):
    ...         return torch.func.grad(lambda x: x * is_transform_of_a_module())(x)
    >>> Slope()(torch.ones(())), torch.func.grad(Slope())(torch.ones(()))
    (tensor(1.), tensor(0.))
    """
    outermost_is_module, frame = False, cast(FrameType | None, sys._getframe(1))
    while frame is not None:
        if frame.f_code is torch.nn.Module._call_impl.__code__:
            outermost_is_module = True
        elif frame.f_code.co_filename in _TRANSFORMS:
            outermost_is_module = False
        frame = frame.f_back
    return outermost_is_module


def _frame_of(function: Callable[..., Any], frame: FrameType | None) -> FrameType | None:
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame
