"""Equiformer: graph attention on irreps features (Liao, Smidt 2023, arXiv 2206.11990), at compact size.

Linear maps and products are e3nn layers, in wrappers that call them `tp` and add biases to scalars. Depth-wise products take
their weights from a radial network, one set an edge, or hold them themselves. Attention weights are a softmax of invariants.
Written from the paper, but that all messages fade out towards a cutoff, so that energies are smooth.
"""

import torch
from e3nn import o3
from e3nn.nn import Gate
from jaxtyping import Float, Int
from torch import Tensor, nn

Features = Float[Tensor, "rows irreps"]


class ScalarBias(nn.Module):
    """Adds a bias to the leading scalars."""

    def __init__(self, irreps: o3.Irreps) -> None:
        super().__init__()
        scalars = irreps[0].mul if irreps[0].ir.is_scalar() else 0
        self.bias = nn.Parameter(torch.zeros(scalars))
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
        self.weight = nn.Parameter(torch.ones(irreps.num_irreps))
        self.bias = ScalarBias(irreps)

    def forward(self, x: Features) -> Features:
        parts, weights = [], self.weight.split([mul for mul, _ in self.irreps])
        for (mul, irrep), slot, weight in zip(self.irreps, x.split(degrees(self.irreps), dim=1), weights, strict=True):
            part = slot.unflatten(1, (mul, irrep.dim))
            if irrep.is_scalar():
                part = part - part.mean(dim=1, keepdim=True)
            rms = part.square().sum(dim=2, keepdim=True).mean(dim=1, keepdim=True).add(1e-6).sqrt()
            parts.append((weight[:, None] * part / rms).flatten(1))
        return self.bias(torch.cat(parts, dim=1))


def degrees(irreps: o3.Irreps) -> list[int]:
    """How many components all channels of each irrep have: `split` by these has a cheaper gradient than slices."""
    return [mul_irrep.dim for mul_irrep in irreps]


def gate_for(irreps: o3.Irreps) -> Gate:
    """Silu on the scalars, which come first, and a sigmoid of a scalar of its own on every other irrep."""
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
        self.radial = radial_network(radial, self.dtp.weight_numel)
        self.alpha = LinearRS(self.dtp.irreps_out.simplify(), o3.Irreps([(heads * alpha, (0, 1))]))
        self.alpha_dot = nn.Parameter(torch.randn(heads, alpha))
        self.gate = gate_for(irreps)
        self.value = LinearRS(self.dtp.irreps_out.simplify(), self.gate.irreps_in.simplify())
        self.value_dtp = depthwise(irreps, irreps_sh, irreps, internal_weights=True)
        self.value_out = LinearRS(self.value_dtp.irreps_out.simplify(), irreps)
        self.proj = LinearRS(irreps, irreps)

    def forward(
        self,
        x: Features,
        sh: Float[Tensor, "edge sh"],
        radial: Float[Tensor, "edge k"],
        fade: Float[Tensor, "edge 1"],
        edge_index: Int[Tensor, "2 edge"],
    ) -> Features:
        sender, receiver = edge_index
        pairs = self.merge_src(x).index_select(0, sender) + self.merge_dst(x).index_select(0, receiver)
        message = self.dtp(pairs, sh, self.radial(radial))
        alpha = nn.functional.silu(self.alpha(message).unflatten(1, (self.heads, -1)))
        weights = softmax_at(receiver, torch.einsum("eha,ha->eh", alpha, self.alpha_dot), fade, len(x))
        value = self.value_out(self.value_dtp(self.gate(self.value(message)), sh))
        attended = torch.cat([self.by_head(part, weights) for part in value.split(degrees(self.irreps), dim=1)], dim=1)
        return self.proj(torch.zeros_like(x).index_add(0, receiver, attended))

    def by_head(self, part: Float[Tensor, "edge slot"], weights: Float[Tensor, "edge heads"]) -> Float[Tensor, "edge slot"]:
        return (part.unflatten(1, (self.heads, -1)) * weights.unsqueeze(-1)).flatten(1)


def radial_network(radial: int, weights: int, hidden: int = 16) -> nn.Sequential:
    """The weights of an edge, from its length."""
    return nn.Sequential(nn.Linear(radial, hidden), nn.SiLU(), nn.Linear(hidden, weights))


def softmax_at(
    receiver: Int[Tensor, " edge"], logits: Float[Tensor, "edge h"], fade: Float[Tensor, "edge 1"], nodes: int
) -> Float[Tensor, "edge h"]:
    """fade_e w_e, w the softmax over all edges with the same receiver in which each counts fade_e times.

    So an edge comes to nothing at the cutoff, whether or not there are others.
    """
    index = receiver[:, None].expand_as(logits)
    largest = logits.new_zeros(nodes, logits.shape[1]).scatter_reduce(0, index, logits.detach(), "amax", include_self=False)
    exponentials = fade * (logits - largest[receiver]).exp()
    total = exponentials.new_zeros(nodes, exponentials.shape[1]).index_add(0, receiver, exponentials)
    # an atom whose neighbours are all at the cutoff divides by nothing
    return fade * exponentials / total.clamp(min=1e-12).index_select(0, receiver)


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
    """Attention and a feed-forward net, each after a layer norm and beside a residual."""

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
        self.radial = radial_network(radial, self.dtp.weight_numel)
        self.proj = LinearRS(self.dtp.irreps_out.simplify(), irreps)

    def forward(
        self,
        x: Features,
        sh: Float[Tensor, "edge sh"],
        radial: Float[Tensor, "edge k"],
        fade: Float[Tensor, "edge 1"],
        edge_index: Int[Tensor, "2 edge"],
    ) -> Features:
        ones = self.exp(torch.ones_like(x[:, :1]))
        message = fade * self.proj(self.dtp(ones.index_select(0, edge_index[0]), sh, self.radial(radial)))
        return x.new_zeros(len(x), message.shape[1]).index_add(0, edge_index[1], message)


class Equiformer(nn.Module):
    """The energy of each atom: their sum is the molecule's, and its slopes are the forces.

    Args:
        irreps: hidden features, scalars first; an even number of each, for two heads.
        depth: blocks of attention and feed-forward net.
        species: kinds of atoms, which `numbers` counts from 0.
        radial: Gaussians that a distance is seen through, between 0 and the cutoff.
        cutoff: from which distance on atoms do not see each other.
    """

    def __init__(
        self, irreps: str = "6x0e+4x1o+2x2e", depth: int = 2, species: int = 4, radial: int = 6, cutoff: float = 5.0
    ) -> None:
        super().__init__()
        features = o3.Irreps(irreps)
        self.species, self.cutoff = species, cutoff
        self.irreps_sh = o3.Irreps.spherical_harmonics(features.lmax)
        self.register_buffer("centres", torch.linspace(0, cutoff, radial), persistent=False)
        self.embedding = o3.Linear(o3.Irreps([(species, (0, 1))]), features, biases=True)
        self.edge_degree = EdgeDegree(features, self.irreps_sh, radial)
        self.blocks = nn.ModuleList(Block(features, self.irreps_sh, species, radial) for _ in range(depth))
        self.norm = LayerNorm(features)
        self.head_1 = LinearRS(features, features[:1])
        self.head_2 = LinearRS(features[:1], o3.Irreps("1x0e"))

    def forward(
        self, numbers: Int[Tensor, " n"], positions: Float[Tensor, "n 3"], edge_index: Int[Tensor, "2 edge"]
    ) -> Float[Tensor, " n"]:
        relative = positions.index_select(0, edge_index[0]) - positions.index_select(0, edge_index[1])
        distance = relative.norm(dim=-1, keepdim=True)
        radial = torch.exp(-(((distance - self.centres) * (len(self.centres) - 1) / self.cutoff) ** 2))
        fade = (1 + torch.cos(torch.pi * (distance / self.cutoff).clamp(max=1))) / 2
        sh = o3.spherical_harmonics(self.irreps_sh, relative, normalize=True, normalization="component")
        species = nn.functional.one_hot(numbers, self.species).to(positions.dtype)
        x = self.embedding(species)
        x = x + self.edge_degree(x, sh, radial, fade, edge_index)
        for block in self.blocks:
            x = block(x, species, sh, radial, fade, edge_index)
        energies: Tensor = self.head_2(nn.functional.silu(self.head_1(self.norm(x))))
        return energies[:, 0]
