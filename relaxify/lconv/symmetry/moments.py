"""LC Theorem 1 and Corollary 1: the symmetries of linear regression, from second moments.

With H = X X^T / n, the L with L H + H L^T = 0 are H^(1/2) so(d) H^(-1/2). With labels, L_c C + C L^T = 0 for C = Y X^T / n
as well. The group is O(d), of which this is the algebra; *every* H has it, so its dimension alone is no evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

# a canonical correlation counts if it is this many times what independent labels reach
CORRELATION_FACTOR = 1.5


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """H = E[x x^T] and, with labels, C = E[y x^T] and E[y y^T], from `samples` samples (None: exact)."""

    H: Float[Tensor, "d d"]
    C: Float[Tensor, "c d"] | None = None
    labels: Float[Tensor, "c c"] | None = None
    samples: int | None = None

    @classmethod
    def of(
        cls, X: Float[Tensor, "n d"], Y: Float[Tensor, "n c"] | None = None, weights: Float[Tensor, " n"] | None = None
    ) -> SecondMoments:
        """Of samples in rows, each counted `weights` times."""
        n = len(X)
        scaled = X / n if weights is None else X * (weights / weights.sum())[:, None]
        if Y is None:
            return cls(scaled.mT @ X, samples=n)
        labels = Y.mT @ (Y / n if weights is None else Y * (weights / weights.sum())[:, None])
        return cls(scaled.mT @ X, Y.mT @ scaled, labels, n)


@dataclass(frozen=True, eq=False)
class Regression:
    """The algebra of Theorem 1. In whitened coordinates its elements A are antisymmetric: L = root A root^-1.

    `whitened` is an orthonormal basis of the A, `outputs` the L_c that go with them, and `rank` how many directions of x
    tell about the labels: the algebra is so(rank) + so(d - rank), and so(d) without labels.
    """

    root: Float[Tensor, "d d"]
    inverse_root: Float[Tensor, "d d"]
    whitened: Float[Tensor, "k d d"]
    outputs: Float[Tensor, "k c c"] | None
    rank: int | None

    @property
    def generators(self) -> Float[Tensor, "k d d"]:
        """L_i = H^(1/2) L'_i H^(-1/2) (LC eq. 15)."""
        return self.root @ self.whitened @ self.inverse_root

    def combined(self, directions: Float[Tensor, "k j"]) -> Regression:
        """The same with these combinations of its generators."""
        whitened = torch.einsum("kj,kab->jab", directions, self.whitened)
        outputs = None if self.outputs is None else torch.einsum("kj,kab->jab", directions, self.outputs)
        return replace(self, whitened=whitened, outputs=outputs)

    @property
    def names(self) -> tuple[str, ...]:
        """What theory says the algebra is."""
        d, r = self.root.shape[-1], self.rank
        parts = [d] if r is None else [d - r, r]
        return (" + ".join(f"so({n})" for n in sorted(parts, reverse=True) if n > 1),)


def regression(moments: SecondMoments, rank: int | None = None) -> Regression:
    """Solve LC eq. 13. ValueError if H is singular: with fewer samples than dimensions, or dependent ones.

    >>> regression(SecondMoments(torch.diag(torch.tensor([1.0, 4.0, 9.0]))).of(torch.randn(99, 3))).generators.shape
    torch.Size([3, 3, 3])
    """
    root, inverse_root = roots(moments.H)
    d = len(root)
    if moments.C is None:
        return Regression(root, inverse_root, antisymmetric(torch.eye(d, dtype=root.dtype)), None, None)
    u, s, vh = torch.linalg.svd(moments.C @ inverse_root)
    rank = _rank(moments, inverse_root) if rank is None else rank
    inside, beyond = antisymmetric(vh[:rank].mT), antisymmetric(vh[rank:].mT)
    # L_c U S = U S A between the labels' directions
    lifted = u[:, :rank] * s[:rank]
    back = (u[:, :rank] / s[:rank]).mT
    outputs = lifted @ (vh[:rank] @ inside @ vh[:rank].mT) @ back
    silent = outputs.new_zeros(len(beyond), *outputs.shape[1:])
    return Regression(root, inverse_root, torch.cat([inside, beyond]), torch.cat([outputs, silent]), rank)


def held_out_defect(X: Float[Tensor, "n d"], Y: Float[Tensor, "n c"] | None = None) -> float | None:
    """|L H + H L^T| / 2|L H| on every second sample, for the L found on the others; None if these are too few."""
    if len(X) // 2 <= X.shape[1]:
        return None
    fit = regression(SecondMoments.of(X[::2], None if Y is None else Y[::2]))
    moved = fit.generators @ SecondMoments.of(X[1::2]).H
    return float((moved + moved.mT).norm() / (2 * moved.norm())) if len(moved) else 0.0


def antisymmetric(frame: Float[Tensor, "d r"]) -> Float[Tensor, "k d d"]:
    """An orthonormal basis of the antisymmetric matrices on the span of the frame's columns."""
    i, j = torch.triu_indices(frame.shape[1], frame.shape[1], 1)
    a, b = frame.mT[i], frame.mT[j]
    outer = torch.einsum("ka,kb->kab", a, b)
    return (outer - outer.mT) / math.sqrt(2)


def roots(H: Float[Tensor, "d d"]) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """H^(1/2) and H^(-1/2)."""
    values, vectors = torch.linalg.eigh(H)
    if not bool(values[0] > values[-1] * len(H) * torch.finfo(H.dtype).eps):
        raise ValueError(
            "the second moments of X are singular: columns are dependent, constantly zero, or more than the samples; drop "
            "such columns, or project X on its principal components first."
        )
    return (vectors * values.sqrt()) @ vectors.mT, (vectors / values.sqrt()) @ vectors.mT


def _rank(moments: SecondMoments, inverse_root: Tensor) -> int:
    """How many canonical correlations exceed what labels independent of x reach with this many samples."""
    assert moments.C is not None
    assert moments.labels is not None
    values, vectors = torch.linalg.eigh(moments.labels)
    kept = values > values[-1].clamp(min=1e-300) * 1e-12
    whitened = (vectors[:, kept] / values[kept].sqrt()).mT @ moments.C @ inverse_root
    c, d = moments.C.shape
    chance = 0.0 if moments.samples is None else (math.sqrt(d) + math.sqrt(c)) / math.sqrt(moments.samples)
    return int((torch.linalg.svdvals(whitened) > max(1e-10, CORRELATION_FACTOR * chance)).sum())
