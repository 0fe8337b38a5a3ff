"""Where a statement stands: the innermost code that is neither PyTorch's nor ours."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import jaxtyping
import torch

import relaxify

_LIBRARIES = tuple(f"{Path(path).parent}{os.sep}" for path in (torch.__file__, jaxtyping.__file__, relaxify.__file__))


@functools.cache
def is_own_code(file: str) -> bool:
    """Whether a file is a user's, or a model library's."""
    return not file.startswith((*_LIBRARIES, "<"))


def location() -> str:
    """file:line of the innermost running statement of such code."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if is_own_code(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
