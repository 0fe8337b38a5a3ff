"""What is known of samples and moved samples, in components: which belongs to which (pairs), or only which class each is of.

Either fits the linear map M that takes one to the other, says how far M misses, and makes of itself what chance would be:
shuffled, so that nothing is related; and with some of both exchanged, so that nothing has moved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.lconv.symmetry.moments import roots

# numbers in a sample of which all components are looked at; of larger ones some are left out, and what flows in from
# these is taken for noise of so much of the mean variance
FEW, LEFT_OUT = 24, 0.03
SMALLEST = 1e-9
STEPS = 100


@runtime_checkable
class Related(Protocol):
    """Samples of both kinds, each in the r components of a basis."""

    @property
    def basis(self) -> Float[Tensor, "r d"]: ...
    @property
    def x(self) -> Float[Tensor, "n r"]: ...

    def fit(self, rank: int) -> Float[Tensor, "rank rank"]:
        """The map of the first `rank` components."""

    def error(self, M: Float[Tensor, "rank rank"]) -> float:
        """How far it misses, with the other components left as they are."""

    def shuffled(self, random: torch.Generator) -> Related:
        """Without the relation."""

    def exchanged(self, random: torch.Generator) -> Related:
        """With some of each taken for the other."""

    def split(self, share: float, random: torch.Generator) -> tuple[Related, Related]:
        """A random part of it, and the rest."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Each row of y is what the same row of x has become."""

    basis: Float[Tensor, "r d"]
    x: Float[Tensor, "n r"]
    y: Float[Tensor, "n r"]

    def fit(self, rank: int) -> Float[Tensor, "rank rank"]:
        white = _White.of(self.x[:, :rank], self.y[:, :rank], self.basis.shape[1])
        x, y = white.coordinates(self.x[:, :rank], self.y[:, :rank])
        return white.map(_nearest_rotation(y.mT @ x))

    def error(self, M: Float[Tensor, "rank rank"]) -> float:
        return float((self.y - _moved(self.x, M)).square().sum(1).mean())

    def shuffled(self, random: torch.Generator) -> Pairs:
        return replace(self, y=self.y[torch.randperm(len(self.y), generator=random)])

    def exchanged(self, random: torch.Generator) -> Pairs:
        swapped = torch.rand(len(self.x), 1, generator=random) < 0.5
        return replace(self, x=torch.where(swapped, self.y, self.x), y=torch.where(swapped, self.x, self.y))

    def split(self, share: float, random: torch.Generator) -> tuple[Pairs, Pairs]:
        first, rest = (replace(self, x=self.x[i], y=self.y[i]) for i in _divided(len(self.x), share, random))
        return first, rest


@dataclass(frozen=True, eq=False)
class Classes:
    """Samples of a class in x have become samples of that class in y: means and covariances of classes are compared."""

    basis: Float[Tensor, "r d"]
    x: Float[Tensor, "n r"]
    y: Float[Tensor, "m r"]
    of_x: Int[Tensor, " n"]
    of_y: Int[Tensor, " m"]

    def fit(self, rank: int) -> Float[Tensor, "rank rank"]:
        white = _White.of(self.x[:, :rank], self.y[:, :rank], self.basis.shape[1])
        x, y = white.coordinates(self.x[:, :rank], self.y[:, :rank])
        return white.map(_aligned(_Moments.of(x, self.of_x), _Moments.of(y, self.of_y)))

    def error(self, M: Float[Tensor, "rank rank"]) -> float:
        came, went = _Moments.of(_moved(self.x, M), self.of_x), _Moments.of(self.y, self.of_y)
        size = self.y.square().sum(1).mean()
        means = (came.means - went.means).square().sum(1) / size
        covariances = (came.covariances - went.covariances).square().sum((1, 2)) / size.square()
        return float((means + covariances).mean())

    def shuffled(self, random: torch.Generator) -> Classes:
        return replace(self, of_y=self.of_y[torch.randperm(len(self.y), generator=random)])

    def exchanged(self, random: torch.Generator) -> Classes:
        both, classes = torch.cat([self.x, self.y]), torch.cat([self.of_x, self.of_y])
        order = torch.argsort(classes + torch.rand(len(classes), generator=random))
        mixed = torch.empty_like(both)
        mixed[torch.argsort(classes, stable=True)] = both[order]
        n = len(self.x)
        return replace(self, x=mixed[:n], y=mixed[n:])

    def split(self, share: float, random: torch.Generator) -> tuple[Classes, Classes]:
        xs, ys = _divided(len(self.x), share, random), _divided(len(self.y), share, random)
        parts = ((self.x[i], self.y[j], self.of_x[i], self.of_y[j]) for i, j in zip(xs, ys, strict=True))
        first, rest = (Classes(self.basis, *part) for part in parts)
        return first, rest


@dataclass(frozen=True, eq=False)
class _White:
    """The roots of the second moments of both."""

    inverse_x: Float[Tensor, "r r"]
    root_y: Float[Tensor, "r r"]
    inverse_y: Float[Tensor, "r r"]

    @classmethod
    def of(cls, x: Tensor, y: Tensor, size: int) -> _White:
        ridge = SMALLEST if size <= FEW else LEFT_OUT
        (_, inverse_x), (root_y, inverse_y) = (_roots(each, ridge) for each in (x, y))
        return cls(inverse_x, root_y, inverse_y)

    def coordinates(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x @ self.inverse_x, y @ self.inverse_y

    def map(self, rotation: Float[Tensor, "r r"]) -> Float[Tensor, "r r"]:
        return self.root_y @ rotation @ self.inverse_x


@dataclass(frozen=True, eq=False)
class _Moments:
    means: Float[Tensor, "k r"]
    covariances: Float[Tensor, "k r r"]

    @classmethod
    def of(cls, z: Float[Tensor, "n r"], classes: Int[Tensor, " n"]) -> _Moments:
        parts = [z[classes == c] for c in range(int(classes.max()) + 1)]
        means = torch.stack([part.mean(0) for part in parts])
        covariances = [(part - mean).mT @ (part - mean) / len(part) for part, mean in zip(parts, means, strict=True)]
        return cls(means, torch.stack(covariances))


def _aligned(x: _Moments, y: _Moments) -> Float[Tensor, "r r"]:
    """The rotation R with the largest sum_c 2 m'_c . R m_c + <R D_c R^T, D'_c>, D what is a class's own of covariances."""
    own_x, own_y = (each.covariances - each.covariances.mean(0) for each in (x, y))
    # makes the sum convex, so that each step to the rotation nearest its gradient goes up
    shift = (torch.linalg.matrix_norm(own_x, 2) * torch.linalg.matrix_norm(own_y, 2)).sum()
    means = y.means.mT @ x.means

    def gradient(R: Tensor) -> Tensor:
        return means + (own_y @ R @ own_x).sum(0)

    def climbed(R: Tensor) -> tuple[float, Tensor]:
        for _ in range(STEPS):
            R = _nearest_rotation(gradient(R) + shift * R)
        return float(((means + gradient(R)) * R).sum()), R

    starts = torch.eye(len(means), dtype=means.dtype), _nearest_rotation(means)
    return max((climbed(start) for start in starts), key=lambda found: found[0])[1]


def _nearest_rotation(matrix: Float[Tensor, "r r"]) -> Float[Tensor, "r r"]:
    u, _, vh = torch.linalg.svd(matrix)
    return u @ vh


def _roots(z: Float[Tensor, "n r"], ridge: float) -> tuple[Tensor, Tensor]:
    H = z.mT @ z / len(z)
    return roots(H + (ridge * H.trace() / len(H) + 1e-300) * torch.eye(len(H), dtype=H.dtype))


def _moved(x: Float[Tensor, "n r"], M: Float[Tensor, "rank rank"]) -> Float[Tensor, "n r"]:
    return torch.cat([x[:, : len(M)] @ M.mT, x[:, len(M) :]], 1)


def _divided(count: int, share: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(count, generator=random)
    return order[: int(share * count)], order[int(share * count) :]
