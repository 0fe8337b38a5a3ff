"""Pooling for L-convs, which LC sec. 4 leaves open: cosets of points become points, and generators are pushed forward.

A pooling P maps d points to fewer, each row a weighted mean over one coset. What a generator L does to the cosets is
L' = P L P^+ (P^+ the pseudo-inverse): the best map on them, and exactly theirs where P L = L' P, when L respects the cosets.
The L' of an algebra need not close; how far they are from it is reported.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.algebras import closure_residual
from relaxify.lconv.operators import Dense, Generators
from relaxify.lconv.operators.family import Space


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

    `cosets` is (coarse, fine): non-negative weights of each fine point in each coset. If learnable they are where the
    learning starts, and each fine point's weights over the cosets are a softmax. The maximum is over the points that a
    given coset holds; for learned cosets, whose points belong to them by shares s, it is min h + max_nu s_nu (h_nu - min h).

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
        if not bool((cosets >= 0).all()) or not bool((cosets.sum(1) > 0).all()):
            raise ValueError("a coset has a negative weight or no point at all; pass weights >= 0 with a point in each row.")
        self.space, self.space_out = space or (cosets.shape[1],), space_out or (cosets.shape[0],)
        if (math.prod(self.space_out), math.prod(self.space)) != tuple(cosets.shape):
            raise ValueError(f"cosets of {tuple(cosets.shape)} do not fit {self.space} -> {self.space_out}; fix the spaces.")
        self.form, self.learnable = form, learnable
        self.logits: Tensor
        self.weights: Tensor
        if learnable:
            self.logits = nn.Parameter((cosets / cosets.sum(0).clamp(min=1e-12)).clamp(min=1e-3).log())
        else:
            self.register_buffer("weights", cosets.detach().clone())

    @classmethod
    def windows(cls, space: Space, size: Space, *, form: Literal["average", "max"] = "average") -> CosetPool:
        """The cosets of a grid under windows of `size`, as in the pooling of CNNs. ValueError unless they tile it."""
        if len(space) != len(size) or any(n % s for n, s in zip(space, size, strict=True)):
            raise ValueError(f"windows of {size} do not tile {space}; pass sizes that divide it.")
        along_axes = [torch.eye(n // s).repeat_interleave(s, dim=1) for n, s in zip(space, size, strict=True)]
        out = tuple(map(len, along_axes))
        return cls(functools.reduce(torch.kron, along_axes), space=space, space_out=out, form=form)

    @classmethod
    def learned(
        cls, space: Space, coarse: int, *, form: Literal["average", "max"] = "average", spread: float = 0.5
    ) -> CosetPool:
        """Cosets to be learned, from random ones."""
        return cls(torch.exp(spread * torch.randn(coarse, math.prod(space))), space=space, form=form, learnable=True)

    @property
    def matrix(self) -> Float[Tensor, "coarse fine"]:
        """P, whose rows sum to one."""
        weights = self.logits.softmax(0) if self.learnable else self.weights
        return weights / weights.sum(1, keepdim=True)

    def forward(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *out"]:
        flat = h.flatten(2)
        if self.form == "average":
            out = flat @ self.matrix.mT
        elif self.learnable:
            least = flat.amin(-1, keepdim=True)
            out = least + (self.logits.softmax(0) * (flat - least)[:, :, None]).amax(-1)
        else:
            out = flat[:, :, None].masked_fill(self.weights == 0, -torch.inf).amax(-1)
        return out.reshape(*h.shape[:2], *self.space_out)

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
