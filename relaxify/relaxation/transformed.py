"""What a term sees within a transform of torch.func: of an energy whose slopes are forces, or of one sample at a time."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from relaxify.graph.storages import unwrapped
from relaxify.grids.convolution import Patches


def is_transformed() -> bool:
    """Whether a transform of torch.func is running; of compiled code, which has its own ways with them, not."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def bare(rows: Tensor | Patches) -> Tensor | Patches:
    """Rows or images as tensors without wrappers, those of all samples that vmap maps over.

    For use where transforms are disabled.
    """
    if isinstance(rows, Tensor):
        return unwrapped(rows)
    images = unwrapped(rows.x)
    return dataclasses.replace(rows, x=images.flatten(0, images.ndim - rows.x.ndim))
