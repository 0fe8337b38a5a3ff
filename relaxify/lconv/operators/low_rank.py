"""L_i = U_i V_i (LC sec. 3), mixed over channels in rank space: V_i h, then W^i, then U_i."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.operators.family import Generators, Space
from relaxify.lconv.operators.matrices import fitting_spaces, store


class LowRank(Generators):
    """L_i = U_i V_i with U (n_L, d_out, rank) and V (n_L, rank, d_in).

    A rank far below d cannot be near a shift: the identity's best approximation of rank r has relative error
    sqrt(1 - r/d). What it can do is read off r templates and paint r others.

    >>> LowRank.random(8, (28, 28), rank=16).act(torch.randn(2, 3, 28, 28)).shape
    torch.Size([8, 2, 3, 28, 28])
    """

    def __init__(
        self,
        up: Float[Tensor, "count d_out rank"],
        down: Float[Tensor, "count rank d_in"],
        *,
        space: Space | None = None,
        space_out: Space | None = None,
        learnable: bool = True,
    ) -> None:
        space, space_out = fitting_spaces(up.shape[1], down.shape[2], space, space_out)
        super().__init__(len(up), space, space_out=space_out)
        self.up: Tensor
        self.down: Tensor
        store(self, "up", up, learnable)
        store(self, "down", down, learnable)

    @classmethod
    def random(
        cls, count: int, space: Space, *, rank: int = 16, space_out: Space | None = None, learnable: bool = True
    ) -> LowRank:
        """Gaussian U and V, scaled so that the rows of L_i have norm one on average."""
        if rank < 1:
            raise ValueError(f"rank={rank}: generators of no rank are zero; pass at least 1.")
        d_in, d_out = math.prod(space), math.prod(space_out or space)
        up = torch.randn(count, d_out, rank) / math.sqrt(rank)
        down = torch.randn(count, rank, d_in) / math.sqrt(d_in)
        return cls(up, down, space=space, space_out=space_out, learnable=learnable)

    @property
    def rank(self) -> int:
        """Columns of U_i."""
        return int(self.up.shape[2])

    def act(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "count batch channels *out"]:
        latent = torch.einsum("nrd,bcd->nbcr", self.down, self.flat(h))
        out = torch.einsum("nbcr,ndr->nbcd", latent, self.up)
        return out.reshape(*out.shape[:3], *self.space_out())

    def mix(
        self, h: Float[Tensor, "batch channels *space"], weight: Tensor, groups: int = 1
    ) -> Float[Tensor, "batch channels_out *out"]:
        """sum_i U_i ((V_i h) W^i): two matrix products with the space, and one with the channels in rank space."""
        batch, channels = h.shape[:2]
        latent = self.flat(h) @ self.down.flatten(0, 1).mT
        blocks = latent.reshape(batch, groups, channels // groups, self.count, self.rank)
        kernels = weight.unflatten(1, (groups, weight.shape[1] // groups))
        mixed = torch.einsum("bgcnr,ngoc->bgonr", blocks, kernels).flatten(3, 4).flatten(1, 2)
        return (mixed @ self.up.transpose(1, 2).flatten(0, 1)).unflatten(2, self.space_out())

    def transpose(self, space: Space | None = None) -> LowRank:
        return LowRank(
            self.down.detach().mT, self.up.detach().mT, space=self.space_out(), space_out=self.space, learnable=False
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"
