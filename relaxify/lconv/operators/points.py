"""The functionals e_b^T that read one point off a space: what makes a fully-connected layer an L-conv (LC Prop. 3)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from relaxify.lconv.operators.family import Generators, Space
from relaxify.lconv.operators.matrices import Dense


class Points(Generators):
    """L_b = e_b^T from a space of d points to one point, executed as the linear layer on the flattened input.

    sum_b e_b^T h W^b is (w h) for w of shape (out, channels * d), the order in which nn.Flatten lays out (channels, *space).

    >>> Points((2, 2)).dense().int().squeeze(1).tolist()
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    """

    def __init__(self, space: Space) -> None:
        super().__init__(math.prod(space), space, space_out=(1,))

    def act(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "count batch channels 1"]:
        return self.flat(h).movedim(2, 0)[..., None]

    def mix(
        self, h: Float[Tensor, "batch channels *space"], weight: Tensor, groups: int = 1
    ) -> Float[Tensor, "batch channels_out 1"]:
        """The linear layer with weight (out, channels * d)."""
        return F.linear(self.flat(h).flatten(1), weight)[..., None]

    def transpose(self, space: Space | None = None) -> Dense:
        return Dense(torch.eye(self.count)[..., None], space=(1,), space_out=self.space, learnable=False)

    def weight_shape(self, channels_out: int, channels_in: int, groups: int = 1) -> tuple[int, ...]:
        return channels_out, channels_in * self.count

    def per_generator(self, weight: Tensor, groups: int = 1) -> Float[Tensor, "count channels_out group_in"]:
        return weight.reshape(len(weight), -1, self.count).movedim(2, 0)

    def power(self, space: Space | None = None) -> Float[Tensor, " count"]:
        return torch.ones(self.count)
