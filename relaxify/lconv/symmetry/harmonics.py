"""Test functions for rotations: spherical harmonics of each degree, as zonal functions P_k(u . a) of fixed directions a.

With enough directions the zonal functions of one degree span all of its harmonics; their products on the sphere are known,
int P_k(u . a) P_k(u . b) du = P_k(a . b) / dim, and so are orthonormal combinations (Mueller, Spherical Harmonics, 1966).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LOWEST_HIGHEST, HIGHEST, HIGHEST_IN_THE_PLANE = 4, 16, 24
# harmonics of a degree beyond the lowest ones, and directions of any
LARGEST_DEGREE, MOST_DIRECTIONS = 64, 256
SPARE_DIRECTIONS = 8
SMALLEST_PRODUCT = 1e-7


@dataclass(frozen=True, eq=False)
class Harmonics:
    """Directions a_j, and by degree the combinations of the first P_k(u . a_j) that are orthonormal, in columns."""

    directions: Float[Tensor, "j D"]
    combine: dict[int, Tensor]

    @classmethod
    def on(cls, dimensions: int, random: torch.Generator) -> Harmonics:
        """Of degrees 1 to 4, and beyond while there are few, up to 16 (in the plane 24); of 256 directions at most.

        >>> [max(Harmonics.on(d, torch.Generator()).combine) for d in (2, 3, 4, 5, 9)]
        [24, 16, 7, 4, 4]
        """
        highest = HIGHEST_IN_THE_PLANE if dimensions == 2 else HIGHEST
        looked_at = [k for k in range(1, highest + 1) if k <= LOWEST_HIGHEST or size(k, dimensions) <= LARGEST_DEGREE]
        counts = {k: min(size(k, dimensions) + SPARE_DIRECTIONS, MOST_DIRECTIONS) for k in looked_at}
        drawn = torch.randn(max(counts.values()), dimensions, generator=random, dtype=torch.float64)
        directions = torch.nn.functional.normalize(drawn, dim=1)
        products = gegenbauer(directions @ directions.mT, dimensions, looked_at[-1])
        found = {k: _orthonormal(value[: counts[k], : counts[k]]) for k, (value, _) in enumerate(products) if k in counts}
        return cls(directions, {k: found[k] * math.sqrt(size(k, dimensions)) for k in found})

    def of(self, u: Float[Tensor, "n D"]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each degree P_k(u . a_j) and P_k'(u . a_j)."""
        for k, (value, slope) in enumerate(gegenbauer(u @ self.directions.mT, u.shape[1], max(self.combine))):
            if k in self.combine:
                count = len(self.combine[k])
                yield k, value[:, :count], slope[:, :count]

    def values(self, degree: int, u: Float[Tensor, "n D"]) -> Float[Tensor, "n r"]:
        """The orthonormal harmonics of a degree."""
        combine = self.combine[degree]
        *_, (value, _) = gegenbauer(u @ self.directions[: len(combine)].mT, u.shape[1], degree)
        return value @ combine

    def is_complete(self, degree: int) -> bool:
        """Whether these are all harmonics of a degree."""
        return self.combine[degree].shape[1] == size(degree, self.directions.shape[1])

    def acted(self, degree: int, element: Float[Tensor, "D D"]) -> Float[Tensor, "r r"]:
        """rho(g) with f_j(g u) = sum_i rho_ji f_i(u), if there are all harmonics: the kernel sum_i f_i f_i is dim P_k."""
        combine = self.combine[degree]
        turned = self.values(degree, self.directions[: len(combine)] @ element)
        return combine.mT @ turned / size(degree, len(element))


def _orthonormal(products: Float[Tensor, "j j"]) -> Float[Tensor, "j r"]:
    values, vectors = torch.linalg.eigh(products)
    kept = values > SMALLEST_PRODUCT * values[-1]
    return vectors[:, kept] / values[kept].sqrt()


def polar(y: Float[Tensor, "n p d"]) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Direction, radius, and windows with r times their slope: far samples say most of tails, near ones of holes."""
    v = y.flatten(1)
    square = v.square().sum(1, keepdim=True).clamp(min=1e-300)
    far = square.square() / (square.square() + v.shape[1] ** 2)
    slope = 4 * far * (1 - far)
    return v / square.sqrt(), square.sqrt(), [(1 - far, -slope), (far, slope)]


def size(degree: int, dimensions: int) -> int:
    """How many harmonics of a degree there are.

    >>> size(4, 3), size(7, 2), size(4, 6)
    (9, 2, 105)
    """
    polynomials = math.comb(degree + dimensions - 1, degree)
    return polynomials - (math.comb(degree + dimensions - 3, degree - 2) if degree > 1 else 0)


def gegenbauer(t: Float[Tensor, "*any"], d: int, highest: int) -> Iterator[tuple[Tensor, Tensor]]:
    """P_k(t) and P_k'(t), with P_k(1) = 1, for k = 0, 1, ...: (k + d - 3) P_k = (2k + d - 4) t P_k-1 - (k - 1) P_k-2."""
    before, value = torch.zeros_like(t), torch.ones_like(t)
    slope_before, slope = torch.zeros_like(t), torch.zeros_like(t)
    yield value, slope
    for k in range(1, highest + 1):
        if k == 1:
            following, slope_following = t.clone(), torch.ones_like(t)
        else:
            scale = k + d - 3
            following = ((2 * k + d - 4) * t * value - (k - 1) * before) / scale
            slope_following = ((2 * k + d - 4) * (value + t * slope) - (k - 1) * slope_before) / scale
        before, value, slope_before, slope = value, following, slope, slope_following
        yield value, slope
