"""Who is calling, for what torch does to a model without leaving any other mark of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


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


def _frame_of(function: Callable[..., Any], frame: FrameType | None) -> FrameType | None:
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame
