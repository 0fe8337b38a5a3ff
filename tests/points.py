"""Networks on clouds of points (batch, points, 3, channels): O(3) turns the vectors, S(n) permutes the points.

Faults may be planted: a bias on vectors breaks O(3) alone, a learned embedding of each point S(n) alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Cloud = Float[Tensor, "batch points 3 channels"]

GROUP = "O(3) x S(5)"


class PointNet(nn.Module):
    """Vectors mixed within each point, gated by their lengths, and with the mean over points mixed in (DeepSets)."""

    def __init__(self, *, bias: bool = False, embedded: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False)
        self.gate, self.mean = nn.Linear(6, 6, bias=bias), nn.Linear(6, 6, bias=False)
        self.embedding = nn.Parameter(torch.randn(5, 1, 6)) if embedded else None

    def forward(self, x: Cloud) -> Cloud:
        h = self.first(x)
        h = h * torch.sigmoid(self.gate(h).norm(dim=-2, keepdim=True))
        if self.embedding is not None:
            h = h * self.embedding
        return self.last(h + self.mean(h.mean(1, keepdim=True)))


def clouds(*, points: int = 5) -> Cloud:
    return torch.randn(8, points, 3, 4, generator=torch.Generator().manual_seed(0))


def made(**faults: bool) -> PointNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PointNet(**faults)


def broken() -> PointNet:
    """With both faults."""
    return made(bias=True, embedded=True)


def turned(g: Float[Tensor, "3 3"], x: Tensor) -> Tensor:
    """O(3) on axis 2."""
    return torch.einsum("ij,bpj...->bpi...", g.to(x), x)


def permuted(g: Float[Tensor, "5 5"], x: Tensor) -> Tensor:
    """S(5) on axis 1."""
    return torch.einsum("pq,bq...->bp...", g.to(x), x)


def both(g: Float[Tensor, "8 8"], x: Tensor) -> Tensor:
    """O(3) x S(5)."""
    return permuted(g[3:, 3:], turned(g[:3, :3], x))


ACTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"O(3)": turned, "S(5)": permuted, GROUP: both}
