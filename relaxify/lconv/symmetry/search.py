"""Which of the generators that second moments allow does a distribution keep: the most that no harmonic sees broken.

Generators are ordered by how much they are broken relative to chance, a generalised eigenproblem; the most of the first that
no family of harmonics rejects are kept, and turned until their brackets stay among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.breaks import Broken, Family

LEVEL, POWER = 0.002, 0.95

# generators among which brackets are closed
LARGEST_CLOSED = 45


@dataclass(frozen=True, eq=False)
class Search:
    """`directions` are generators in the order of their `spectrum`, the first `kept` of which nothing rejects."""

    directions: Float[Tensor, "k k"]
    spectrum: Float[Tensor, " k"]
    kept: int
    families: Sequence[Family]
    chosen: frozenset[int] = frozenset()

    @property
    def level(self) -> float:
        """Of one family, for LEVEL of all together (Bonferroni)."""
        return LEVEL / len(self.families)

    @property
    def span(self) -> Float[Tensor, "k j"]:
        """What is kept."""
        return self.directions[:, : self.kept]

    @property
    def telling(self) -> list[Family]:
        """The families that reject something, by which the directions are ordered."""
        return [self.families[i] for i in sorted(self.chosen)]

    @property
    def highest(self) -> int:
        """The degree up to which harmonics are looked at."""
        return max(family.degree for family in self.families)

    @property
    def rejected(self) -> bool:
        """Whether what is said to be kept is not."""
        return bool(rejecting(self.families, self.span, self.level))

    def of_all(self) -> Search:
        """The same as if everything were kept."""
        return replace(self, directions=torch.eye(len(self.directions), dtype=torch.float64), kept=len(self.directions))

    def broken(self, begin: int, end: int) -> list[Broken]:
        """How much the generators from one to another are, for each family."""
        return [family.broken(self.directions[:, begin:end]) for family in self.families]

    def closed(self, basis: Float[Tensor, "k d d"]) -> Search:
        """With the algebra next to what is kept, unless it is rejected."""
        if not 1 < self.kept < len(basis) or len(basis) > LARGEST_CLOSED:
            return self
        span = close(self.span, basis)
        if rejecting(self.families, span, self.level):
            return self
        rest = self.directions[:, self.kept :]
        return replace(self, directions=torch.cat([span, torch.linalg.qr(rest - span @ (span.mT @ rest)).Q], 1))


def search(families: Sequence[Family]) -> Search:
    """Order by the families that reject something, as the others add noise; more join while they reject what is kept."""
    k = families[0].means.shape[1]
    found = Search(torch.eye(k, dtype=torch.float64), torch.ones(k, dtype=torch.float64), k, families)
    chosen = rejecting(families, found.directions, found.level)
    while chosen:
        values, directions = ordered([families[i] for i in sorted(chosen)])
        found = Search(directions, values, _most(families, directions, found.level), families, frozenset(chosen))
        more = rejecting(families, directions[:, : found.kept + 1], found.level) - chosen if found.kept < k else set()
        if not more:
            break
        chosen |= more
    return found


def ordered(
    families: Sequence[Family], means: Sequence[Tensor] | None = None
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k k"]]:
    """Generators by their break over what chance gives, ascending; of the families' means, or of others in their place."""
    sizes = [family.noise.diagonal().mean() for family in families]
    means = [family.means for family in families] if means is None else means
    seen = torch.stack([own.mT @ own / size for own, size in zip(means, sizes, strict=True)]).sum(0)
    noise = torch.stack([family.noise / size for family, size in zip(families, sizes, strict=True)]).sum(0)
    values, vectors = torch.linalg.eigh(noise)
    half = vectors / values.clamp(min=1e-9 * float(values[-1])).sqrt()
    ratios, mixed = torch.linalg.eigh(half.mT @ seen @ half)
    # orthonormal, and nested as they are
    return ratios.clamp(min=0).sqrt(), torch.linalg.qr(half @ mixed).Q


def rejecting(families: Sequence[Family], directions: Float[Tensor, "k j"], level: float) -> set[int]:
    """The families that see the span of these generators broken."""
    return {i for i, family in enumerate(families) if family.broken(directions).p_value <= level}


def _most(families: Sequence[Family], directions: Tensor, level: float) -> int:
    """How many of the first directions no family rejects, by bisection."""
    low, high = 0, directions.shape[1]
    while low < high:
        middle = (low + high + 1) // 2
        if rejecting(families, directions[:, :middle], level):
            high = middle - 1
        else:
            low = middle
    return low


def close(span: Float[Tensor, "k j"], basis: Float[Tensor, "k d d"]) -> Float[Tensor, "k j"]:
    """The subspace next to a span of generators that holds its brackets, or the one that comes nearest to doing so."""
    products = torch.einsum("iab,jbc->ijac", basis, basis)
    constants = torch.einsum("ijab,kab->ijk", products - products.transpose(0, 1), basis)
    beyond = torch.linalg.qr(span, mode="complete").Q[:, span.shape[1] :]
    bend = torch.zeros(beyond.shape[1], span.shape[1], dtype=span.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [bend], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def left() -> Tensor:
        optimizer.zero_grad()
        moved = torch.linalg.qr(span + beyond @ bend).Q
        inner = torch.einsum("ai,bj,abc->ijc", moved, moved, constants)
        loss: Tensor = (inner - inner @ moved @ moved.mT).square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(left)
    return torch.linalg.qr(span + beyond @ bend.detach()).Q
