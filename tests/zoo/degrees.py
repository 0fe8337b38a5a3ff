"""Features by degree, [node, (l, m), channel]: EquiformerV2, eSCN and UMA, whose linear maps have a matrix for each degree.

Degrees up to 2 in e3nn's basis. The matrix of each is repeated for its orders m: by index_select (EquiformerV2), by indexing
(UMA), by a loop over slices (SO3krates).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.entry import Entry, along, paths
from zoo.graphs import neighbours

Features = Float[Tensor, "node lm channel"]
LARGEST = 2
DEGREES = torch.tensor([degree for degree in range(LARGEST + 1) for _ in range(2 * degree + 1)])


class Selected(nn.Module):
    """EquiformerV2 (Liao et al. 2024, arXiv 2306.12059): x_lm W_l, and a bias on degree 0."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(LARGEST + 1, width_out, width_in) / width_in**0.5)
        self.bias = nn.Parameter(torch.randn(width_out))
        self.register_buffer("expand_index", DEGREES)

    def forward(self, x: Features) -> Features:
        weight = torch.index_select(self.weight, dim=0, index=self.expand_index)
        y = torch.einsum("bmi,moi->bmo", x, weight)
        return torch.cat([y[:, :1] + self.bias, y[:, 1:]], dim=1)


class Indexed(Selected):
    """UMA (Wood et al. 2025, arXiv 2506.23971): the same with a batched product and advanced indexing."""

    def forward(self, x: Features) -> Features:
        y = torch.bmm(x.transpose(0, 1), self.weight[self.expand_index].mT).transpose(0, 1)
        return y + nn.functional.pad(self.bias[None], (0, 0, 0, len(DEGREES) - 1))


class Sliced(nn.Module):
    """A linear layer for each degree's slice."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.degrees = nn.ModuleList(nn.Linear(width_in, width_out, bias=degree == 0) for degree in range(LARGEST + 1))

    def forward(self, x: Features) -> Features:
        parts = x.split([2 * degree + 1 for degree in range(LARGEST + 1)], dim=1)
        return torch.cat([linear(part) for linear, part in zip(self.degrees, parts, strict=True)], dim=1)


class Gate(nn.Module):
    """Degree 0 through an activation, the others times a sigmoid of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, LARGEST * width)

    def forward(self, x: Features) -> Features:
        gates = torch.sigmoid(self.linear(x[:, 0])).unflatten(-1, (LARGEST, -1))
        return torch.cat([nn.functional.silu(x[:, :1]), x[:, 1:] * gates[:, DEGREES[1:] - 1]], dim=1)


class DegreeNorm(nn.Module):
    """Each degree divided by its mean square over orders and channels, times a weight for each degree and channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affine_weight = nn.Parameter(torch.ones(LARGEST + 1, width))
        self.register_buffer("mean", torch.zeros(LARGEST + 1, len(DEGREES)))
        self.mean[DEGREES, torch.arange(len(DEGREES))] = 1.0 / (2 * DEGREES + 1)

    def forward(self, x: Features) -> Features:
        square = torch.einsum("lm,bmc->bl", self.mean, x.square()) / x.shape[-1]
        return x * torch.rsqrt(square + 1e-5)[:, DEGREES, None] * self.affine_weight[DEGREES]


class Convolution(nn.Module):
    """Messages x_j + Y(r_ij) s_j, times a function of the distance for each degree; a sum over neighbours."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.radial = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2 * (LARGEST + 1) * width))

    def forward(self, x: Features, edges: Int[Tensor, "2 edge"], y: Tensor, radial: Tensor) -> Features:
        sender, receiver = edges
        a, b = self.radial(radial).unflatten(-1, (2, LARGEST + 1, -1))[:, :, DEGREES].unbind(1)
        message = x[sender] * a + y[:, :, None] * x[sender, :1] * b
        return torch.zeros_like(x).index_add(0, receiver, message)


class Block(nn.Module):
    def __init__(self, linear: Callable[[int, int], nn.Module], width: int) -> None:
        super().__init__()
        self.norm, self.conv = DegreeNorm(width), Convolution(width)
        self.before, self.after, self.gate = linear(width, width), linear(width, width), Gate(width)

    def forward(self, x: Features, edges: Tensor, y: Tensor, radial: Tensor) -> Features:
        return x + self.after(self.gate(self.before(self.conv(self.norm(x), edges, y, radial))))


class Network(nn.Module):
    """An energy and a force for each atom."""

    def __init__(self, linear: Callable[[int, int], nn.Module], width: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, width)
        self.blocks = nn.ModuleList(Block(linear, width) for _ in range(depth))
        self.energy = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.force = linear(width, 1)

    def forward(self, numbers: Tensor, positions: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        r = positions[edges[0]] - positions[edges[1]]
        y = o3.spherical_harmonics(list(range(LARGEST + 1)), r, normalize=True, normalization="component")
        radial = torch.exp(-((r.norm(dim=-1, keepdim=True) - torch.linspace(0, 3, 4).to(r)) ** 2))
        s = self.embedding(numbers)
        x = torch.cat([s[:, None], s.new_zeros(len(s), len(DEGREES) - 1, s.shape[-1])], dim=1)
        for block in self.blocks:
            x = block(x, edges, y, radial)
        return self.energy(x[:, 0]).sum(), self.force(x)[:, 1:4, 0]


def atoms(count: int = 20) -> tuple[Tensor, ...]:
    positions = 1.5 * torch.randn(count, 3)
    return torch.randint(5, (count,)), positions, neighbours(positions, 3.0)


def edge_frames(r: Float[Tensor, "edge 3"]) -> Float[Tensor, "edge 3 3"]:
    """A rotation for each edge that takes it to the y axis, whatever it does about that axis."""
    y = r / r.norm(dim=-1, keepdim=True)
    helper = torch.eye(3).to(r)[y.abs().argmin(dim=-1)]
    x = torch.linalg.cross(y, helper)
    x = x / x.norm(dim=-1, keepdim=True)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=1)


class OrderConvolution(nn.Module):
    """eSCN (Passaro, Zitnick 2023, arXiv 2302.03655): in edge frames, a map of m = 0, and a complex one of m = +-1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.m0 = nn.Linear(2 * width + 4, 2 * width)
        self.m1 = nn.Linear(width, 2 * width, bias=False)

    def forward(self, x: Float[Tensor, "edge 4 channel"], radial: Tensor) -> Float[Tensor, "edge 4 channel"]:
        # orders m = -1, 0, 1 of degree 1 are x, y, z
        zero = self.m0(torch.cat([x[:, 0], x[:, 2], radial], dim=-1)).unflatten(-1, (2, -1))
        plus, minus = self.m1(x[:, 3]).chunk(2, -1), self.m1(x[:, 1]).chunk(2, -1)
        real, imaginary = plus[0] - minus[1], plus[1] + minus[0]
        return torch.stack([zero[:, 0], imaginary, zero[:, 1], real], dim=1)


class ESCN(nn.Module):
    """Messages by convolutions in edge frames, degrees 0 and 1, and a vector for each atom."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, width)
        self.up = nn.Linear(width, width)
        self.convs = nn.ModuleList(OrderConvolution(width) for _ in range(2))
        self.mix = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width)
        self.head = nn.Linear(width, 1, bias=False)

    def forward(self, numbers: Tensor, positions: Tensor, edges: Tensor) -> Float[Tensor, "node 3"]:
        sender, receiver = edges
        r = positions[sender] - positions[receiver]
        frames = nn.functional.pad(edge_frames(r), (1, 0, 1, 0))
        frames[:, 0, 0] = 1.0
        radial = torch.exp(-((r.norm(dim=-1, keepdim=True) - torch.linspace(0, 3, 4).to(r)) ** 2))
        s = self.up(self.embedding(numbers))
        x = torch.cat([s[:, None], s.new_zeros(len(s), 3, s.shape[-1])], dim=1)
        for conv in self.convs:
            message = frames.mT @ conv(frames @ x[sender], radial)
            x = x + torch.zeros_like(x).index_add(0, receiver, message)
            x = torch.cat([nn.functional.silu(x[:, :1]), self.mix(x[:, 1:]) * torch.sigmoid(self.gate(x[:, :1]))], dim=1)
        return self.head(x[:, 1:]).squeeze(-1)


INVARIANT = paths("blocks.{i}.gate.linear", "blocks.{i}.conv.radial.{j}", "energy.{j}", i=range(2), j=(0, 2))
PER_DEGREE = "a scale for each degree and channel"


def entry(name: str, source: str, linear: Callable[[int, int], nn.Module], weight: str, **more: frozenset[str]) -> Entry:
    return Entry(
        name=name,
        source=source,
        group="O(3)",
        make=lambda: Network(linear),
        inputs=atoms,
        expected=paths(f"blocks.{{i}}.{{at}}.{weight}", f"force.{weight}", i=range(2), at=("before", "after"), d=(1, 2)),
        invariant=INVARIANT | more.get("invariant", frozenset()),
        impossible=dict.fromkeys(paths("blocks.{i}.norm.affine_weight", i=range(2)), PER_DEGREE),
        without_effect=dict.fromkeys(more.get("idle", ()), "nothing is made of degree 2"),
        input_action=lambda g, inputs: (inputs[0], along(-1)(g, inputs[1]), inputs[2]),
        output=lambda g, y: (y[0], along(-1)(g, y[1])),
    )


ENTRIES = (
    entry("EquiformerV2 linear", "Liao et al. 2024, arXiv 2306.12059", Selected, "weight"),
    entry("UMA linear", "Wood et al. 2025, arXiv 2506.23971", Indexed, "weight"),
    entry(
        "SO3krates linear",
        "Frank et al. 2022, arXiv 2205.14276",
        Sliced,
        "degrees.{d}",
        invariant=paths("blocks.{i}.{layer}.degrees.0", "force.degrees.0", i=range(2), layer=("before", "after")),
        idle=paths("blocks.{i}.{layer}.degrees.2", "force.degrees.2", i=range(2), layer=("before", "after")),
    ),
    Entry(
        name="eSCN",
        source="Passaro, Zitnick 2023, arXiv 2302.03655",
        group="SO(3)",
        make=ESCN,
        inputs=lambda: atoms(16),
        expected=frozenset({"mix", "head"}),
        invariant=paths("up", "gate", "convs.{i}.m0", i=range(2)),
        impossible=dict.fromkeys(paths("convs.{i}.m1", i=range(2)), "it acts in frames that turn about their edges"),
        input_action=lambda g, inputs: (inputs[0], along(-1)(g, inputs[1]), inputs[2]),
        output=along(-1),
    ),
)
