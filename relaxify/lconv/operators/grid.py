"""Learned weights on a local stencil: L_i = sum_k diag(a_ik) S_k, so that shifts, derivatives and rotations are inside."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from relaxify.lconv.operators.family import Generators, Space
from relaxify.lconv.operators.matrices import Sparse, store
from relaxify.lconv.operators.shifts import Shifts


class Grid(Generators):
    """[L_i h]_mu = sum_k a_ik(mu) [S_k h]_mu over the taps k of a stencil.

    `taps` is (n_L, taps) for weights that are the same everywhere, on a space of any size, or (n_L, taps, *space_out) for
    weights of each point's own. A shift is one tap; y d/dx - x d/dy, the rotation of images, is four with own weights.
    """

    def __init__(
        self, taps: Float[Tensor, "count taps *out"], stencil: Shifts, *, space: Space | None = None, learnable: bool = True
    ) -> None:
        out = () if space is None else stencil.space_out(space)
        super().__init__(len(taps), space, ndim=stencil.ndim, space_out=out or None)
        expected = (stencil.count, *out)
        if tuple(taps.shape[1:]) != expected:
            raise ValueError(
                f"a grid's weights have shape {tuple(taps.shape)}; pass (count, {', '.join(map(str, expected))})."
            )
        self.stencil = stencil
        self.taps: Tensor
        store(self, "taps", taps, learnable)
        self.reads: Tensor
        if space is not None:
            # the last point is the zero that padding reads
            index = stencil.index(space, taps.device).flatten(1).T
            self.register_buffer("reads", torch.where(index < 0, math.prod(space), index), persistent=False)

    @classmethod
    def random(cls, count: int, stencil: Shifts, *, space: Space | None = None, learnable: bool = True) -> Grid:
        """Gaussian weights, scaled so that the rows of L_i have norm one on average."""
        out = () if space is None else stencil.space_out(space)
        taps = torch.randn(count, stencil.count, *out) / math.sqrt(stencil.count)
        return cls(taps, stencil, space=space, learnable=learnable)

    @classmethod
    def of_shifts(cls, stencil: Shifts, *, space: Space | None = None, learnable: bool = True) -> Grid:
        """The stencil's own shifts as a grid: where learning starts when a convolution's generators are freed."""
        taps = torch.eye(stencil.count)
        if space is not None:
            taps = taps.reshape(stencil.count, -1, *(1,) * len(space)).repeat(1, 1, *stencil.space_out(space))
        return cls(taps, stencil, space=space, learnable=learnable)

    def act(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "count batch channels *out"]:
        if self.space is None:
            return torch.einsum("nk,kbc...->nbc...", self.taps, self.stencil.act(h))
        return self._local(h).movedim((0, 3), (-1, 0)).unflatten(-1, self.space_out())

    def mix(
        self, h: Float[Tensor, "batch channels *space"], weight: Tensor, groups: int = 1
    ) -> Float[Tensor, "batch channels_out *out"]:
        """Weights that are the same everywhere make one convolution, with kernel sum_i a_i W^i; else a product a point."""
        if self.space is not None:
            # (points * batch, groups, inputs of a group): channels and generators are summed over at once
            local = self._local(h).flatten(0, 1).unflatten(1, (groups, -1)).flatten(2)
            kernels = weight.unflatten(1, (groups, -1)).permute(1, 3, 0, 2).flatten(1, 2)
            mixed = local[:, 0] @ kernels[0] if groups == 1 else (local.transpose(0, 1) @ kernels).transpose(0, 1).flatten(1)
            return mixed.unflatten(0, (len(self.reads), len(h))).permute(1, 2, 0).unflatten(-1, self.space_out())
        if self.stencil.geometry.transposed:
            return super().mix(h, weight, groups)
        kernel = torch.einsum("nk,noc->ock", self.taps, weight)
        return self.stencil.convolve(h, self.stencil.geometry.as_kernel(kernel.flatten(1)), None, groups)

    def _local(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "d_out batch channels count"]:
        """All L_i h, as one product of matrices for each point: of what it reads with its weights.

        With points in front and samples behind, reads are whole rows, and no product needs to be laid out anew.
        """
        rows = with_row(self.flat(h).permute(2, 0, 1).flatten(1), 0.0)
        weights = self.taps.flatten(2).permute(2, 1, 0).contiguous()
        return (F.embedding(self.reads, rows).mT @ weights).unflatten(1, tuple(h.shape[:2]))

    def transpose(self, space: Space | None = None) -> Sparse:
        space = self.space_of(space)
        out = self.stencil.space_out(space)
        index = self.stencil.index(space).flatten(1)
        tap, mu = (index >= 0).nonzero().T
        taps = self.taps.detach().reshape(self.count, self.stencil.count, -1).expand(-1, -1, math.prod(out))
        generator = torch.arange(self.count).repeat_interleave(len(tap))
        rows = generator * math.prod(space) + index[tap, mu].repeat(self.count)
        entries = torch.stack([rows, mu.repeat(self.count)])
        return Sparse(entries, taps[:, tap, mu].flatten(), self.count, out, space_out=space)

    def space_out(self, space: Space | None = None) -> Space:
        return self.stencil.space_out(self.space_of(space))

    def power(self, space: Space | None = None) -> Float[Tensor, " count"]:
        if self.space is not None:
            return super().power(space)
        reached = self.stencil.power(space).to(self.taps)
        return (self.taps.detach().square() @ reached).to(torch.get_default_dtype())


def with_row(rows: Float[Tensor, "rows columns"], value: float) -> Float[Tensor, "more columns"]:
    """The rows, and one more of this value for what lies outside. F.pad takes no empty rows before torch 2.7."""
    return torch.cat([rows, rows.new_full((1, rows.shape[1]), value)])
