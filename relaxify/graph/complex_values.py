"""Complex tensors as real ones, with the real and the imaginary part on one more axis, the last.

A turn by m phi multiplies a complex number by e^{i m phi}, and turns its parts as a rotation of the plane; a complex weight
a + i b mixes them by [[a, -b], [b, a]].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from relaxify.graph.contractions import Contraction

PARTS = ("\N{DOUBLE-STRUCK CAPITAL R}", "\N{DOUBLE-STRUCK CAPITAL C}")
"""Letters of the axes of the parts, in data and in results, which no equation has."""


def as_real(tensor: Tensor) -> Tensor:
    """A tensor, or its real and imaginary parts if it is complex.

    >>> as_real(torch.tensor([1 + 2j]))
    tensor([[1., 2.]])
    """
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def on_parts(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """What a function of real tensors makes of these, which may both be complex, and so is its result then."""
    if not a.is_complex():
        return function(a, b)
    return torch.view_as_complex(function(as_real(a), as_real(b)).contiguous())


def contraction_of_parts(found: Contraction) -> Contraction:
    """A contraction of complex operands as one of their parts, which it mixes too."""
    axes_in, axes_out = ((*(axis - 1 for axis in axes), -1) for axes in (found.axes_in, found.axes_out))
    into, out = (letters + part for letters, part in zip(found.letters, PARTS, strict=True))
    return replace(found, axes_in=axes_in, axes_out=axes_out, order=None, letters=(into, out))


def matrix_of_parts(weight: Complex[Tensor, "*axes"]) -> Float[Tensor, "*axes 2 2"]:
    """[[a, -b], [b, a]] for each entry a + i b: what it makes of the parts of a number."""
    a, b = weight.real, weight.imag
    return torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], -2)
