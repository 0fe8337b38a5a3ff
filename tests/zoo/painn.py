"""PaiNN: polarizable atom interaction networks (Schütt, Unke, Gastegger 2021, arXiv 2102.03150).

Vector features have the layout [atoms, 3, F]: U and V mix the last axis, whatever the axis before it carries.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.entry import Entry, along, each, paths
from zoo.graphs import neighbours

Scalars = Float[Tensor, "n f"]
Vectors = Float[Tensor, "n 3 f"]


def length(v: Tensor, dim: int) -> Tensor:
    return v.square().sum(dim).add(1e-8).sqrt()


def perceptron(width_in: int, width: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width_out))


class Message(nn.Module):
    """ds_i = sum_j phi_s(s_j) W_s(r), dv_i = sum_j v_j phi_vv(s_j) W_vv(r) + phi_vs(s_j) W_vs(r) r/|r|."""

    def __init__(self, width: int, radial: int) -> None:
        super().__init__()
        self.phi = perceptron(width, width, 3 * width)
        self.filter = nn.Linear(radial, 3 * width)

    def forward(
        self,
        s: Scalars,
        v: Vectors,
        direction: Float[Tensor, "edge 3"],
        radial: Float[Tensor, "edge k"],
        edge_index: Int[Tensor, "2 edge"],
    ) -> tuple[Scalars, Vectors]:
        sender, receiver = edge_index
        weights = self.phi(s)[sender] * self.filter(radial)
        s_message, vv, vs = weights.chunk(3, dim=-1)
        v_message = v[sender] * vv.unsqueeze(1) + direction.unsqueeze(-1) * vs.unsqueeze(1)
        return s.index_add(0, receiver, s_message), v.index_add(0, receiver, v_message)


class Update(nn.Module):
    """ds = a_ss + a_sv <U v, V v>, dv = a_vv U v, with a(s, |V v|)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.U = nn.Linear(width, width, bias=False)
        self.V = nn.Linear(width, width, bias=False)
        self.a = perceptron(2 * width, width, 3 * width)

    def forward(self, s: Scalars, v: Vectors) -> tuple[Scalars, Vectors]:
        u_v, v_v = self.U(v), self.V(v)
        ss, sv, vv = self.a(torch.cat([s, length(v_v, dim=1)], dim=-1)).chunk(3, dim=-1)
        return s + ss + sv * (u_v * v_v).sum(dim=1), v + vv.unsqueeze(1) * u_v


class Layer(nn.Module):
    def __init__(self, width: int, radial: int) -> None:
        super().__init__()
        self.message = Message(width, radial)
        self.update = Update(width)

    def forward(self, s: Scalars, v: Vectors, *edges: Tensor) -> tuple[Scalars, Vectors]:
        return self.update(*self.message(s, v, *edges))


class GatedBlock(nn.Module):
    """s' = a(s, |V v|), v' = b(s, |V v|) U v: the gated equivariant block of the tensorial outputs."""

    def __init__(self, width: int, width_out: int) -> None:
        super().__init__()
        self.U = nn.Linear(width, width_out, bias=False)
        self.V = nn.Linear(width, width, bias=False)
        self.gate = perceptron(2 * width, width, 2 * width_out)

    def forward(self, s: Scalars, v: Vectors) -> tuple[Scalars, Vectors]:
        s, gate = self.gate(torch.cat([s, length(self.V(v), dim=1)], dim=-1)).chunk(2, dim=-1)
        return nn.functional.silu(s), gate.unsqueeze(1) * self.U(v)


class PaiNN(nn.Module):
    """Features of atoms; the subclasses below read an energy, forces or a dipole moment from them."""

    def __init__(self, width: int = 8, depth: int = 2, radial: int = 6, cutoff: float = 5.0) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.embedding = nn.Embedding(10, width)
        self.layers = nn.ModuleList(Layer(width, radial) for _ in range(depth))
        self.register_buffer("frequencies", torch.arange(1, radial + 1) * torch.pi / cutoff)

    def features(
        self, numbers: Int[Tensor, " n"], positions: Float[Tensor, "n 3"], edge_index: Int[Tensor, "2 edge"]
    ) -> tuple[Scalars, Vectors]:
        relative = positions[edge_index[0]] - positions[edge_index[1]]
        distance = length(relative, dim=-1).unsqueeze(-1)
        cutoff = torch.where(distance < self.cutoff, (distance * torch.pi / self.cutoff).cos() + 1, 0) / 2
        radial = torch.sin(distance * self.frequencies) / distance * cutoff
        s = self.embedding(numbers)
        v = s.new_zeros(len(s), 3, s.shape[-1])
        for layer in self.layers:
            s, v = layer(s, v, relative / distance, radial, edge_index)
        return s, v


class PaiNNEnergy(PaiNN):
    """Energy; with `forces` also minus its gradient, taken inside forward."""

    def __init__(self, width: int = 8, depth: int = 2, forces: bool = False) -> None:
        super().__init__(width, depth)
        self.readout = perceptron(width, width, 1)
        self.forces = forces

    def forward(
        self, numbers: Int[Tensor, " n"], positions: Float[Tensor, "n 3"], edge_index: Int[Tensor, "2 edge"]
    ) -> Tensor | tuple[Tensor, Float[Tensor, "n 3"]]:
        if not self.forces:
            return self.readout(self.features(numbers, positions, edge_index)[0]).sum()
        with torch.enable_grad():
            positions = positions if positions.requires_grad else positions.detach().requires_grad_()
            energy = self.readout(self.features(numbers, positions, edge_index)[0]).sum()
            (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
        return energy, -gradient


class PaiNNDipole(PaiNN):
    """mu = sum_i mu_i + q_i (r_i - r_mean)."""

    def __init__(self, width: int = 8, depth: int = 2) -> None:
        super().__init__(width, depth)
        self.readout = nn.ModuleList([GatedBlock(width, width), GatedBlock(width, 1)])

    def forward(
        self, numbers: Int[Tensor, " n"], positions: Float[Tensor, "n 3"], edge_index: Int[Tensor, "2 edge"]
    ) -> Float[Tensor, "3"]:
        s, v = self.features(numbers, positions, edge_index)
        for block in self.readout:
            s, v = block(s, v)
        return (v.squeeze(-1) + s * (positions - positions.mean(0))).sum(0)


def molecule() -> tuple[Tensor, ...]:
    positions = 1.5 * torch.randn(24, 3)
    return torch.randint(10, (24,)), positions, neighbours(positions, 3.0)


SOURCE = "Schütt, Unke, Gastegger 2021, arXiv 2102.03150"
UPDATES = paths("layers.{i}.update.{map}", i=range(2), map="UV")
PERCEPTRONS = paths(
    "layers.{i}.message.phi.{j}", "layers.{i}.message.filter", "layers.{i}.update.a.{j}", i=range(2), j=(0, 2)
)
READOUT = paths("readout.{j}", j=(0, 2))

ENTRIES = (
    Entry(
        name="PaiNN energy",
        source=SOURCE,
        group="O(3)",
        make=PaiNNEnergy,
        inputs=molecule,
        expected=UPDATES,
        invariant=PERCEPTRONS | READOUT,
        notes="U and V act on the last axis of [atoms, 3, F] as it is; the vectors after the last layer are not used.",
    ),
    Entry(
        name="PaiNN forces",
        source=SOURCE,
        group="O(3)",
        make=partial(PaiNNEnergy, forces=True),
        inputs=molecule,
        expected=UPDATES,
        invariant=PERCEPTRONS | READOUT,
        output=each(None, along(-1)),
        notes="autograd inside forward: every op of features() is followed by its backward, in the same run.",
    ),
    Entry(
        name="PaiNN dipole",
        source=SOURCE,
        group="O(3)",
        make=PaiNNDipole,
        inputs=molecule,
        expected=UPDATES | paths("readout.{i}.{map}", i=range(2), map="UV"),
        invariant=PERCEPTRONS | paths("readout.{i}.gate.{j}", i=range(2), j=(0, 2)),
        output=along(-1),
        notes="gated equivariant blocks; readout.1.U has one output channel.",
    ),
)
