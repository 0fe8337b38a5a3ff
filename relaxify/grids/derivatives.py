"""Derivatives of images along their axes, per pixel."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Scheme = Literal["central", "spectral"]
"""`central`: fourth-order central differences with the border's pixels repeated, for images as they are: they reach two
pixels, and are what the resampler's cubic interpolation has at the pixels. `spectral`: by FFT, for periodic images."""

STENCIL = {1: 8 / 12, 2: -1 / 12}
"""The weights of the pixels so far ahead; those behind have the opposite sign."""


def differentiate(value: Float[Tensor, "..."], axis: int, scheme: Scheme) -> Float[Tensor, "..."]:
    """The derivative along an axis.

    >>> differentiate(torch.arange(6.0), 0, "central")[2:4]
    tensor([1., 1.])
    """
    return spectral(value, axis) if scheme == "spectral" else _central(value, axis)


def spectral(value: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
    """The derivative of the trigonometric polynomial through the pixels: exact for what a periodic grid can hold."""
    size = value.shape[axis]
    if not value.numel():
        # FFTs take no empty batch
        return value
    frequency = 2 * math.pi * torch.fft.rfftfreq(size, dtype=value.dtype, device=value.device)
    if size % 2 == 0:
        # the highest wave has no real derivative on the grid
        frequency[-1] = 0
    # MKL has refused values that are one in memory, as expanded ones are
    waves = torch.fft.rfft(value.movedim(axis, -1).contiguous())
    return torch.fft.irfft(1j * frequency * waves, n=size).movedim(-1, axis)


def _central(value: Tensor, axis: int) -> Tensor:
    size = value.shape[axis]
    first, last = value.narrow(axis, 0, 1), value.narrow(axis, size - 1, 1)
    padded = torch.cat([first, first, value, last, last], dim=axis)
    near, far = (padded.narrow(axis, 2 + k, size) - padded.narrow(axis, 2 - k, size) for k in (1, 2))
    return STENCIL[1] * near + STENCIL[2] * far


def from_centre(size: int, like: Tensor) -> Float[Tensor, " size"]:
    """The positions of `size` pixels, counted from their middle."""
    return torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
