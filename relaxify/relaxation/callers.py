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
    code = function.__code__
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False
