"""What counts as a number where one is asked for: not the text that a YAML file or a command line gave instead."""

from __future__ import annotations

import math
import numbers
from typing import Any, TypeGuard

import torch
from torch import Tensor


def is_real(value: object) -> TypeGuard[Any]:
    """Whether it is one real number: Python's, numpy's, or a tensor of one entry; a truth value is none.

    >>> is_real(0.5), is_real(torch.tensor(2)), is_real("1e-3"), is_real(None), is_real(True), is_real(torch.ones(2))
    (True, True, False, False, False, False)
    """
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite(value: object) -> TypeGuard[Any]:
    """Whether it is one finite real number."""
    return is_real(value) and math.isfinite(value)
