"""TensorNet: message passing on Cartesian tensors, a 3 x 3 matrix a channel (Simeon, De Fabritiis 2023, arXiv 2306.06482).

X[atoms, F, 3, 3] = I + A + S, a multiple of the identity, an antisymmetric and a traceless symmetric part, which bias-free
linear maps mix after the channels were moved to the end. Rotations act on both axes of size 3 at once. A starts as the cross
matrix of a vector, so a reflection -g turns X into g X^T g^T: no matrix on one axis alone describes it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.entry import Entry, along, each, paths
from zoo.graphs import neighbours

Tensors = Float[Tensor, "rows f 3 3"]


def identity_part(x: Tensors) -> Tensors:
    return x.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * torch.eye(3).to(x)


def decompose(x: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    trace = identity_part(x)
    return trace, (x - x.mT) / 2, (x + x.mT) / 2 - trace


def square_norm(x: Tensors) -> Float[Tensor, "rows f"]:
    return x.square().sum((-2, -1))


class Mix(nn.Module):
    """W_I I + W_A A + W_S S, with an optional factor for each part: Linears on the channels, moved to the end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x: Tensors, factors: Float[Tensor, "rows 3 f"] | None = None) -> tuple[Tensors, ...]:
        mixed = (
            linear(part.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for linear, part in zip(self.parts, decompose(x), strict=True)
        )
        return tuple(mixed) if factors is None else tuple(scaled(part, factors[:, i]) for i, part in enumerate(mixed))


def scaled(x: Tensors, factor: Float[Tensor, "rows f"]) -> Tensors:
    return factor[..., None, None] * x


class Embedding(nn.Module):
    """X_i = sum_j Z_ij (f_I 1 + f_A [r]_x + f_S (r r^T - 1/3)), then mixed with factors of its norm."""

    def __init__(self, width: int, radial: int) -> None:
        super().__init__()
        self.species = nn.Embedding(10, width)
        self.pair = nn.Linear(2 * width, width)
        self.distance = nn.Linear(radial, 3 * width)
        self.norm = nn.LayerNorm(width)
        self.factors = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 3 * width), nn.SiLU())
        self.mix = Mix(width)

    def forward(
        self,
        numbers: Int[Tensor, " n"],
        direction: Float[Tensor, "edge 3"],
        radial: Float[Tensor, "edge k"],
        edge_index: Int[Tensor, "2 edge"],
    ) -> Tensors:
        sender, receiver = edge_index
        z = self.species(numbers)
        pair = self.pair(torch.cat([z[receiver], z[sender]], dim=-1))
        eye = torch.eye(3).to(direction)
        cross = torch.linalg.cross(direction.unsqueeze(-1).expand(-1, 3, 3), eye.expand(len(direction), 3, 3), dim=1)
        outer = direction[:, :, None] * direction[:, None, :] - eye / 3
        factors = self.distance(radial).unflatten(-1, (3, -1)) * pair.unsqueeze(1)
        parts = zip((eye.expand_as(outer), cross, outer), factors.unbind(1), strict=True)
        edges = sum(scaled(part.unsqueeze(1), factor) for part, factor in parts)
        x = z.new_zeros(*z.shape, 3, 3).index_add(0, receiver, edges)
        return sum(self.mix(x, self.factors(self.norm(square_norm(x))).unflatten(-1, (3, -1))))


class Interaction(nn.Module):
    """X <- X + dX + dX^2, dX = mix(Y M + M Y), Y = mix(X), M_i = sum_j f(r_ij) Y_j."""

    def __init__(self, width: int, radial: int) -> None:
        super().__init__()
        self.factors = nn.Sequential(nn.Linear(radial, width), nn.SiLU(), nn.Linear(width, 3 * width), nn.SiLU())
        self.before = Mix(width)
        self.after = Mix(width)

    def forward(self, x: Tensors, radial: Float[Tensor, "edge k"], edge_index: Int[Tensor, "2 edge"]) -> Tensors:
        sender, receiver = edge_index
        x = scaled(x, 1 / (square_norm(x) + 1))
        parts = self.before(x)
        factors = self.factors(radial).unflatten(-1, (3, -1)).unbind(1)
        edges = sum(scaled(part[sender], factor) for part, factor in zip(parts, factors, strict=True))
        message, y = torch.zeros_like(x).index_add(0, receiver, edges), sum(parts)
        # Both orders, so that transposing all tensors, as a reflection does, transposes the product.
        product = y @ message + message @ y
        change = sum(self.after(scaled(product, 1 / (square_norm(product) + 1))))
        return x + change + change @ change


class TensorNet(nn.Module):
    """An energy and a polarizability."""

    def __init__(self, width: int = 5, depth: int = 2, radial: int = 6) -> None:
        super().__init__()
        self.radial = radial
        self.embedding = Embedding(width, radial)
        self.layers = nn.ModuleList(Interaction(width, radial) for _ in range(depth))
        self.readout_norm = nn.LayerNorm(3 * width)
        self.energy = nn.Sequential(nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, 1))
        self.polarizability = nn.Linear(width, 1, bias=False)

    def forward(
        self, numbers: Int[Tensor, " n"], positions: Float[Tensor, "n 3"], edge_index: Int[Tensor, "2 edge"]
    ) -> tuple[Tensor, Float[Tensor, "3 3"]]:
        relative = positions[edge_index[0]] - positions[edge_index[1]]
        distance = relative.norm(dim=-1, keepdim=True)
        radial = torch.exp(-((distance - torch.linspace(0, 4, self.radial).to(distance)) ** 2))
        x = self.embedding(numbers, relative / distance, radial, edge_index)
        for layer in self.layers:
            x = layer(x, radial, edge_index)
        norms = self.readout_norm(torch.cat([square_norm(part) for part in decompose(x)], dim=-1))
        symmetric = (x + x.mT) / 2
        polarizability = self.polarizability(symmetric.permute(0, 2, 3, 1)).squeeze(-1)
        return self.energy(norms).sum(), polarizability.sum(0)


def molecule() -> tuple[Tensor, ...]:
    positions = 1.5 * torch.randn(24, 3)
    return torch.randint(10, (24,)), positions, neighbours(positions, 3.0)


MIXES = ("embedding.mix", "layers.{i}.before", "layers.{i}.after")

ENTRIES = (
    Entry(
        name="TensorNet",
        source="Simeon, De Fabritiis 2023, arXiv 2306.06482",
        group="O(3)",
        make=TensorNet,
        inputs=molecule,
        expected=paths("polarizability", *(f"{mix}.parts.{{part}}" for mix in MIXES), i=range(2), part=(1, 2)),
        invariant=paths(
            "embedding.pair",
            "embedding.distance",
            "embedding.factors.{j}",
            "layers.{i}.factors.{j}",
            "energy.{j}",
            *(f"{mix}.parts.0" for mix in MIXES),
            i=range(2),
            j=(0, 2),
        ),
        output=each(None, along(-1, -2)),
        notes="parts.0 mixes multiples of the identity, which no rotation changes; two axes of size 3 transform together.",
    ),
)
