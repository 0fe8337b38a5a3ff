"""What is looked at in samples too large to be looked at whole: smooth windows on images, principal components of others."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

# of half an image: how wide the smallest window is
NARROWEST = 0.2
# in pixels: below it a template is not smooth on the grid
NARROWEST_PIXELS = 1.5

# samples of which a copy in double precision is made at a time, in numbers
CHUNK = 2**22


def windows(
    space: tuple[int, int], channels: int, count: int, seed: int = 0
) -> Float[Tensor, "count channels height width"]:
    """Waves under Gaussian windows, of random places, sizes and directions, which end before the image does.

    They are smooth, so that what interpolation and a pixel's size do to derivatives is not seen, and they see nothing of the
    corners that a turned image loses, or of the border where a moved one ends. On several channels each reads a random
    mixture.

    >>> windows((28, 28), 1, 3).shape
    torch.Size([3, 1, 28, 28])
    """
    random = torch.Generator().manual_seed(seed)
    half = min(space) / 2
    y, x = (((torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / half) for size in space)
    distance, angle, size, phase = torch.rand(4, count, 1, 1, generator=random, dtype=torch.float64)
    waves = torch.randn(2, count, 1, 1, generator=random, dtype=torch.float64)
    mixture = torch.nn.functional.normalize(torch.randn(count, channels, generator=random, dtype=torch.float64), dim=1)
    width = max(NARROWEST, NARROWEST_PIXELS / half) * (1 + size)
    reach, angle = 0.6 * distance.sqrt(), 2 * math.pi * angle
    down, right = y[:, None] - reach * angle.sin(), x - reach * angle.cos()
    envelope = torch.exp(-(down.square() + right.square()) / (2 * width.square()))
    edge = (1 - y[:, None].square() - x.square()).clamp(min=0).square()
    made = edge * envelope * torch.cos((waves[0] * down + waves[1] * right) / width + 2 * math.pi * phase)
    made = made / made.flatten(1).norm(dim=1).clamp(min=1e-300)[:, None, None]
    return made[:, None] * mixture[:, :, None, None]


def components(X: Shaped[Tensor, "n d"], count: int, seed: int = 0) -> Float[Tensor, "count d"]:
    """The first principal components, by subspace iteration: no matrix of d x d."""
    count = min(count, *X.shape)
    random = torch.Generator().manual_seed(seed)
    mean = sum_of(part.sum(0) for part in chunks(X)) / len(X)
    basis = torch.randn(X.shape[1], min(count + 8, *X.shape), generator=random, dtype=torch.float64)
    for _ in range(6):
        basis, _ = torch.linalg.qr(basis)
        lifted = basis.new_zeros(basis.shape)
        for part in chunks(X):
            lifted += (part - mean).mT @ ((part - mean) @ basis)
        basis, values, _ = torch.linalg.svd(lifted, full_matrices=False)
    # what rounding makes of directions without variance is no component
    return basis[:, :count][:, values[:count] > 1e-9 * values[0]].mT


def projected(X: Shaped[Tensor, "n d"], templates: Float[Tensor, "r d"]) -> Float[Tensor, "n r"]:
    """X templates^T in double precision, whatever numbers X holds, a few samples at a time."""
    return torch.cat([part @ templates.mT for part in chunks(X)])


def chunks(X: Shaped[Tensor, "n d"]) -> Iterator[Float[Tensor, "m d"]]:
    """The samples in double precision, some at a time."""
    for part in X.split(max(1, CHUNK // X.shape[1])):
        yield part.double()


def sum_of(parts: Iterable[Tensor]) -> Tensor:
    """Their sum, one held at a time."""
    return functools.reduce(operator.add, parts)


def variance(X: Shaped[Tensor, "n d"]) -> float:
    """The variances of all columns together."""
    mean = sum_of(part.sum(0) for part in chunks(X)) / len(X)
    return float(sum_of((part - mean).square().sum() for part in chunks(X))) / max(1, len(X) - 1)
