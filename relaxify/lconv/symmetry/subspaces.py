"""Algebras as subspaces of matrices: how near two of them are, whatever their bases, and bases that go together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import orthonormal


@dataclass(frozen=True)
class Overlap:
    """How much of one algebra lies in another: (1/k) sum cos^2 of the principal angles; `chance` is its level."""

    value: float
    chance: float
    angles: tuple[float, ...]

    def __str__(self) -> str:
        largest = f", largest angle {max(self.angles):.2g} degrees" if self.angles else ""
        return f"overlap {self.value:.4f} (chance {self.chance:.4f}){largest}"


def overlap(found: Float[Tensor, "n d d"], known: Float[Tensor, "m e e"]) -> Overlap:
    """The overlap of two subspaces of matrices: k = max(dimensions), so that a larger or smaller one does not score 1.

    `chance` is what a random subspace of the found dimension gets on average; angles are in degrees, ascending.
    """
    if found.shape[1:] != known.shape[1:]:
        raise ValueError(
            f"generators on {tuple(found.shape[1:])} cannot be compared with ones on {tuple(known.shape[1:])}; "
            "pass matrices of one size."
        )
    a, b = orthonormal(found.double()), orthonormal(known.double())
    size = math.prod(found.shape[1:])
    if not len(a) or not len(b):
        return Overlap(float(len(a) == len(b)), float(len(a) == len(b)), ())
    cosines = torch.linalg.svdvals(a.flatten(1) @ b.flatten(1).mT)
    # small angles are lost in their cosines
    sines = torch.linalg.svdvals(_beyond(a, b) if len(a) <= len(b) else _beyond(b, a)).flip(0)
    sines = torch.cat([sines.new_zeros(max(0, len(cosines) - len(sines))), sines])[: len(cosines)]
    angles = torch.atan2(sines, cosines).rad2deg()
    larger, smaller = max(len(a), len(b)), min(len(a), len(b))
    return Overlap(float(cosines.square().sum()) / larger, smaller / size, tuple(angles.tolist()))


def _beyond(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    return a - a @ b.mT @ b


def orthonormal_pair(
    generators: Float[Tensor, "n d d"], outputs: Float[Tensor, "n c c"] | None, above: float | None = None
) -> tuple[Float[Tensor, "k d d"], Float[Tensor, "k c c"] | None]:
    """An orthonormal basis of the generators (`above`: as of `orthonormal`), and what goes with each on the outputs."""
    basis = orthonormal(generators, above)
    if outputs is None or not len(generators):
        return basis, outputs
    combinations = basis.flatten(1) @ torch.linalg.pinv(generators.flatten(1), atol=above)
    return basis, (combinations @ outputs.flatten(1)).reshape(len(basis), *outputs.shape[1:])
