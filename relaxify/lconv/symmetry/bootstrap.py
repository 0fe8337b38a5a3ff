"""Whether a distribution has a symmetry that its second moments allow: what the moments of every order say.

p is invariant under exp(tL) iff its characteristic function is: E[e^(i w.x) w . L x] = 0 for all w. With labels,
f(x) = E[y|x] turns along iff E[e^(i w.x) (L_c y + i y (w . L x))] = 0. Second moments are the part of this at small w. Both
are estimated at random w in whitened coordinates, and the bootstrap says how far from zero they are by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.moments import Regression, SecondMoments, regression
from relaxify.lconv.symmetry.subspaces import overlap

FREQUENCIES = 48
LARGEST_SAMPLE = 4000
LARGEST_ALGEBRA = 120


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Standardised statistics of each generator and how they scatter over resamplings of the data.

    `statistics` is (tests, k), `scatter` (resamplings, tests, k) about them. `noise` is the mean standard error of the raw
    statistics times sqrt(d), as a generator of unit norm moves x by 1 / sqrt(d) of its length. `confidence_angle` is the
    95 % quantile of the largest angle between the algebra and a resampling's.
    """

    statistics: Float[Tensor, "tests k"]
    scatter: Float[Tensor, "resamplings tests k"]
    noise: float
    confidence_angle: float

    def p_value(self, directions: Float[Tensor, "k j"]) -> float:
        """How often chance alone breaks the subalgebra of these directions as much as the data do."""
        seen = (self.statistics @ directions).square().sum()
        chance = (self.scatter @ directions).square().sum((1, 2))
        return float(((chance >= seen).sum() + 1) / (len(chance) + 1))

    def kept(self, level: float) -> Float[Tensor, "k j"]:
        """The most directions that the data do not reject at a level, as orthonormal columns."""
        directions = torch.linalg.svd(self.statistics, full_matrices=True).Vh.flip(0).mT
        for j in range(directions.shape[1], 0, -1):
            if self.p_value(directions[:, :j]) > level:
                return directions[:, :j]
        return directions[:, :0]


def bootstrap(
    X: Float[Tensor, "n d"], Y: Float[Tensor, "n c"] | None, fit: Regression, *, resamplings: int, seed: int
) -> Bootstrap:
    """The statistics of the samples, and of multinomial resamplings: each is whitened and solves Theorem 1 anew."""
    random, samples = torch.Generator().manual_seed(seed), len(X)
    if len(X) > LARGEST_SAMPLE:
        chosen = torch.randperm(len(X), generator=random)[:LARGEST_SAMPLE]
        X, Y = X[chosen], None if Y is None else Y[chosen]
    d = X.shape[1]
    frequencies = torch.randn(FREQUENCIES, d, generator=random, dtype=X.dtype)
    # lengths from 0.5 to 2 see moments of low and of higher order
    frequencies = frequencies / frequencies.norm(dim=1, keepdim=True) * torch.linspace(0.5, 2, FREQUENCIES)[:, None].to(X)
    Y = None if Y is None else Y / Y.square().mean().sqrt().clamp(min=1e-300)
    center = _aligned(X, Y, None, fit)
    raw = _statistics(X, Y, None, center, frequencies)
    drawn, angles = [], []
    for _ in range(resamplings):
        weights = torch.bincount(torch.randint(len(X), (len(X),), generator=random), minlength=len(X)).to(X)
        again = _aligned(X, Y, weights, center)
        drawn.append(_statistics(X, Y, weights, again, frequencies))
        angles.append(max(overlap(again.generators, fit.generators).angles, default=0.0))
    scatter = torch.stack(drawn) - raw
    # one scale for all generators, so that combinations of them stay what they are
    error = scatter.square().mean((0, 2)).sqrt().clamp(min=1e-12)[:, None]
    # fewer samples than there are scatter more
    angle = float(torch.tensor(angles).quantile(0.95)) * (len(X) / samples) ** 0.5
    return Bootstrap(raw / error, scatter / error, float(error.mean()) * d**0.5, angle)


def _aligned(X: Tensor, Y: Tensor | None, weights: Tensor | None, like: Regression) -> Regression:
    """Theorem 1 on weighted samples, in the basis that is nearest to another solution's."""
    fit = regression(SecondMoments.of(X, Y, weights), rank=like.rank)
    u, _, vh = torch.linalg.svd(like.whitened.flatten(1) @ fit.whitened.flatten(1).mT)
    return fit.combined((u @ vh).mT)


def _statistics(
    X: Tensor, Y: Tensor | None, weights: Tensor | None, fit: Regression, frequencies: Float[Tensor, "r d"]
) -> Float[Tensor, "tests k"]:
    """Real and imaginary parts for every frequency (and label), one column a generator."""
    share = X.new_full((len(X),), 1 / len(X)) if weights is None else weights / weights.sum()
    z = X @ fit.inverse_root
    wave = torch.exp(1j * (z @ frequencies.mT)) * share[:, None]
    moments = wave.mT @ z.to(wave.dtype)
    generators = fit.whitened.to(wave.dtype)
    own = torch.einsum("ra,kab,rb->rk", frequencies.to(wave.dtype), generators, moments)
    tests = [own.real, own.imag]
    if Y is not None and fit.outputs is not None:
        labelled = torch.einsum("nr,nc,na->rca", wave, Y.to(wave.dtype), z.to(wave.dtype))
        values = wave.mT @ Y.to(wave.dtype)
        turned = 1j * torch.einsum("ra,kab,rcb->rck", frequencies.to(wave.dtype), generators, labelled)
        turned = (turned + torch.einsum("kcb,rb->rck", fit.outputs.to(wave.dtype), values)).flatten(0, 1)
        tests += [turned.real, turned.imag]
    return torch.cat(tests)
