"""Equiformer: graph attention on irreps features (Liao, Smidt 2023, arXiv 2206.11990), at compact size.

The weights sit in wrapper modules, which call an e3nn layer `tp` and add biases to scalars. Depth-wise products take their
weights from a radial network, one set an edge, or hold them themselves. Attention weights are a softmax of invariants.
"""

import torch
from e3nn import o3
from e3nn.nn import Gate
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.entry import Entry, paths
from zoo.graphs import neighbours

Features = Float[Tensor, "rows irreps"]


class ScalarBias(nn.Module):
    """Adds a bias to the leading scalars."""

    def __init__(self, irreps: o3.Irreps) -> None:
        super().__init__()
        scalars = irreps[0].mul if irreps[0].ir.is_scalar() else 0
        self.bias = nn.Parameter(torch.randn(scalars))
        self.padding = irreps.dim - scalars

    def forward(self, x: Features) -> Features:
        return x + nn.functional.pad(self.bias, (0, self.padding))


class LinearRS(nn.Module):
    """A linear map, written as the product with a constant scalar."""

    def __init__(self, irreps_in: o3.Irreps, irreps_out: o3.Irreps) -> None:
        super().__init__()
        instructions = [
            (i, 0, j, "uvw", True) for i, (_, a) in enumerate(irreps_in) for j, (_, b) in enumerate(irreps_out) if a == b
        ]
        self.tp = o3.TensorProduct(irreps_in, "1x0e", irreps_out, instructions)
        self.bias = ScalarBias(irreps_out)

    def forward(self, x: Features) -> Features:
        return self.bias(self.tp(x, torch.ones_like(x[:, :1])))


class SpeciesProduct(nn.Module):
    """A fully connected tensor product with scalars of the species, and a bias."""

    def __init__(self, irreps_in: o3.Irreps, species: int, irreps_out: o3.Irreps) -> None:
        super().__init__()
        self.tp = o3.FullyConnectedTensorProduct(irreps_in, o3.Irreps([(species, (0, 1))]), irreps_out)
        self.bias = ScalarBias(irreps_out)

    def forward(self, x: Features, species: Features) -> Features:
        return self.bias(self.tp(x, species))


def depthwise(irreps_in: o3.Irreps, irreps_sh: o3.Irreps, irreps_out: o3.Irreps, internal_weights: bool) -> o3.TensorProduct:
    """Every channel of the input with every harmonic, into the irreps of `irreps_out`; channels do not mix."""
    slots, instructions = [], []
    for i, (mul, a) in enumerate(irreps_in):
        for j, (_, b) in enumerate(irreps_sh):
            for c in a * b:
                if c in irreps_out:
                    instructions.append((i, j, len(slots), "uvu", True))
                    slots.append((mul, c))
    irreps, order, _ = o3.Irreps(slots).sort()
    instructions = [(i, j, order[k], mode, train) for i, j, k, mode, train in instructions]
    return o3.TensorProduct(
        irreps_in, irreps_sh, irreps, instructions, internal_weights=internal_weights, shared_weights=internal_weights
    )


class LayerNorm(nn.Module):
    """Each irrep divided by the root mean square over its channels and components; scalars are centred and shifted."""

    def __init__(self, irreps: o3.Irreps) -> None:
        super().__init__()
        self.irreps = irreps
        self.weight = nn.Parameter(torch.rand(irreps.num_irreps) + 0.5)
        self.bias = ScalarBias(irreps)

    def forward(self, x: Features) -> Features:
        parts, weights = [], self.weight.split([mul for mul, _ in self.irreps])
        for (mul, irrep), slot, weight in zip(self.irreps, self.irreps.slices(), weights, strict=True):
            part = x[:, slot].unflatten(1, (mul, irrep.dim))
            if irrep.is_scalar():
                part = part - part.mean(dim=1, keepdim=True)
            rms = part.square().sum(dim=2, keepdim=True).mean(dim=1, keepdim=True).add(1e-6).sqrt()
            parts.append((weight[:, None] * part / rms).flatten(1))
        return self.bias(torch.cat(parts, dim=1))


def gate_for(irreps: o3.Irreps) -> Gate:
    scalars, gated = irreps[:1], irreps[1:]
    gates = o3.Irreps([(gated.num_irreps, (0, 1))])
    return Gate(scalars, [nn.functional.silu], gates, [torch.sigmoid], gated)


class Attention(nn.Module):
    """For each head h, sum_j a_ijh v_ijh: v is a non-linear message, a a softmax over j of its scalars."""

    def __init__(self, irreps: o3.Irreps, irreps_sh: o3.Irreps, heads: int, alpha: int, radial: int) -> None:
        super().__init__()
        self.irreps, self.heads = irreps, heads
        self.merge_src = LinearRS(irreps, irreps)
        self.merge_dst = LinearRS(irreps, irreps)
        self.dtp = depthwise(irreps, irreps_sh, irreps, internal_weights=False)
        self.radial = nn.Sequential(nn.Linear(radial, 16), nn.SiLU(), nn.Linear(16, self.dtp.weight_numel))
        self.alpha = LinearRS(self.dtp.irreps_out.simplify(), o3.Irreps([(heads * alpha, (0, 1))]))
        self.alpha_dot = nn.Parameter(torch.randn(heads, alpha))
        self.gate = gate_for(irreps)
        self.value = LinearRS(self.dtp.irreps_out.simplify(), self.gate.irreps_in.simplify())
        self.value_dtp = depthwise(irreps, irreps_sh, irreps, internal_weights=True)
        self.value_out = LinearRS(self.value_dtp.irreps_out.simplify(), irreps)
        self.proj = LinearRS(irreps, irreps)

    def forward(
        self, x: Features, sh: Float[Tensor, "edge sh"], radial: Float[Tensor, "edge k"], edge_index: Int[Tensor, "2 edge"]
    ) -> Features:
        sender, receiver = edge_index
        message = self.dtp(self.merge_src(x)[sender] + self.merge_dst(x)[receiver], sh, self.radial(radial))
        alpha = nn.functional.leaky_relu(self.alpha(message).unflatten(1, (self.heads, -1)), 0.2)
        weights = softmax_at(receiver, torch.einsum("eha,ha->eh", alpha, self.alpha_dot), len(x))
        value = self.value_out(self.value_dtp(self.gate(self.value(message)), sh))
        attended = torch.cat([self.by_head(value[:, slot], weights) for slot in self.irreps.slices()], dim=1)
        return self.proj(torch.zeros_like(x).index_add(0, receiver, attended))

    def by_head(self, part: Float[Tensor, "edge slot"], weights: Float[Tensor, "edge heads"]) -> Float[Tensor, "edge slot"]:
        return (part.unflatten(1, (self.heads, -1)) * weights.unsqueeze(-1)).flatten(1)


def softmax_at(receiver: Int[Tensor, " edge"], logits: Float[Tensor, "edge h"], nodes: int) -> Float[Tensor, "edge h"]:
    """The softmax over all edges with the same receiver."""
    exponentials = (logits - logits.amax(dim=0)).exp()
    total = exponentials.new_zeros(nodes, exponentials.shape[1]).index_add(0, receiver, exponentials)
    return exponentials / total[receiver]


class FeedForward(nn.Module):
    """Two products with the species, and a gate between them."""

    def __init__(self, irreps: o3.Irreps, species: int) -> None:
        super().__init__()
        self.gate = gate_for(irreps)
        self.fctp_1 = SpeciesProduct(irreps, species, self.gate.irreps_in.simplify())
        self.fctp_2 = SpeciesProduct(irreps, species, irreps)

    def forward(self, x: Features, species: Features) -> Features:
        return self.fctp_2(self.gate(self.fctp_1(x, species)), species)


class Block(nn.Module):
    def __init__(self, irreps: o3.Irreps, irreps_sh: o3.Irreps, species: int, radial: int) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(irreps)
        self.attention = Attention(irreps, irreps_sh, heads=2, alpha=3, radial=radial)
        self.norm_2 = LayerNorm(irreps)
        self.feed_forward = FeedForward(irreps, species)

    def forward(self, x: Features, species: Features, *edges: Tensor) -> Features:
        x = x + self.attention(self.norm_1(x), *edges)
        return x + self.feed_forward(self.norm_2(x), species)


class EdgeDegree(nn.Module):
    """What the neighbours' places alone say of an atom: the first features that turn with it."""

    def __init__(self, irreps: o3.Irreps, irreps_sh: o3.Irreps, radial: int) -> None:
        super().__init__()
        self.exp = LinearRS(o3.Irreps("1x0e"), irreps[:1])
        self.dtp = depthwise(irreps[:1], irreps_sh, irreps, internal_weights=False)
        self.radial = nn.Sequential(nn.Linear(radial, 16), nn.SiLU(), nn.Linear(16, self.dtp.weight_numel))
        self.proj = LinearRS(self.dtp.irreps_out.simplify(), irreps)

    def forward(
        self, x: Features, sh: Float[Tensor, "edge sh"], radial: Float[Tensor, "edge k"], edge_index: Int[Tensor, "2 edge"]
    ) -> Features:
        ones = self.exp(torch.ones_like(x[:, :1]))
        message = self.proj(self.dtp(ones[edge_index[0]], sh, self.radial(radial)))
        return x.new_zeros(len(x), message.shape[1]).index_add(0, edge_index[1], message)


class Equiformer(nn.Module):
    """The energy of a molecule."""

    def __init__(self, irreps: str = "6x0e+4x1o+2x2e", depth: int = 2, species: int = 4, radial: int = 6) -> None:
        super().__init__()
        features = o3.Irreps(irreps)
        self.species, self.cutoffs = species, radial
        self.irreps_sh = o3.Irreps.spherical_harmonics(features.lmax)
        self.embedding = o3.Linear(o3.Irreps([(species, (0, 1))]), features, biases=True)
        self.edge_degree = EdgeDegree(features, self.irreps_sh, radial)
        self.blocks = nn.ModuleList(Block(features, self.irreps_sh, species, radial) for _ in range(depth))
        self.norm = LayerNorm(features)
        self.head_1 = LinearRS(features, features[:1])
        self.head_2 = LinearRS(features[:1], o3.Irreps("1x0e"))

    def forward(
        self, numbers: Int[Tensor, " n"], positions: Float[Tensor, "n 3"], edge_index: Int[Tensor, "2 edge"]
    ) -> Tensor:
        relative = positions[edge_index[0]] - positions[edge_index[1]]
        distance = relative.norm(dim=-1, keepdim=True)
        radial = torch.exp(-((distance - torch.linspace(0, 4, self.cutoffs).to(distance)) ** 2))
        sh = o3.spherical_harmonics(self.irreps_sh, relative, normalize=True, normalization="component")
        species = nn.functional.one_hot(numbers, self.species).to(positions.dtype)
        x = self.embedding(species)
        x = x + self.edge_degree(x, sh, radial, edge_index)
        for block in self.blocks:
            x = block(x, species, sh, radial, edge_index)
        return self.head_2(nn.functional.silu(self.head_1(self.norm(x)))).sum()


def molecule() -> tuple[Tensor, ...]:
    positions = 2 * torch.randn(60, 3)
    return torch.randint(4, (60,)), positions, neighbours(positions, 2.0)


PER_EDGE = "its weights are an argument of the call, made for each edge from its length"

ENTRIES = (
    Entry(
        name="Equiformer",
        source="Liao, Smidt 2023, arXiv 2206.11990",
        group="O(3)",
        make=Equiformer,
        inputs=molecule,
        expected=paths(
            "embedding",
            "edge_degree.proj.tp",
            "blocks.{i}.attention.{linear}.tp",
            "blocks.{i}.attention.value_dtp",
            "blocks.{i}.feed_forward.fctp_{j}.tp",
            "head_1.tp",
            i=range(2),
            linear=("merge_src", "merge_dst", "alpha", "value", "value_out", "proj"),
            j=(1, 2),
        ),
        invariant=paths(
            "edge_degree.exp.tp",
            "edge_degree.radial.{j}",
            "blocks.{i}.attention.radial.{j}",
            "blocks.{i}.attention.alpha_dot",
            "head_2.tp",
            i=range(2),
            j=(0, 2),
        ),
        impossible=dict.fromkeys(paths("edge_degree.dtp", "blocks.{i}.attention.dtp", i=range(2)), PER_EDGE),
        notes="The embedding maps scalars to irreps of which all but the scalars are zero: a term there would break the "
        "symmetry, so it is a site. The site is the e3nn layer `tp`, not the wrapper around it.",
    ),
)
