"""Velocities of particles, mixed and gated by their norms: a model of two layers to try a command on, sound and broken."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Velocities(nn.Module):
    """Equivariant under O(3), as long as `mix`, which acts on the channels of vectors, has no bias.

    >>> Velocities()(velocities()).shape
    torch.Size([10, 3, 8])
    """

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 8, bias=bias)
        self.gate = nn.Linear(8, 8)

    def forward(self, v: Float[Tensor, "atoms 4 3"]) -> Float[Tensor, "atoms 3 8"]:
        v = self.mix(v.transpose(1, 2))
        return v * self.gate(v.norm(dim=1)).unsqueeze(1)


def broken() -> Velocities:
    """With a bias on the channels of vectors."""
    torch.manual_seed(0)
    return Velocities(bias=True)


def velocities() -> Float[Tensor, "atoms 4 3"]:
    """Ten atoms with four velocities each."""
    return torch.randn(10, 4, 3, generator=torch.Generator().manual_seed(0))
