"""Pooling for L-convs, which LC sec. 4 leaves open: cosets of points become points, and generators are pushed forward.

A pooling P maps d points to fewer, each row a weighted mean over one coset. What a generator L does to the cosets is
L' = P L P^+ (P^+ the pseudo-inverse): the best map on them, and exactly theirs where P L = L' P, when L respects the cosets.
The L' of an algebra need not close; how far they are from it is reported.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from relaxify.algebras import closure_residual
from relaxify.lconv.operators import Dense, Generators
from relaxify.lconv.operators.family import Space
from relaxify.lconv.operators.grid import with_row

# cosets that hold more than this share of all points are as fast to average by their matrix
DENSE = 0.25


@dataclass(frozen=True)
class Pushed:
    """Generators on cosets: `generators` are L' = P L P^+.

    `coset_residual` is |P L - L' P| / |P L|: 0 where the L respect the cosets. `closure_residual` is how much of the
    brackets [L'_i, L'_j] lies outside the span of the L': 0 where they are a Lie algebra.
    """

    generators: Dense
    coset_residual: float
    closure_residual: float


class CosetPool(nn.Module):
    """Pooling over cosets, given or learned, by their weighted mean or their maximum.

    `cosets` is (coarse, fine), dense or sparse: non-negative weights of each fine point in each coset. If learnable they are
    where the learning starts, and each fine point's weights over the cosets are a softmax. The maximum is over the points
    that a given coset holds; for learned cosets, whose points belong to them by shares s, it is
    min h + max_nu s_nu (h_nu - min h). Given cosets cost as much as they hold points; learned ones hold all.

    >>> pool = CosetPool.windows((4, 4), (2, 2), form="max")
    >>> pool(torch.arange(16.0).reshape(1, 1, 4, 4))
    tensor([[[[ 5.,  7.],
              [13., 15.]]]])
    """

    def __init__(
        self,
        cosets: Float[Tensor, "coarse fine"],
        *,
        space: Space | None = None,
        space_out: Space | None = None,
        form: Literal["average", "max"] = "average",
        learnable: bool = False,
    ) -> None:
        super().__init__()
        held = cosets.to_sparse().coalesce()
        if not bool((held.values() >= 0).all()) or not bool((held.sum(1).to_dense() > 0).all()):
            raise ValueError("a coset has a negative weight or no point at all; pass weights >= 0 with a point in each row.")
        self.space, self.space_out = space or (cosets.shape[1],), space_out or (cosets.shape[0],)
        if (math.prod(self.space_out), math.prod(self.space)) != tuple(cosets.shape):
            raise ValueError(f"cosets of {tuple(cosets.shape)} do not fit {self.space} -> {self.space_out}; fix the spaces.")
        self.form, self.learnable = form, learnable
        self.logits: Tensor
        self.points: Tensor
        self.shares: Tensor
        if learnable:
            dense = held.to_dense()
            self.logits = nn.Parameter((dense / dense.sum(0).clamp(min=1e-12)).clamp(min=1e-3).log())
        else:
            for name, table in zip(("points", "shares"), _table(held), strict=True):
                self.register_buffer(name, table)

    @classmethod
    def windows(cls, space: Space, size: Space, *, form: Literal["average", "max"] = "average") -> CosetPool:
        """The cosets of a grid under windows of `size`, as in the pooling of CNNs. ValueError unless they tile it."""
        if len(space) != len(size) or any(n % s for n, s in zip(space, size, strict=True)):
            raise ValueError(f"windows of {size} do not tile {space}; pass sizes that divide it.")
        out = tuple(n // s for n, s in zip(space, size, strict=True))
        along_axes = [torch.arange(n) // s for n, s in zip(space, size, strict=True)]
        coset = functools.reduce(lambda index, axis: index[..., None] * (int(axis[-1]) + 1) + axis, along_axes).flatten()
        held = torch.stack([coset, torch.arange(len(coset))])
        cosets = torch.sparse_coo_tensor(held, torch.ones(len(coset)), (math.prod(out), len(coset)), check_invariants=True)
        return cls(cosets, space=space, space_out=out, form=form)

    @classmethod
    def learned(
        cls, space: Space, coarse: int, *, form: Literal["average", "max"] = "average", spread: float = 0.5
    ) -> CosetPool:
        """Cosets to be learned, from random ones."""
        return cls(torch.exp(spread * torch.randn(coarse, math.prod(space))), space=space, form=form, learnable=True)

    @property
    def weights(self) -> Float[Tensor, "coarse fine"]:
        """Of each fine point in each coset."""
        if self.learnable:
            return self.logits.softmax(0)
        dense = self.shares.new_zeros(len(self.points), math.prod(self.space) + 1)
        return dense.scatter(1, self.points, self.shares)[:, :-1]

    @property
    def matrix(self) -> Float[Tensor, "coarse fine"]:
        """P, whose rows sum to one."""
        weights = self.weights
        return weights / weights.sum(1, keepdim=True)

    def forward(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *out"]:
        return self._pooled(h.flatten(2)).reshape(*h.shape[:2], *self.space_out)

    def _pooled(self, flat: Float[Tensor, "batch channels fine"]) -> Float[Tensor, "batch channels coarse"]:
        if self.learnable and self.form == "max":
            least = flat.amin(-1, keepdim=True)
            return least + (self.weights * (flat - least)[:, :, None]).amax(-1)
        if self.learnable or (self.form == "average" and self.points.shape[1] > DENSE * flat.shape[2]):
            return flat @ self.matrix.mT
        # (coarse, points of one, batch * channels): whole rows are what is read and added fast
        rows = with_row(flat.permute(2, 0, 1).flatten(1), -math.inf if self.form == "max" else 0.0)
        held = F.embedding(self.points, rows)
        if self.form == "max":
            return held.amax(1).T.unflatten(0, flat.shape[:2])
        means = (self.shares / self.shares.sum(1, keepdim=True))[:, None] @ held
        return means[:, 0].T.unflatten(0, flat.shape[:2])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Given cosets may be in the state as the dense weights that older versions wrote."""
        dense = state_dict.pop(f"{prefix}weights", None)
        if dense is not None and not self.learnable:
            state_dict[f"{prefix}points"], state_dict[f"{prefix}shares"] = _table(dense.to_sparse().coalesce())
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def push(self, generators: Generators) -> Pushed:
        """L' = P L P^+ for generators on the fine points, formed on the coarse ones alone, and what is lost by it."""
        with torch.no_grad():
            pooled, coset = self._pushed(generators)
        return Pushed(Dense(pooled, space=self.space_out, learnable=False), float(coset), closure_residual(pooled))

    def coset_penalty(self, generators: Generators) -> Float[Tensor, ""]:
        """The coset residual with its gradient, to learn cosets that the generators respect."""
        return self._pushed(generators)[1]

    def _pushed(self, generators: Generators) -> tuple[Tensor, Tensor]:
        pooling = self.matrix
        lifted = torch.linalg.pinv(pooling).mT.reshape(1, -1, *self.space)
        # (generators, coarse columns, fine) -> L P^+ by columns
        moved = generators.act(lifted).flatten(3)[:, 0]
        pooled = pooling @ moved.mT
        read = generators.transpose(self.space).to(pooling.dtype).act(pooling.reshape(1, -1, *self.space)).flatten(3)[:, 0]
        residual = (read - pooled @ pooling).square().sum() / read.square().sum().clamp(min=1e-30)
        return pooled, (residual + torch.finfo(residual.dtype).tiny).sqrt()


def _table(cosets: Tensor) -> tuple[Int[Tensor, "coarse most"], Float[Tensor, "coarse most"]]:
    """The points of each coset and their weights; cosets of fewer than the most have one beyond the last, of weight 0."""
    is_in = cosets.values() > 0
    (rows, points), values = cosets.indices()[:, is_in], cosets.values()[is_in].detach()
    counts = torch.bincount(rows, minlength=cosets.shape[0])
    starts = counts.cumsum(0) - counts
    columns = torch.arange(len(rows), device=rows.device) - starts[rows]
    width = int(counts.max())
    table = torch.full((len(counts), width), cosets.shape[1], device=rows.device)
    shares = values.new_zeros(len(counts), width)
    table[rows, columns], shares[rows, columns] = points, values
    return table, shares
