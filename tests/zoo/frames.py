"""Frames and canonicalisation: Frame Averaging, learned frames, ClofNet's local frames, and E(n) GNNs with velocities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.entry import Entry, along, each, paths
from zoo.graphs import neighbours

Points = Float[Tensor, "batch point 3"]


def principal_frames(x: Points) -> Float[Tensor, "batch sign 3 3"]:
    """The eigenvectors of the covariance, with all signs."""
    centred = x - x.mean(1, keepdim=True)
    _, axes = torch.linalg.eigh(centred.mT @ centred)
    signs = torch.cartesian_prod(*(torch.tensor([1.0, -1.0]),) * 3).to(x)
    return axes[:, None] * signs[:, None]


class FrameAveraging(nn.Module):
    """Puny et al. 2022 (arXiv 2110.03336): an MLP of each point in each frame, turned back and averaged."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, x: Points) -> Points:
        frames = principal_frames(x)
        centred = (x - x.mean(1, keepdim=True))[:, None]
        return (self.mlp(centred @ frames) @ frames.mT).mean(1)


class Mix(nn.Module):
    """Vector Neurons' linear layer and nonlinearity, on [batch, point, 3, channel]."""

    def __init__(self, width_in: int, width_out: int, slope: float = 0.2) -> None:
        super().__init__()
        self.slope = slope
        self.feature = nn.Linear(width_in, width_out, bias=False)
        self.direction = nn.Linear(width_in, width_out, bias=False)

    def forward(self, v: Tensor) -> Tensor:
        q, k = self.feature(v), self.direction(v)
        k = k / (k.norm(dim=-2, keepdim=True) + 1e-6)
        inner = (q * k).sum(-2, keepdim=True)
        return q - (1 - self.slope) * inner.clamp(max=0) * k


class Canonicalised(nn.Module):
    """Learned canonicalisation (Kaba et al. 2023, arXiv 2211.06489): a frame by vector neurons, then an MLP of any kind."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(Mix(2, width), Mix(width, width))
        self.frame = nn.Linear(width, 2, bias=False)
        self.mlp = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Points) -> Points:
        centred = x - x.mean(1, keepdim=True)
        v = torch.stack([centred, torch.linalg.cross(centred, centred.roll(1, 1))], dim=-1)
        a, b = self.frame(self.layers(v).mean(1)).unbind(-1)
        x_axis = a / a.norm(dim=-1, keepdim=True)
        y_axis = b - (b * x_axis).sum(-1, keepdim=True) * x_axis
        y_axis = y_axis / y_axis.norm(dim=-1, keepdim=True)
        frame = torch.stack([x_axis, y_axis, torch.linalg.cross(x_axis, y_axis)], dim=-1)
        return self.mlp(centred @ frame) @ frame.mT


class ClofNetLayer(nn.Module):
    """ClofNet (Du et al. 2022, arXiv 2110.14811): coefficients of an edge's frame from scalars in it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(2 * width + 4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.coefficients = nn.Linear(width, 3, bias=False)
        self.node = nn.Linear(2 * width, width)

    def forward(self, h: Tensor, x: Tensor, v: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        (i, j), r = edges, x[edges[0]] - x[edges[1]]
        a = r / (r.norm(dim=-1, keepdim=True) + 1)
        cross = torch.linalg.cross(x[i], x[j])
        b = cross / (cross.norm(dim=-1, keepdim=True) + 1)
        frame = torch.stack([a, b, torch.linalg.cross(a, b)], dim=1)
        inside = torch.cat([(frame @ v[i][..., None]).squeeze(-1), r.square().sum(-1, keepdim=True)], dim=-1)
        message = self.edge(torch.cat([h[i], h[j], inside], dim=-1))
        moves = (self.coefficients(message)[:, None] @ frame).squeeze(1)
        x = x + torch.zeros_like(x).index_add(0, i, moves)
        gathered = torch.zeros_like(h).index_add(0, i, message)
        return h + self.node(torch.cat([h, gathered], dim=-1)), x


class ClofNet(nn.Module):
    """Where each body goes: positions and velocities to positions."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Linear(1, width)
        self.layers = nn.ModuleList(ClofNetLayer(width) for _ in range(2))

    def forward(self, x: Tensor, v: Tensor, edges: Tensor) -> Tensor:
        x = x - x.mean(0)
        h = self.embedding(v.norm(dim=-1, keepdim=True))
        for layer in self.layers:
            h, x = layer(h, x, v, edges)
        return x


class VelocityLayer(nn.Module):
    """E(n)-GNN with velocities (Satorras et al. 2021, arXiv 2102.09844, eq. 7), several vectors a node as in EGHN."""

    def __init__(self, width: int, vectors: int) -> None:
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(2 * width + vectors, width), nn.SiLU())
        self.weight = nn.Linear(width, vectors, bias=False)
        self.mix = nn.Parameter(torch.randn(vectors, vectors) / vectors**0.5)
        self.node = nn.Linear(2 * width, width)

    def forward(self, h: Tensor, z: Float[Tensor, "node 3 vectors"], edges: Tensor) -> tuple[Tensor, Tensor]:
        i, j = edges
        r = z[i] - z[j]
        message = self.edge(torch.cat([h[i], h[j], r.square().sum(1)], dim=-1))
        moves = r * self.weight(message)[:, None]
        z = torch.matmul(z, self.mix) + torch.zeros_like(z).index_add(0, i, moves)
        return h + self.node(torch.cat([h, torch.zeros_like(h).index_add(0, i, message)], dim=-1)), z


class VelocityGNN(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Linear(1, width)
        self.up = nn.Parameter(torch.randn(2, 3))
        self.layers = nn.ModuleList(VelocityLayer(width, 3) for _ in range(2))
        self.out = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor, v: Tensor, edges: Tensor) -> Tensor:
        h = self.embedding(v.norm(dim=-1, keepdim=True))
        z = torch.stack([x - x.mean(0), v], dim=-1) @ self.up
        for layer in self.layers:
            h, z = layer(h, z, edges)
        return x + z @ self.out


def clouds() -> tuple[Tensor, ...]:
    return (torch.randn(6, 7, 3),)


def bodies() -> tuple[Tensor, ...]:
    x = torch.randn(12, 3)
    return x, torch.randn(12, 3), neighbours(x, 2.5)


def entry(name: str, source: str, make: Callable[[], nn.Module], group: str = "O(3)", **more: object) -> Entry:
    given: dict[str, object] = {
        "inputs": clouds,
        "input_action": each(along(-1)),
        "expected": frozenset(),
        "output": along(-1),
    }
    return Entry(name=name, source=source, group=group, make=make, **(given | more))  # type: ignore[arg-type]


VELOCITIES = {"inputs": bodies, "input_action": each(along(-1), along(-1), None)}
IN_FRAMES = "it acts in a frame with signs of its own"

ENTRIES = (
    entry(
        "Frame averaging",
        "Puny et al. 2022, arXiv 2110.03336",
        FrameAveraging,
        impossible=dict.fromkeys(paths("mlp.{i}", i=(0, 2)), IN_FRAMES),
    ),
    entry(
        "Learned canonicalisation",
        "Kaba et al. 2023, arXiv 2211.06489",
        Canonicalised,
        "SO(3)",
        expected=paths("layers.{i}.{k}", "frame", i=range(2), k=("feature", "direction")),
        invariant=paths("mlp.{i}", i=(0, 2)),
    ),
    entry(
        "ClofNet",
        "Du et al. 2022, arXiv 2110.14811",
        ClofNet,
        "SO(3)",
        invariant=paths(
            "embedding", "layers.{i}.edge.{j}", "layers.{i}.coefficients", "layers.{i}.node", i=range(2), j=(0, 2)
        ),
        **VELOCITIES,
    ),
    entry(
        "E(n) GNN of several vectors",
        "Satorras et al. 2021, arXiv 2102.09844; Han et al. 2022, arXiv 2210.01299",
        VelocityGNN,
        expected=paths("up", "layers.{i}.mix", i=range(2)),
        invariant=paths("embedding", "layers.{i}.{k}", i=range(2), k=("edge.0", "weight", "node")),
        **VELOCITIES,
    ),
)
