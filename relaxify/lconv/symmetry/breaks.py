"""How much each generator is broken: E[D_A g(z)] for harmonics g, its scatter, and what break would have been seen.

p is kept by exp(tA) iff E[D_A g] = 0 for all g, D_A g = grad g . A z. If p = q (1 + delta) with q kept, this mean is
E_q[delta D_A g]: it sees the modulation delta along the orbits. Of features with covariance S the sum of squared means is by
chance chi^2 of (tr S)^2 / tr S^2 degrees of freedom, in units of tr S^2 / tr S (Satterthwaite). A modulation of rms size
epsilon in the features' span adds, on average over its patterns, the non-centrality n epsilon^2.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import scipy.special
import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.lconv.symmetry.rows import Kinds, some

# one in so many of them is of the largest norm
FAR_SHARE = 3
# harmonics are of size 1: their variances below this are zero
ROUNDING = 1e-20


@dataclass(frozen=True)
class Broken:
    """A sum of squares that is chi^2 of so many degrees of freedom where the symmetry is kept."""

    degree: int
    value: float
    freedom: float
    samples: float

    @classmethod
    def of(cls, degree: int, means: Float[Tensor, " f"], rows: Float[Tensor, "m f"], samples: float) -> Broken:
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
    """Samples that stand for all, with weights of mean 1: those of the largest norm, which heavy tails need, and others.

    None is a copy of another. What is there c times counts c^2 times in the scatter, and the means' is that of `samples`
    independent ones.
    """

    chosen: Int[Tensor, " m"]
    weights: Float[Tensor, " m"]
    samples: float

    @classmethod
    def of(cls, z: Float[Tensor, "n *d"], count: int, kinds: Kinds | None = None) -> Scatter:
        if kinds is not None:
            found = cls.of(z[kinds.first], count)
            weights = found.weights * kinds.counts[found.chosen].square()
            return cls(kinds.first[found.chosen], weights / weights.mean(), kinds.effective)
        n = len(z)
        if n <= count:
            return cls(torch.arange(n), torch.ones(n, dtype=z.dtype), n)
        order = z.flatten(1).square().sum(1).argsort(descending=True)
        far, rest = order[: count // FAR_SHARE], order[count // FAR_SHARE :].sort().values
        rest = rest[some(len(rest), count - len(far))]
        weights = torch.cat([torch.ones(len(far)), torch.full((len(rest),), (n - len(far)) / len(rest))]).to(z)
        return cls(torch.cat([far, rest]), weights / weights.mean(), n)

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
    scatter: Scatter

    @functools.cached_property
    def noise(self) -> Float[Tensor, "k k"]:
        """E of (means^T means) by chance."""
        flat = self.rows.flatten(0, 1)
        return flat.mT @ flat / (len(self.rows) * self.scatter.samples)

    def broken(self, directions: Float[Tensor, "k j"]) -> Broken:
        """How much the span of these generators is, together."""
        means = (self.means @ directions).flatten()
        return Broken.of(self.degree, means, (self.rows @ directions).flatten(1), self.scatter.samples)


def noncentrality(freedom: float, level: float, power: float) -> float:
    """Of chi^2, for a test at a level to have this power.

    >>> round(noncentrality(1.0, 0.05, 0.8), 2)
    7.85
    """
    threshold = 2 * float(scipy.special.gammainccinv(freedom / 2, level))
    return float(scipy.special.chndtrinc(threshold, freedom, 1 - power))
