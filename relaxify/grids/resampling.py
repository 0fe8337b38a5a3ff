"""Images moved by finite amounts, T_t f(r) = f(exp(t v) r), in two passes of one-dimensional interpolation.

A r = (a x + b y + c, ..) is taken apart into a move along y and one along x, so that one axis is interpolated at a time:
by Keys' cubic convolution of six points, whose derivative at the pixels is the fourth-order central difference of
`flows`, or by the trigonometric polynomial through all pixels, whose derivative is the spectral one. So d/dt T_t f = X f at
t = 0, to rounding and at the border too.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.grids.derivatives import Scheme
from relaxify.grids.flows import PixelPositions, is_map


def resample(
    value: Float[Tensor, "..."], matrix: Float[Tensor, "3 3"], positions: PixelPositions, scheme: Scheme = "central"
) -> Float[Tensor, "..."]:
    """f(A r) for a map, everything else as it is. Outside the image its border's pixels are repeated, or the whole image.

    `matrix` is [[A, b], [0, 1]] on (x, y, 1), in units of the image. ValueError if it turns x into y (by a quarter).

    >>> image = torch.rand(1, 1, 5, 5, dtype=torch.float64)
    >>> torch.allclose(resample(image, torch.eye(3), PixelPositions(5, 5)), image)
    True
    """
    if not is_map(value):
        return value
    (a, b, c), (d, e, f), _ = matrix.to(value)
    if abs(float(a)) < 0.1:
        raise ValueError("images are not resampled by a quarter turn or more; give smaller sizes.")
    x, y = positions.coordinates(value)
    step_x, step_y = _step(x), _step(y)
    # f(a x + b y + c, d x + e y + f) = g(a x + b y + c, y), g(u, y) = f(u, d/a u + (e - d b/a) y + f - d c/a)
    down = (d / a) * x[:, None] + (e - d * b / a) * y + (f - d * c / a)
    right = a * x + b * y[:, None] + c
    moved = _interpolate(value.mT, (down - y[0]) / step_y, scheme).mT
    return _interpolate(moved, (right - x[0]) / step_x, scheme)


def refined(
    value: Float[Tensor, "batch channels rows columns"], scheme: Scheme = "central"
) -> Float[Tensor, "batch channels fine_rows fine_columns"]:
    """The same images with twice as many pixels on each side, whose squares together are those of the old.

    >>> refined(torch.ones(1, 1, 3, 4)).shape
    torch.Size([1, 1, 6, 8])
    """
    for _ in range(2):
        size = value.shape[-1]
        at = (torch.arange(2 * size, dtype=value.dtype, device=value.device) + 0.5) / 2 - 0.5
        weights = _trigonometric(at[None], size) if scheme == "spectral" else _cubic(at[None], size)
        value = (value @ weights[0].mT).mT
    return value


def _step(positions: Tensor) -> Tensor:
    return positions[1] - positions[0] if len(positions) > 1 else positions.new_ones(())


def _interpolate(
    value: Float[Tensor, "batch channels rows n"], at: Float[Tensor, "rows n"], scheme: Scheme
) -> Float[Tensor, "batch channels rows n"]:
    """Each row's values at positions of its own, counted in pixels from the first."""
    size = value.shape[-1]
    weights = _trigonometric(at, size) if scheme == "spectral" else _cubic(at, size)
    return torch.einsum("rij,bcrj->bcri", weights, value)


def _cubic(at: Float[Tensor, "rows positions"], size: int) -> Float[Tensor, "rows positions pixels"]:
    first = at.detach().floor()
    taps = first[..., None] + torch.arange(-2, 4, dtype=at.dtype, device=at.device)
    weights = _keys(at[..., None] - taps)
    return weights.new_zeros(*at.shape, size).scatter_add(-1, taps.long().clamp(0, size - 1), weights)


def _keys(s: Tensor) -> Tensor:
    """The fourth-order kernel of R. Keys, "Cubic convolution interpolation for digital image processing", 1981."""
    s = s.abs()
    inner = (4 / 3 * s - 7 / 3) * s * s + 1
    middle = ((-7 / 12 * s + 3) * s - 59 / 12) * s + 2.5
    outer = ((1 / 12 * s - 2 / 3) * s + 7 / 4) * s - 1.5
    return torch.where(s <= 1, inner, torch.where(s <= 2, middle, torch.where(s <= 3, outer, torch.zeros_like(s))))


def _trigonometric(at: Float[Tensor, "rows positions"], size: int) -> Float[Tensor, "rows positions pixels"]:
    """sum_k cos(2 pi k (s - j) / n) / n over |k| <= n / 2, the highest wave by half."""
    phase = 2 * math.pi / size * (at[..., None] - torch.arange(size, dtype=at.dtype, device=at.device))
    waves = torch.arange(1, size // 2 + 1, dtype=at.dtype, device=at.device)
    shares = torch.where(2 * waves == size, 1.0, 2.0)
    return (1 + torch.stack([share * torch.cos(k * phase) for k, share in zip(waves, shares, strict=True)]).sum(0)) / size
