"""Where a statement stands: the innermost code of a model that is neither PyTorch's nor ours, or else PyTorch's layer."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import nn

from relaxify.graph import inputs

# the last is relaxify itself
_PACKAGES = (Path(torch.__file__).parent, Path(jaxtyping.__file__).parent, Path(__file__).parents[1])
_LIBRARIES = tuple(f"{package}{os.sep}" for package in _PACKAGES)
_LAYERS = str(Path(nn.__file__).parent / "modules")
_CALLING = nn.Module.__call__.__code__.co_filename
_CALLER = (inputs.__file__, "call")


@functools.cache
def is_own_code(file: str) -> bool:
    """Whether a file is a user's, or a model library's."""
    return not file.startswith((*_LIBRARIES, "<"))


def location() -> str:
    """file:line of the innermost running statement of a model's code; of torch's layer, if no other code called it."""
    frame: Any = sys._getframe(1)
    layer = ""
    # the model's caller does not count
    while frame is not None and (frame.f_code.co_filename, frame.f_code.co_name) != _CALLER:
        file = frame.f_code.co_filename
        if is_own_code(file):
            return f"{file}:{frame.f_lineno}"
        if not layer and file.startswith(_LAYERS) and file != _CALLING:
            layer = f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return layer
