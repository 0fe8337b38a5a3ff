"""How much a distribution drifts along flows, as test functions see it on samples that had no say in choosing them.

p is kept by exp(tL) iff E[grad g . L x] = 0 for every g. The largest of these drifts, over all g of variance one, is the
root of the Fisher information that a sample holds about t. Time is counted such that in a unit of it the flow moves what is
seen of a sample by the sample's own deviation, so that the drift has no unit: 1 where a turn that makes a sample another one
makes the distribution another one as well, 0 for a symmetry. The quadratic form on generators is
sum_g E_1[grad g . L x] E_2[grad g . L x], g orthonormal, with E_1 and E_2 over two halves of the samples, so that noise has
mean zero in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST_KEPT = 0.3
"""A drift below this counts as kept: interpolation alone makes 0.1 of it where images have 8 x 8 pixels."""

POWER = 0.95

# of the largest variance: directions of what is seen below it hold rounding and pixel noise
SMALLEST_VARIANCE = 1e-3

CHUNK = 2048
SIMULATIONS = 400


@dataclass(frozen=True, eq=False)
class Seen:
    """Projections of samples, white, and the rates at which k flows move them; labels, if any, in columns."""

    values: Float[Tensor, "n r"]
    rates: Float[Tensor, "n r k"]
    labels: Float[Tensor, "n c"] | None = None

    @classmethod
    def of(cls, values: Tensor, rates: Tensor, labels: Tensor | None = None) -> Seen:
        """Whitened: what varies little is left out."""
        variances, directions = torch.linalg.eigh(torch.cov(values.mT).reshape(values.shape[1], -1))
        kept = variances > SMALLEST_VARIANCE * variances[-1]
        white = directions[:, kept] / variances[kept].sqrt()
        return cls((values - values.mean(0)) @ white, torch.einsum("nrk,rs->nsk", rates, white), labels)

    def along(self, directions: Float[Tensor, "k j"]) -> Seen:
        """With these combinations of the flows instead."""
        return Seen(self.values, self.rates @ directions, self.labels)

    @property
    def movement(self) -> Float[Tensor, "k k"]:
        """How much the flows move what is seen, as a metric on generators: the mean of its squared rates."""
        flat = self.rates.flatten(0, 1)
        return flat.mT @ flat / len(flat)


class ProbeFunctions:
    """g(z) = z_i, z_i z_j and cos(w.z + a) of white projections z, with labels each also times a random one of these."""

    def __init__(self, seen: Seen, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        n, r = seen.values.shape
        count = min(100, max(16, n // 25))
        self.pairs = torch.randint(r, (2, count), generator=random)
        waves = torch.nn.functional.normalize(torch.randn(r, count, generator=random, dtype=torch.float64), dim=0)
        self.waves = waves * (0.5 + 2 * torch.rand(count, generator=random, dtype=torch.float64))
        self.phases = 2 * math.pi * torch.rand(count, generator=random, dtype=torch.float64)
        self.weights: Tensor | None = None
        if seen.labels is not None:
            self.weights = torch.randn(seen.labels.shape[1], r + 2 * count, generator=random, dtype=torch.float64)

    def __call__(self, seen: Seen) -> tuple[Float[Tensor, "n g"], Float[Tensor, "n g k"]]:
        """The functions and their rates."""
        z, dz = seen.values, seen.rates
        (i, j), angle = self.pairs, z @ self.waves + self.phases
        values = torch.cat([z, z[:, i] * z[:, j], angle.cos()], 1)
        turning = torch.einsum("nrk,rw->nwk", dz, self.waves)
        products = dz[:, i] * z[:, j, None] + z[:, i, None] * dz[:, j]
        rates = torch.cat([dz, products, -angle.sin()[..., None] * turning], 1)
        if self.weights is None or seen.labels is None:
            return values, rates
        weights = seen.labels @ self.weights
        return torch.cat([values, values * weights], 1), torch.cat([rates, rates * weights[..., None]], 1)


@dataclass(frozen=True, eq=False)
class Half:
    """Moments of one half of the samples: E[g g'] about the mean, E[rates], and E[rate rate'] averaged over the flows."""

    count: int
    covariance: Float[Tensor, "g g"]
    drift: Float[Tensor, "g k"]
    scatter: Float[Tensor, "g g"]

    @property
    def metric(self) -> Float[Tensor, "g g"]:
        """The covariance, and what sampling noise there is in functions that change fast, so that they have little say."""
        noise = self.scatter * (len(self.scatter) / (self.count * LARGEST_KEPT**2))
        return self.covariance + noise + 1e-9 * torch.eye(len(noise), dtype=noise.dtype)


@dataclass(frozen=True)
class Drift:
    """Of one direction: its estimate on held-out samples, and the standard error."""

    value: float
    error: float

    def kept(self, deviations: float) -> bool:
        """Whether it is surely below what counts as kept."""
        return self.value + deviations * self.error < LARGEST_KEPT

    def broken(self, deviations: float) -> bool:
        """Whether it is surely above."""
        return self.value - deviations * self.error > LARGEST_KEPT


class Drifts:
    """The drifts of a distribution along k flows, by functions that each half of the samples chooses for the other."""

    def __init__(self, seen: Seen, seed: int = 0) -> None:
        self.seen, self.functions = seen, ProbeFunctions(seen, seed)
        order = torch.randperm(len(seen.values), generator=torch.Generator().manual_seed(seed))
        self.halves = order[::2], order[1::2]
        self.moments = [self._moments(half) for half in self.halves]

    def _chunks(self, half: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for part in half.split(CHUNK):
            labels = None if self.seen.labels is None else self.seen.labels[part]
            yield self.functions(Seen(self.seen.values[part], self.seen.rates[part], labels))

    def _moments(self, half: Tensor) -> Half:
        total, square, drift, scatter = (torch.zeros((), dtype=torch.float64) for _ in range(4))
        for values, rates in self._chunks(half):
            total, drift = total + values.sum(0), drift + rates.sum(0)
            square = square + values.mT @ values
            flat = rates.transpose(0, 1).flatten(1)
            scatter = scatter + flat @ flat.mT
        n, k = len(half), self.seen.rates.shape[2]
        mean = total / n
        return Half(n, square / n - torch.outer(mean, mean), drift / n, scatter / (n * k))

    @property
    def information(self) -> Float[Tensor, "k k"]:
        """The quadratic form on the flows' span, whose values are squared drifts."""
        first, second = self.moments
        form = first.drift.mT @ torch.linalg.solve((first.metric + second.metric) / 2, second.drift)
        return (form + form.mT) / 2

    def along(self, directions: Float[Tensor, "k j"]) -> list[Drift]:
        """Of each direction, with the function of the other half under which it drifts most."""
        collected = []
        for half, own, other in zip(self.halves, self.moments, reversed(self.moments), strict=True):
            clocks = torch.linalg.solve(other.metric, other.drift @ directions)
            deviation = (clocks * (own.covariance @ clocks)).sum(0).clamp(min=1e-300).sqrt()
            rates = [torch.einsum("ngk,gj,kj->nj", rates, clocks, directions) for _, rates in self._chunks(half)]
            collected.append(torch.cat(rates) / deviation)
        rates_of_all = torch.cat(collected)
        errors = rates_of_all.std(0) / math.sqrt(len(rates_of_all))
        return [Drift(float(v), float(e)) for v, e in zip(rates_of_all.mean(0), errors, strict=True)]

    def smallest_visible(self, deviations: float, samples: int | None = None) -> float:
        """The least drift that so many samples would show as above zero, with probability POWER, by simulation.

        The drift is along a random function in the span of all.
        """
        own = self.moments[0]
        n = samples or len(self.seen.values)
        g, random = len(own.covariance), torch.Generator().manual_seed(0)
        draw = torch.randn(3, SIMULATIONS, g, generator=random, dtype=torch.float64)
        root, noise = (_root(matrix) for matrix in (own.covariance, own.scatter))
        drifts = torch.nn.functional.normalize(draw[0], dim=1) @ root.mT
        errors = draw[1] @ noise.mT / math.sqrt(n / 2)
        metric = Half(n // 2, own.covariance, own.drift, own.scatter).metric

        def shown(size: float) -> bool:
            clocks = torch.linalg.solve(metric, (size * drifts + errors).mT)
            error = (clocks * (own.scatter @ clocks)).sum(0).sqrt() / math.sqrt(n)
            scores = (clocks * (size * drifts).mT).sum(0) / error + draw[2, :, 0]
            return float(scores.quantile(1 - POWER)) > deviations

        return _least(shown, 1e-3, 64.0)


def _root(matrix: Float[Tensor, "g g"]) -> Float[Tensor, "g g"]:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt()


def _least(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest number for which a property holds that holds above it, to three per cent."""
    while high / low > 1.03:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
