"""How much each generator is broken: E[D_A g(z)] for harmonics g, its scatter, and what break would have been seen.

p is kept by exp(tA) iff E[D_A g] = 0 for all g, D_A g = grad g . A z. If p = q (1 + delta) with q kept, this mean is
E_q[delta D_A g]: it sees the modulation delta along the orbits. Of features with covariance S the sum of squared means is by
chance chi^2 of (tr S)^2 / tr S^2 degrees of freedom, in units of tr S^2 / tr S (Satterthwaite). A modulation of rms size
epsilon in the features' span adds, on average over its patterns, the non-centrality n epsilon^2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import scipy.special
import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.lconv.symmetry.harmonics import Harmonics

CHUNK = 4096
SMALLEST_SCATTER_SAMPLE, LARGEST_SCATTER_SAMPLE = 60, 600
# one in so many of them is of the largest norm
FAR_SHARE = 3
# numbers in the scatter of one family
LARGEST = 2**23
# coordinates of the vectors that are looked at together, and how often some of them are chosen
LARGEST_VIEW, MOST_VIEWS = 10, 3
SMALLEST_PRODUCT = 1e-6
# harmonics are of size 1: their variances below this are zero
ROUNDING = 1e-20


@dataclass(frozen=True)
class Broken:
    """A sum of squares that is chi^2 of so many degrees of freedom where the symmetry is kept."""

    degree: int
    value: float
    freedom: float
    samples: int

    @classmethod
    def of(cls, degree: int, means: Float[Tensor, " f"], rows: Float[Tensor, "m f"], samples: int) -> Broken:
        """The sum of squared means of features, with the deviations of some of the samples that they are means of."""
        m, norms = len(rows), rows.square().sum(1)
        products = rows.mT @ rows if rows.shape[1] < m else rows @ rows.mT
        trace = float(norms.mean())
        # without a sample's products with itself, which count too much where these are few
        squared = float((products.square().sum() - norms.square().sum()) / (m * (m - 1)))
        scale = max(squared / max(trace, ROUNDING), ROUNDING)
        return cls(degree, samples * float(means.square().sum()) / scale, max(trace / scale, 1.0), samples)

    @property
    def p_value(self) -> float:
        return float(scipy.special.gammaincc(self.freedom / 2, self.value / 2))

    @property
    def size(self) -> float:
        """The rms modulation that the data show, without what chance adds: 0 if nothing."""
        return math.sqrt(max(0.0, self.value - self.freedom) / self.samples)

    def smallest(self, level: float, power: float) -> float:
        """The rms modulation that is rejected at a level with a probability of `power`."""
        return math.sqrt(noncentrality(self.freedom, level, power) / self.samples)


@dataclass(frozen=True, eq=False)
class Scatter:
    """Samples that stand for all, with weights of mean 1: those of the largest norm, which heavy tails need, and others."""

    chosen: Int[Tensor, " m"]
    weights: Float[Tensor, " m"]

    @classmethod
    def of(cls, z: Float[Tensor, "n *d"], count: int) -> Scatter:
        n = len(z)
        if n <= count:
            return cls(torch.arange(n), torch.ones(n, dtype=z.dtype))
        order = z.flatten(1).square().sum(1).argsort(descending=True)
        far, rest = order[: count // FAR_SHARE], order[count // FAR_SHARE :].sort().values
        rest = rest[:: -(-len(rest) // (count - len(far)))]
        weights = torch.cat([torch.ones(len(far)), torch.full((len(rest),), (n - len(far)) / len(rest))]).to(z)
        return cls(torch.cat([far, rest]), weights / weights.mean())

    def deviations(self, rows: Float[Tensor, "m *f"]) -> Float[Tensor, "m *f"]:
        """From the weighted mean, times the roots of the weights."""
        weights = self.weights.reshape(-1, *[1] * (rows.dim() - 1))
        return (rows - (weights * rows).mean(0)) * weights.sqrt()


@dataclass(frozen=True, eq=False)
class Family:
    """Harmonics of one degree in one window of the radius: means and scatter of D_A g, for a basis of k generators A.

    `means` is (r, k), `rows` (m, r, k) the deviations of the samples of `scatter`, times the roots of their weights, with
    what the estimated second moments add to them.
    """

    degree: int
    means: Float[Tensor, "r k"]
    rows: Float[Tensor, "m r k"]
    samples: int
    scatter: Scatter

    @functools.cached_property
    def noise(self) -> Float[Tensor, "k k"]:
        """E of (means^T means) by chance."""
        flat = self.rows.flatten(0, 1)
        return flat.mT @ flat / (len(self.rows) * self.samples)

    def broken(self, directions: Float[Tensor, "k j"]) -> Broken:
        """How much the span of these generators is, together."""
        means = (self.means @ directions).flatten()
        return Broken.of(self.degree, means, (self.rows @ directions).flatten(1), self.samples)


def noncentrality(freedom: float, level: float, power: float) -> float:
    """Of chi^2, for a test at a level to have this power.

    >>> round(noncentrality(1.0, 0.05, 0.8), 2)
    7.85
    """
    threshold = 2 * float(scipy.special.gammainccinv(freedom / 2, level))
    return float(scipy.special.chndtrinc(threshold, freedom, 1 - power))


def families(z: Float[Tensor, "n m d"], basis: Float[Tensor, "k d d"], *, centred: bool, seed: int) -> tuple[Family, ...]:
    """Of samples of m whitened vectors on which the generators act alike, some of them at a time."""
    random = torch.Generator().manual_seed(seed)
    return tuple(
        family
        for mixture in views(z, random)
        for family in _of_view(
            torch.einsum("pm,nmd->npd", mixture, z), z, basis, mixture.sum(1) if centred else None, random
        )
    )


def views(z: Float[Tensor, "n m d"], random: torch.Generator) -> list[Float[Tensor, "p m"]]:
    """Mixtures of few vectors, uncorrelated with each other: of all of them, or of some chosen by chance."""
    m, d = z.shape[1:]
    few = min(m, max(2, LARGEST_VIEW // d))
    chosen = [torch.randperm(m, generator=random)[:few] for _ in range(1 if few == m else MOST_VIEWS)]
    products = torch.einsum("nud,nvd->uv", z, z) / (len(z) * d)
    return [_uncorrelated(products[some][:, some]) @ torch.eye(m, dtype=z.dtype)[some] for some in chosen]


def _uncorrelated(products: Float[Tensor, "m m"]) -> Float[Tensor, "p m"]:
    values, vectors = torch.linalg.eigh(products)
    kept = values > SMALLEST_PRODUCT * values[-1]
    whole = (vectors[:, kept] / values[kept].sqrt()).mT
    return vectors @ whole if bool(kept.all()) else whole


def _of_view(
    y: Float[Tensor, "n p d"], z: Tensor, basis: Tensor, shift: Float[Tensor, " p"] | None, random: torch.Generator
) -> Iterator[Family]:
    n, p, d = y.shape
    harmonics = Harmonics.on(p * d, random)
    sums: dict[tuple[int, int], Tensor] = {}
    for chunk in y.split(CHUNK):
        u, _, windows = polar(chunk)
        for degree, _, slope in harmonics.of(u):
            for window, (weight, _) in enumerate(windows):
                sums[degree, window] = sums.get((degree, window), 0) + (weight * slope).mT @ u
    count = max(SMALLEST_SCATTER_SAMPLE, min(LARGEST_SCATTER_SAMPLE, LARGEST // (len(harmonics.directions) * len(basis))))
    scatter = Scatter.of(z, count)
    a = harmonics.directions.reshape(-1, p, d)
    for key, rows in _rows(y[scatter.chosen], z[scatter.chosen], scatter, harmonics, basis, shift):
        combine, moved = harmonics.combine[key[0]], sums[key].reshape(-1, p, d) / n
        matrices = torch.einsum("jpa,jpb->jab", a[: len(moved)], moved)
        means = combine.mT @ torch.einsum("jab,kab->jk", matrices, basis)
        yield Family(key[0], means, rows, n, scatter)


def polar(y: Float[Tensor, "n p d"]) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Direction, radius, and windows with r times their slope: far samples say most of tails, near ones of holes."""
    v = y.flatten(1)
    square = v.square().sum(1, keepdim=True).clamp(min=1e-300)
    far = square.square() / (square.square() + v.shape[1] ** 2)
    slope = 4 * far * (1 - far)
    return v / square.sqrt(), square.sqrt(), [(1 - far, -slope), (far, slope)]


def _rows(
    y: Float[Tensor, "n p d"],
    z: Float[Tensor, "n m d"],
    scatter: Scatter,
    harmonics: Harmonics,
    basis: Tensor,
    shift: Tensor | None,
) -> Iterator[tuple[tuple[int, int], Float[Tensor, "n r k"]]]:
    """D_A g of each sample, and its share in the error of the whitening, E[D_[A, S] g] for S = -(z z^T - 1) / 2.

    As [A, S] is symmetric this is -(N z) . A z, N the symmetric part of E[grad g y^T]. That of the mean is -E[grad g] . A z.
    """
    u, radius, windows = polar(y)
    split, a = u.reshape(y.shape), harmonics.directions.reshape(-1, *y.shape[1:])
    turned = torch.einsum("jpa,kab,npb->njk", a, basis, split)
    acted, weights = torch.einsum("kab,nmb->nmka", basis, z) / z.shape[1], scatter.weights[:, None]
    for degree, value, slope in harmonics.of(u):
        near, combine = a[: slope.shape[1]], harmonics.combine[degree]
        along = slope * (u @ near.flatten(1).mT)
        for window, (weight, radial) in enumerate(windows):
            # grad g = (inside u + outside a) / r
            outside, inside = weight * slope, radial * value - weight * along
            own = torch.einsum("nj,npa,npb->jab", weights * inside, split, split)
            own = (own + torch.einsum("jpa,jpb->jab", near, ((weights * outside).mT @ u).reshape(near.shape))) / len(y)
            rows = outside[..., None] * turned[:, : len(near)]
            rows = torch.einsum("njk,jr->nrk", rows, combine)
            bent = torch.einsum("jr,jab->rab", combine, own + own.mT) / 2
            rows -= torch.einsum("nmra,nmka->nrk", torch.einsum("rab,nmb->nmra", bent, z), acted)
            if shift is not None:
                slopes = torch.einsum("nj,npa->jpa", weights * inside / radius, split)
                slopes = slopes + (weights * outside / radius).sum(0)[:, None, None] * near
                pull = torch.einsum("jr,jpa,p->ra", combine, slopes, shift) / len(y)
                rows -= torch.einsum("ra,nmka->nrk", pull, acted)
            yield (degree, window), scatter.deviations(rows)
