"""White coordinates of the first principal components, and the least broken of all their rotations.

Second moments allow every rotation A of white coordinates z. What the distribution keeps of them has E[g'(w.z) w.A z] = 0
for all directions w, here with g = cos: a quadratic form in the r (r - 1) / 2 unknowns of A, whose smallest eigenvectors are
looked for with products alone. It knows nothing of where a coordinate is, so that scrambled pixels are as good as others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.operators import LowRank
from relaxify.lconv.symmetry.templates import chunks, components, projected, sum_of

MOST_COMPONENTS = 64
SAMPLES_PER_SQUARE = 25
FUNCTIONS = 3000

# of the waves that look at white coordinates, whose deviation is 1
SHORTEST, LONGEST = 0.7, 2.5

CHUNK = 2048

# of what noise alone makes of an eigenvalue: above, a direction is broken
CLEARLY = 2.0


@dataclass(frozen=True, eq=False)
class White:
    """z = left (x - mean), and x = mean + right^T z as far as the components go."""

    left: Float[Tensor, "r d"]
    right: Float[Tensor, "r d"]
    mean: Float[Tensor, " d"]

    @classmethod
    def of(cls, X: Tensor, count: int) -> White:
        """Of samples (n, d)."""
        basis = components(X, count)
        deviations = projected(X, basis).std(0).clamp(min=1e-300)[:, None]
        mean = sum_of(part.sum(0) for part in chunks(X)) / len(X)
        return cls(basis / deviations, basis * deviations, mean)

    def coordinates(self, X: Tensor) -> Float[Tensor, "n r"]:
        """z of samples."""
        return projected(X, self.left) - self.left @ self.mean


def rank_for(samples: int) -> int:
    """How many components so many samples can tell about: the unknowns go with its square."""
    return min(MOST_COMPONENTS, max(4, math.isqrt(samples // SAMPLES_PER_SQUARE)))


def components_for(X: Float[Tensor, "n d"], most: int | None = None) -> int:
    """That many components, or `most` of them: one less if that does not split a pair of like variance."""
    wanted = min(most or rank_for(len(X)), X.shape[1])
    variances = projected(X, components(X, wanted + 1)).var(0)
    if len(variances) <= wanted or wanted < 3:
        return min(wanted, len(variances))
    falls = variances[:-1] / variances[1:].clamp(min=1e-300)
    return wanted if falls[wanted - 1] > falls[wanted - 2] else wanted - 1


class RotationForm:
    """sum_g E_1[grad g . A z] E_2[grad g . A z], g(z) = cos(w.z + a), as a form on the entries of A above its diagonal."""

    def __init__(self, z: Float[Tensor, "n r"], seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        r = z.shape[1]
        w = torch.nn.functional.normalize(torch.randn(FUNCTIONS, r, generator=random, dtype=torch.float64), dim=1)
        length, phase = torch.rand(2, FUNCTIONS, generator=random, dtype=torch.float64)
        self.waves = w * (SHORTEST + (LONGEST - SHORTEST) * length[:, None])
        order = torch.randperm(len(z), generator=random)
        self.moments = [self._moments(z[half], 2 * math.pi * phase) for half in (order[::2], order[1::2])]
        self.places = torch.triu_indices(r, r, 1)

    def _moments(self, z: Tensor, phase: Tensor) -> Float[Tensor, "g r"]:
        """E[sin(w.z + a) z], a few samples at a time."""
        return sum_of((z @ self.waves.mT + phase).sin().mT @ z for z in z.split(CHUNK)) / len(z)

    def rotations(self, theta: Float[Tensor, "k unknowns"]) -> Float[Tensor, "k r r"]:
        """The antisymmetric A with these entries above their diagonals."""
        r = self.waves.shape[1]
        A = theta.new_zeros(len(theta), r, r)
        A[:, self.places[0], self.places[1]] = theta
        return A - A.mT

    def spectrum(self) -> tuple[Float[Tensor, " unknowns"], Float[Tensor, "unknowns unknowns"]]:
        """Eigenvalues, which noise makes negative as often as not where nothing is broken, and eigenvectors in rows."""
        i, j = self.places
        first, second = (self.waves[:, i] * moment[:, j] - self.waves[:, j] * moment[:, i] for moment in self.moments)
        form = first.mT @ second
        values, vectors = torch.linalg.eigh(form + form.mT)
        return values, vectors.mT


@dataclass(frozen=True, eq=False)
class Rotations:
    """Those of white coordinates, in rows from the least broken to the most, as one part of the samples sees them."""

    white: White
    space: tuple[int, ...]
    form: RotationForm
    values: Float[Tensor, " unknowns"]
    rows: Float[Tensor, "unknowns unknowns"]

    @classmethod
    def of(cls, X: Float[Tensor, "n d"], white: White, space: tuple[int, ...], seed: int = 0) -> Rotations:
        form = RotationForm(white.coordinates(X), seed)
        return cls(white, space, form, *form.spectrum())

    @property
    def unbroken(self) -> int:
        """How many are broken by no more than noise may do."""
        return int((self.values <= CLEARLY * (-self.values[0]).clamp(min=0)).sum())

    def family(self, chosen: Tensor | slice) -> LowRank:
        """The generators right^T A left of some of them."""
        rotations = self.form.rotations(self.rows[chosen])
        down = self.white.left.expand(len(rotations), -1, -1)
        return LowRank(self.white.right.mT @ rotations, down, space=self.space, learnable=False)
