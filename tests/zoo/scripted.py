"""Message passing with a scatter in TorchScript, as in SchNetPack: SchNet, PaiNN, TorchMD-Net's ET and NewtonNet.

Vectors are [atom, 3, channel]. Of what runs in TorchScript nothing is seen but what goes in and what comes out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.entry import Entry, along, each, paths
from zoo.graphs import neighbours

Scalars = Float[Tensor, "atom channel"]
Vectors = Float[Tensor, "atom 3 channel"]


@torch.jit.script
def scatter_add(x: Tensor, index: Tensor, dim_size: int) -> Tensor:
    """SchNetPack's function of that name."""
    shape = list(x.shape)
    shape[0] = dim_size
    return torch.zeros(shape, dtype=x.dtype, device=x.device).index_add(0, index, x)


class Envelope(nn.Module):
    """Gaussians of a distance, times a cosine that ends at the cut-off, where nothing is clamped."""

    def __init__(self, radial: int, cutoff: float = 3.0) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("offsets", torch.linspace(0, cutoff, radial))

    def forward(self, distance: Float[Tensor, "edge 1"]) -> tuple[Float[Tensor, "edge k"], Float[Tensor, "edge 1"]]:
        envelope = 0.5 * (torch.cos(torch.pi * distance / self.cutoff) + 1)
        return torch.exp(-((distance - self.offsets) ** 2)), envelope * (distance < self.cutoff)


class SchNetBlock(nn.Module):
    """SchNet's continuous-filter convolution."""

    def __init__(self, width: int, radial: int) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.Linear(radial, width), nn.Softplus(), nn.Linear(width, width))
        self.in2f = nn.Linear(width, width, bias=False)
        self.f2out = nn.Sequential(nn.Linear(width, width), nn.Softplus(), nn.Linear(width, width))

    def forward(self, x: Scalars, edges: Tensor, radial: Tensor, envelope: Tensor) -> Scalars:
        messages = self.in2f(x)[edges[0]] * self.filter(radial) * envelope
        return self.f2out(scatter_add(messages, edges[1], len(x)))


class SchNet(nn.Module):
    """An energy for each graph."""

    def __init__(self, width: int = 5, radial: int = 4) -> None:
        super().__init__()
        self.embedding, self.radial = nn.Embedding(4, width), Envelope(radial)
        self.blocks = nn.ModuleList(SchNetBlock(width, radial) for _ in range(2))
        self.head = nn.Linear(width, 1)

    def forward(self, numbers: Tensor, positions: Tensor, edges: Tensor, batch: Tensor) -> Float[Tensor, " graph"]:
        r = positions[edges[0]] - positions[edges[1]]
        radial, envelope = self.radial(r.norm(dim=-1, keepdim=True))
        x = self.embedding(numbers)
        for block in self.blocks:
            x = x + block(x, edges, radial, envelope)
        return scatter_add(self.head(x), batch, 2).squeeze(-1)


class PaiNNBlock(nn.Module):
    """PaiNN's interaction and mixing, messages gathered in TorchScript."""

    def __init__(self, width: int, radial: int) -> None:
        super().__init__()
        self.context = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.filter = nn.Linear(radial, 3 * width)
        self.channel_mix = nn.Linear(width, 2 * width, bias=False)
        self.intraatomic = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(
        self, s: Scalars, v: Vectors, edges: Tensor, u: Tensor, radial: Tensor, envelope: Tensor
    ) -> tuple[Scalars, Vectors]:
        sender, receiver = edges
        ds, a, b = ((self.context(s)[sender] * self.filter(radial)) * envelope).chunk(3, -1)
        s = s + scatter_add(ds, receiver, len(s))
        v = v + scatter_add(a[:, None] * u[..., None] + b[:, None] * v[sender], receiver, len(s))
        left, right = self.channel_mix(v).chunk(2, -1)
        norm = torch.sqrt(left.square().sum(1) + 1e-8)
        ds, dv, dsv = self.intraatomic(torch.cat([s, norm], -1)).chunk(3, -1)
        return s + ds + dsv * (left * right).sum(1), v + dv[:, None] * right


class PaiNN(nn.Module):
    """An energy for each graph, and a vector for each atom."""

    def __init__(self, width: int = 5, radial: int = 4) -> None:
        super().__init__()
        self.embedding, self.radial = nn.Embedding(4, width), Envelope(radial)
        self.blocks = nn.ModuleList(PaiNNBlock(width, radial) for _ in range(2))
        self.energy = nn.Linear(width, 1)
        self.vector = nn.Linear(width, 1, bias=False)

    def forward(self, numbers: Tensor, positions: Tensor, edges: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        r = positions[edges[0]] - positions[edges[1]]
        distance = r.norm(dim=-1, keepdim=True)
        radial, envelope = self.radial(distance)
        s = self.embedding(numbers)
        v = s.new_zeros(len(s), 3, s.shape[-1])
        for block in self.blocks:
            s, v = block(s, v, edges, r / distance, radial, envelope)
        return scatter_add(self.energy(s), batch, 2).squeeze(-1), self.vector(v).squeeze(-1)


class Attention(nn.Module):
    """TorchMD-Net's equivariant attention (Thoelke, De Fabritiis 2022, arXiv 2202.02541)."""

    def __init__(self, width: int, radial: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.layernorm = nn.LayerNorm(width)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 3 * width)
        self.o, self.vec = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width, bias=False)
        self.dk, self.dv = nn.Linear(radial, width), nn.Linear(radial, 3 * width)

    def forward(
        self, s: Scalars, v: Vectors, edges: Tensor, u: Tensor, radial: Tensor, envelope: Tensor
    ) -> tuple[Scalars, Vectors]:
        (sender, receiver), x = edges, self.layernorm(s)
        q, k = (each.unflatten(-1, (self.heads, -1)) for each in (self.q(x)[receiver], self.k(x)[sender]))
        dk = nn.functional.silu(self.dk(radial)).unflatten(-1, (self.heads, -1))
        weights = nn.functional.silu((q * k * dk).sum(-1, keepdim=True)) * envelope[..., None]
        values = self.v(x)[sender] * nn.functional.silu(self.dv(radial))
        values, a, b = values.unflatten(-1, (self.heads, -1)).chunk(3, -1)
        messages = v[sender] * a.flatten(1)[:, None] + b.flatten(1)[:, None] * u[..., None]
        gathered = scatter_add((weights * values).flatten(1), receiver, len(s))
        v1, v2, v3 = self.vec(v).chunk(3, -1)
        o1, o2, o3 = self.o(gathered).chunk(3, -1)
        return s + (v1 * v2).sum(1) * o2 + o3, v + v3 * o1[:, None] + scatter_add(messages, receiver, len(s))


class EquivariantTransformer(PaiNN):
    """TorchMD-Net's ET."""

    def __init__(self, width: int = 4, radial: int = 4) -> None:
        super().__init__(width, radial)
        self.blocks = nn.ModuleList(Attention(width, radial) for _ in range(2))


class NewtonBlock(nn.Module):
    """NewtonNet (Haghighatlari et al. 2022, arXiv 2108.02913): symmetric messages, latent forces, displacements."""

    def __init__(self, width: int, radial: int) -> None:
        super().__init__()
        self.node, self.edge = (
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)),
            nn.Linear(radial, width),
        )
        self.force, self.latent = nn.Linear(width, 1), nn.Linear(width, width)
        self.displacement = nn.Linear(width, width)
        self.mix = nn.Linear(width, width, bias=False)
        self.energy = nn.Linear(width, width)

    def forward(self, a: Scalars, f: Vectors, d: Vectors, edges: Tensor, u: Tensor, radial: Tensor) -> tuple[Tensor, ...]:
        (sender, receiver), node = edges, self.node(a)
        m = node[sender] * node[receiver] * self.edge(radial)
        f = f + scatter_add(u[..., None] * (self.force(m) * self.latent(m))[:, None], receiver, len(a))
        d = d + self.displacement(a)[:, None] * self.mix(f)
        return a + scatter_add(m, receiver, len(a)) - self.energy(a) * (f * d).sum(1), f, d


class NewtonNet(nn.Module):
    """An energy for each graph, from edge vectors that are an input."""

    def __init__(self, width: int = 5, radial: int = 4) -> None:
        super().__init__()
        self.embedding, self.radial = nn.Embedding(4, width), Envelope(radial)
        self.blocks = nn.ModuleList(NewtonBlock(width, radial) for _ in range(2))
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, numbers: Tensor, edge_vectors: Tensor, edges: Tensor, batch: Tensor) -> Float[Tensor, " graph"]:
        distance = edge_vectors.norm(dim=-1, keepdim=True)
        radial, envelope = self.radial(distance)
        a = self.embedding(numbers)
        f = d = a.new_zeros(len(a), 3, a.shape[-1])
        for block in self.blocks:
            a, f, d = block(a, f, d, edges, edge_vectors / distance, radial * envelope)
        return scatter_add(self.head(a), batch, 2).squeeze(-1)


def graphs() -> tuple[Tensor, ...]:
    """Two molecules."""
    batch = torch.arange(2).repeat_interleave(torch.tensor([8, 9]))
    positions = 2 * torch.rand(17, 3)
    return torch.randint(4, (17,)), positions, neighbours(positions, 2.5, batch), batch


def edge_vectors() -> tuple[Tensor, ...]:
    numbers, positions, edges, batch = graphs()
    return numbers, positions[edges[0]] - positions[edges[1]], edges, batch


def moved(g: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return inputs[0], along(-1)(g, inputs[1]), *inputs[2:]


def entry(name: str, source: str, make: Callable[[], nn.Module], **more: object) -> Entry:
    given: dict[str, object] = {"inputs": graphs, "expected": frozenset()}
    return Entry(name=name, source=source, group="O(3)", make=make, input_action=moved, **(given | more))  # type: ignore[arg-type]


PACK = "SchNetPack 2 (Schütt et al. 2023, arXiv 2212.05517), its scripted scatter_add"
ENERGY_AND_VECTOR = each(None, along(-1))

ENTRIES = (
    entry(
        "SchNet, scripted scatter",
        PACK,
        SchNet,
        invariant=paths("blocks.{i}.filter.{j}", "blocks.{i}.in2f", "blocks.{i}.f2out.{j}", "head", i=range(2), j=(0, 2)),
    ),
    entry(
        "PaiNN, scripted scatter",
        PACK,
        PaiNN,
        output=ENERGY_AND_VECTOR,
        expected=paths("blocks.{i}.channel_mix", "vector", i=range(2)),
        invariant=paths(
            "blocks.{i}.{net}.{j}", "blocks.{i}.filter", "energy", i=range(2), j=(0, 2), net=("context", "intraatomic")
        ),
    ),
    entry(
        "TorchMD-Net ET",
        "Thoelke, De Fabritiis 2022, arXiv 2202.02541",
        EquivariantTransformer,
        output=ENERGY_AND_VECTOR,
        expected=paths("blocks.{i}.vec", "vector", i=range(2)),
        without_effect={"blocks.0.vec": "vectors start at zero"},
        invariant=paths("blocks.{i}.{k}", "energy", i=range(2), k=("q", "k", "v", "o", "dk", "dv")),
    ),
    entry(
        "NewtonNet",
        "Haghighatlari et al. 2022, arXiv 2108.02913",
        NewtonNet,
        inputs=edge_vectors,
        expected=paths("blocks.{i}.mix", i=range(2)),
        invariant=paths(
            "blocks.{i}.node.{j}", "blocks.{i}.{k}", "head.{j}", i=range(2), j=(0, 2),
            k=("edge", "force", "latent", "displacement", "energy"),
        ),
    ),
)  # fmt: skip
