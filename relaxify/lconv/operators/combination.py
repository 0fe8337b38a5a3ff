"""Fixed linear combinations of a family's generators, applied and never formed, as the family itself is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.operators.family import Generators, Space


class Combination(Generators):
    """M_j = sum_i c_ji L_i for coefficients c (n_M, n_L).

    >>> from relaxify.lconv import ImageAlgebra
    >>> both = Combination(torch.tensor([[1.0, 1.0]]), ImageAlgebra(("translation_y", "translation_x")))
    >>> both.act(torch.randn(2, 1, 8, 8)).shape
    torch.Size([1, 2, 1, 8, 8])
    """

    def __init__(self, coefficients: Float[Tensor, "count of"], family: Generators) -> None:
        super().__init__(len(coefficients), family.space, ndim=family.ndim)
        if coefficients.shape[1] != family.count:
            raise ValueError(
                f"{coefficients.shape[1]} coefficients do not combine {family.count} generators; pass one for each."
            )
        self.family = family
        self.coefficients: Tensor
        self.register_buffer("coefficients", coefficients.detach().clone())

    def act(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "count batch channels *out"]:
        return torch.einsum("ji,i...->j...", self.coefficients.to(h.dtype), self.family.act(h))

    def transpose(self, space: Space | None = None) -> Combination:
        return Combination(self.coefficients, self.family.transpose(space))

    def space_out(self, space: Space | None = None) -> Space:
        return self.family.space_out(space)
