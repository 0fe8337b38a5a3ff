"""Whether a distribution keeps rotations at every angular frequency: clusters on a ring look round to low ones.

In whitened coordinates z = r u, |u| = 1, an algebra of rotations is kept iff E[h(r) P_k'(u.a) a.A u] = 0 for each of its
generators A, all degrees k and directions a: these are the Lie derivatives of the zonal functions h(r) P_k(u.a), with P_k
the Gegenbauer polynomials (in the plane cos k phi). With labels y that turn by L_c along, E[h P_k' (a.A u) y + h P_k L_c y]
is 0. Each is a mean over samples, so that resamplings are one matrix product; the degree that stands out most is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.harmonics import gegenbauer
from relaxify.lconv.symmetry.moments import Regression

LOWEST, HIGHEST = 3, 16
RESAMPLINGS = 999
LARGEST_SAMPLE = 4000
# numbers kept for all samples together
LARGEST = 2**24
MOST_DIRECTIONS = 16


@dataclass(frozen=True)
class Angular:
    """How often chance alone gives a degree that stands out as much, and how much each degree does, in its own scatter."""

    p_value: float
    scores: dict[int, float]

    @property
    def degree(self) -> int:
        """The one that stands out most."""
        return max(self.scores, key=self.scores.__getitem__)


def angular(X: Float[Tensor, "n d"], Y: Float[Tensor, "n c"] | None, fit: Regression, *, seed: int) -> Angular:
    """Whether the algebra of the fit's generators is kept by the distribution that samples are from.

    >>> from relaxify.lconv.symmetry.moments import SecondMoments, regression
    >>> X = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> corners = X.sign() + 0.3 * X
    >>> [angular(x, None, regression(SecondMoments.of(x)), seed=0).p_value < 0.01 for x in (X, corners)]
    [False, True]
    """
    if len(X) > LARGEST_SAMPLE:
        X, Y = X[:LARGEST_SAMPLE], None if Y is None else Y[:LARGEST_SAMPLE]
    random = torch.Generator().manual_seed(seed)
    weights = torch.stack(
        [torch.bincount(torch.randint(len(X), (len(X),), generator=random), minlength=len(X)) for _ in range(RESAMPLINGS)]
    ).to(X) / len(X)
    scores, drawn = {}, []
    for degree, terms in _terms(X, Y, fit, random):
        seen = terms.mean(0)
        scatter = weights @ terms - seen
        error = scatter.square().mean().sqrt().clamp(min=1e-300)
        chance = scatter.square().sum(1) / error**2
        centre, width = chance.mean(), chance.std().clamp(min=1e-300)
        scores[degree] = float((seen.square().sum() / error**2 - centre) / width)
        drawn.append((chance - centre) / width)
    largest = torch.stack(drawn).amax(0)
    return Angular(float(((largest >= max(scores.values())).sum() + 1) / (RESAMPLINGS + 1)), scores)


def _terms(X: Tensor, Y: Tensor | None, fit: Regression, random: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    """For each degree what is averaged, one row a sample."""
    z = X @ fit.inverse_root
    radius = z.norm(dim=1, keepdim=True).clamp(min=1e-300)
    u, d = z / radius, z.shape[1]
    columns = len(fit.whitened) * (1 if Y is None else Y.shape[1])
    count = min(MOST_DIRECTIONS, max(2, LARGEST // (len(X) * columns)))
    a = torch.nn.functional.normalize(torch.randn(count, d, generator=random, dtype=X.dtype), dim=1)
    along = u @ a.mT
    turned = torch.einsum("ma,kab,nb->nmk", a, fit.whitened, u)
    # far samples say most of tails, near ones of holes
    window = (radius**4 / (d**2 + radius**4)).expand(-1, count)
    for degree, (value, slope) in enumerate(gegenbauer(along, d, HIGHEST)):
        if degree < LOWEST:
            continue
        terms = (window * slope)[..., None] * turned
        if Y is not None and fit.outputs is not None:
            labels = torch.einsum("kcb,nb->nkc", fit.outputs, Y)[:, None] * (window * value)[..., None, None]
            terms = (terms[..., None] * Y[:, None, None] + labels).flatten(2)
        yield degree, terms.flatten(1)
