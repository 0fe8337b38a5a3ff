"""Graphs of atoms: batches with an index, cut-offs, nearest neighbours, forces, cells, edges as inputs, data objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.nn import MessagePassing, global_add_pool

from verdicts.actions import along, each, first, fixed, keyed
from verdicts.entry import BROKEN, SOUND, Action, Entry, told
from verdicts.parts import (
    constant,
    linear,
    made,
    mlp,
    plain,
)
from verdicts.vector_models import centred

ATOMS = 5
VECTOR = along(-1)


def graph(
    name: str,
    make: Callable[[], nn.Module],
    carry: Action = fixed,
    fault: str = "",
    *,
    group: str = "SO(3)",
    move: Action | None = None,
    inputs: Callable[[], Any] = lambda: (torch.randn(12, 3),),
    **more: Any,
) -> Entry:
    """A model of positions and what belongs to them."""
    return Entry(name, group, make, inputs, move or first(VECTOR), carry, BROKEN if fault else SOUND, fault, **more)


def batch_of(graphs: int) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (torch.randn(ATOMS * graphs, 3), torch.arange(graphs).repeat_interleave(ATOMS))


def summed(values: Tensor, batch: Tensor) -> Tensor:
    return values.new_zeros(int(batch.max()) + 1, *values.shape[1:]).index_add(0, batch, values)


def about_the_mean(x: Tensor, batch: Tensor) -> Tensor:
    return x - (summed(x, batch) / torch.bincount(batch)[:, None])[batch]


def energies(act: Callable[[Tensor], Tensor], keep: bool = True) -> Callable[[], nn.Module]:
    """One number for each graph."""

    def forward(self: nn.Module, x: Tensor, batch: Tensor) -> Tensor:
        v = act(self.up(about_the_mean(x, batch)[..., None]))
        found = summed(self.head(torch.tanh(v.square().sum(1))), batch)
        return found if keep else found.squeeze(-1)

    return plain(forward, up=linear(1, 6), head=made(nn.Linear, 6, 1))


def same(x: Tensor) -> Tensor:
    return x


def envelope(d: Tensor, cutoff: float) -> Tensor:
    """Smooth at the cut-off."""
    return (1 - (d / cutoff).clamp(max=1).square()).square()


def unclamped(d: Tensor, cutoff: float) -> Tensor:
    return (1 - (d / cutoff).square()).square()


def radial(cut: Callable[[Tensor, float], Tensor], by: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Messages of all pairs, weighed by a cut-off."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        r = x[:, None] - x[None]
        d = by(r)
        return (self.phi(torch.exp(-d)) * cut(d, 1.5) * r).sum(1)

    return forward


def length(r: Tensor) -> Tensor:
    return (r.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def longest(r: Tensor) -> Tensor:
    return r.abs().amax(-1, keepdim=True)


def within(self: nn.Module, x: Tensor, radius: float = 1.0) -> Tensor:
    """Sums over the pairs that are at most a radius apart."""
    d = (x[:, None] - x[None]).norm(dim=-1)
    i, j = ((d <= radius) & (d > 0)).nonzero(as_tuple=True)
    return torch.zeros_like(x).index_add(0, i, x[j] - x[i])


def nearest(self: nn.Module, x: Tensor) -> Tensor:
    i = torch.cdist(x, x).topk(4, largest=False).indices[:, 1:]
    return (x[i] - x[:, None]).sum(1)


def nearest_lengths(self: nn.Module, x: Tensor) -> Tensor:
    return self.head(torch.cdist(x, x).topk(4, largest=False).values[:, 1:])


def jittered() -> tuple[Tensor]:
    """Positions whose neighbours are never equally far."""
    return (torch.cartesian_prod(*[torch.arange(2.0)] * 3) * 1.1 + 0.2 * torch.rand(8, 3),)


LATTICE = constant(torch.cartesian_prod(*[torch.arange(3.0)] * 3)[:20])


class Convolution(MessagePassing):
    """Messages of what the edges are like."""

    def __init__(self, features: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__(aggr="add")
        self.net, self.features = mlp(width, 4), features

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=x)

    def message(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        return self.net(self.features(x_j - x_i))


class OnData(nn.Module):
    """Energies of the graphs of a data object."""

    def __init__(self, features: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.conv, self.head = Convolution(features, width), nn.Linear(4, 1)

    def forward(self, data: Any) -> Tensor:
        atoms = torch.tanh(self.conv(data.pos, data.edge_index)) + data.z[:, None]
        return global_add_pool(self.head(atoms), data.batch)


def squares(r: Tensor) -> Tensor:
    return torch.exp(-r.square().sum(-1, keepdim=True))


def data_objects(graphs: int) -> Callable[[], tuple[Any]]:
    def build() -> tuple[Any]:
        pairs = torch.combinations(torch.arange(ATOMS)).T
        edges = torch.cat([pairs, pairs.flip(0)], 1)
        return (
            Batch.from_data_list(
                [Data(pos=torch.randn(ATOMS, 3), edge_index=edges, z=torch.rand(ATOMS)) for _ in range(graphs)]
            ),
        )

    return build


def with_forces(energy: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[], nn.Module]:
    def forward(self: nn.Module, x: Tensor) -> dict[str, Tensor]:
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            total = energy(self, x)
            (gradient,) = torch.autograd.grad(total, x)
        return {"energy": total.detach(), "forces": -gradient}

    return plain(forward, phi=lambda: mlp(1, 1))


def cut_energy(self: nn.Module, x: Tensor) -> Tensor:
    d = length(x[:, None] - x[None])
    return (self.phi(torch.exp(-d)) * envelope(d, 2.0)).sum()


def trapped_energy(self: nn.Module, x: Tensor) -> Tensor:
    return cut_energy(self, x) + self.phi(torch.exp(-x[:, 2:].square())).sum()


ENERGY_AND_FORCES = keyed(energy=fixed, forces=VECTOR)


def in_a_cell() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3), 2.0 * torch.eye(3) + 0.3 * torch.randn(3, 3)


def periodic(wrap: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Pairs with their nearest image, to a cut-off, of positions and the rows of a cell."""

    def forward(self: nn.Module, x: Tensor, cell: Tensor) -> Tensor:
        d = length(wrap(x[:, None] - x[None], cell))
        return (self.phi(torch.exp(-d)) * envelope(d, 1.2)).sum()

    return forward


def by_fractions(r: Tensor, cell: Tensor) -> Tensor:
    fractions = r @ torch.linalg.inv(cell)
    return r - fractions.round() @ cell


def by_edges_of_a_box(r: Tensor, cell: Tensor) -> Tensor:
    edges = cell.diagonal()
    return r - (r / edges).round() * edges


ROTATED_CELL = each(VECTOR, VECTOR)


def edges_given() -> dict[str, Tensor]:
    return {"edge_vec": torch.randn(14, 3), "edge_index": torch.randint(0, 6, (2, 14)), "species": torch.randint(0, 4, (6,))}


def of_edges(self: nn.Module, edge_vec: Tensor, edge_index: Tensor, species: Tensor) -> Tensor:
    weight = self.phi(torch.cat([length(edge_vec), self.embed(species)[edge_index[1]]], -1))
    return torch.zeros(6, 3).to(edge_vec).index_add(0, edge_index[0], weight * edge_vec)


def of_edge_signs(self: nn.Module, edge_vec: Tensor, edge_index: Tensor, species: Tensor) -> Tensor:
    flipped = edge_vec * edge_vec[:, :1].sign()
    return of_edges(self, flipped, edge_index, species)


def one_hot_species() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 3), F.one_hot(torch.randint(0, 3, (8,)), 3).float()


def of_species(self: nn.Module, x: Tensor, species: Tensor) -> Tensor:
    return (self.phi(species) * centred(x)).sum(0)


def torsion(self: nn.Module, x: Tensor) -> Tensor:
    """sin and cos of the angles between successive planes of a chain."""
    b = x[1:] - x[:-1]
    n = torch.linalg.cross(b[:-1], b[1:])
    sine = (torch.linalg.cross(n[:-1], n[1:]) * F.normalize(b[1:-1], dim=-1)).sum(-1)
    angle = torch.atan2(sine, (n[:-1] * n[1:]).sum(-1))
    return self.head(torch.stack([angle.sin(), angle.cos()], -1))


def bond_angles(self: nn.Module, x: Tensor) -> Tensor:
    b = F.normalize(x[1:] - x[:-1], dim=-1)
    return self.head((b[:-1] * b[1:]).sum(-1, keepdim=True).clamp(-0.999, 0.999).acos())


PHI = {"phi": lambda: mlp(1, 1)}
EDGES = {"phi": lambda: mlp(4, 1), "embed": made(nn.Embedding, 4, 3)}

ENTRIES = (
    *(graph(f"energies of {n} graphs", energies(same), inputs=batch_of(n)) for n in (1, 3, 32)),
    graph("one number for each of 4 graphs", energies(same, keep=False), inputs=batch_of(4)),
    graph("one number for each of 3 graphs", energies(same, keep=False), inputs=batch_of(3)),
    *(graph(f"broken energies of {n} graphs", energies(torch.relu), fixed, ":relu", inputs=batch_of(n)) for n in (1, 3, 32)),
    graph("one broken number for each of 4 graphs", energies(torch.relu, keep=False), fixed, ":relu", inputs=batch_of(4)),
    graph("one broken number for each of 3 graphs", energies(torch.relu, keep=False), fixed, ":relu", inputs=batch_of(3)),
    graph("messages within a smooth cut-off", plain(radial(envelope, length), **PHI), VECTOR, group="O(3)"),
    graph("messages with an unclamped cut-off", plain(radial(unclamped, length), **PHI), VECTOR, group="O(3)"),
    graph("messages within a cube", plain(radial(envelope, longest), **PHI), VECTOR, ":amax :abs"),
    graph("an unclamped cut-off by the longest component", plain(radial(unclamped, longest), **PHI), VECTOR, ":amax :abs"),
    graph("pairs within a radius", plain(lambda self, x: within(self, x, 1.4)), VECTOR, inputs=jittered),
    graph("pairs within a radius that is a lattice's", plain(within), VECTOR, ":le :__le__ :nonzero :norm", inputs=LATTICE),
    graph("nearest neighbours", plain(nearest), VECTOR),
    graph("nearest neighbours on a lattice", plain(nearest), VECTOR, ":topk :cdist :__getitem__", inputs=LATTICE),
    graph("lengths to nearest neighbours on a lattice", plain(nearest_lengths, head=lambda: mlp(3, 2)), inputs=LATTICE),
    graph(
        "neighbours by one coordinate",
        plain(lambda self, x: x[(x[:, None, 0] - x[None, :, 0]).abs().topk(3, largest=False).indices].mean(1)),
        VECTOR,
        ":__getitem__ :topk",
    ),
    graph("a data object", lambda: OnData(squares, 1), move=first(keyed(pos=VECTOR)), inputs=data_objects(4)),
    graph(
        "a data object with edge vectors in an mlp",
        lambda: OnData(lambda r: r, 3),
        fixed,
        "conv.net.0:linear",
        move=first(keyed(pos=VECTOR)),
        inputs=data_objects(4),
    ),
    graph(
        "a data object with manhattan edges",
        lambda: OnData(lambda r: r.abs().sum(-1, keepdim=True), 1),
        fixed,
        "conv:abs",
        move=first(keyed(pos=VECTOR)),
        inputs=data_objects(2),
    ),
    graph("energy and forces", with_forces(cut_energy), ENERGY_AND_FORCES, group="O(3)"),
    graph("energy and forces in a trap", with_forces(trapped_energy), ENERGY_AND_FORCES, ":__getitem__ phi.0:linear"),
    told(graph("a periodic cell", plain(periodic(by_fractions), **PHI), move=ROTATED_CELL, inputs=in_a_cell)),
    told(
        graph(
            "a box along the axes",
            plain(periodic(by_edges_of_a_box), **PHI),
            fixed,
            ":diagonal :div :__truediv__ :round",
            move=ROTATED_CELL,
            inputs=in_a_cell,
        )
    ),
    graph("edges by name", plain(of_edges, **EDGES), VECTOR, move=keyed(edge_vec=VECTOR), inputs=edges_given),
    graph(
        "edges by name that are turned to one side",
        plain(of_edge_signs, **EDGES),
        VECTOR,
        ":sign :__getitem__ :mul",
        move=keyed(edge_vec=VECTOR),
        inputs=edges_given,
    ),
    told(graph("three species, one-hot", plain(of_species, phi=lambda: mlp(3, 1)), VECTOR, inputs=one_hot_species)),
    told(
        graph(
            "three species, one-hot, added to positions",
            plain(lambda self, x, species: (centred(x) + species).norm(dim=-1)),
            fixed,
            ":add :norm",
            inputs=one_hot_species,
        )
    ),
    graph("bond angles", plain(bond_angles, head=lambda: mlp(1, 2)), group="O(3)"),
    graph("torsion angles", plain(torsion, head=lambda: mlp(2, 2))),
    graph(
        "torsion angles under reflections",
        plain(torsion, head=lambda: mlp(2, 2)),
        fixed,
        "head.0:linear :stack",
        group="O(3)",
    ),
    graph("laplacian eigenvalues of distances", plain(lambda self, x: torch.linalg.eigvalsh(torch.exp(-torch.cdist(x, x))))),
    graph(
        "distances to a fixed grid",
        plain(
            lambda self, x: self.head(torch.exp(-torch.cdist(centred(x), self.grid)).mean(0)),
            grid=lambda: torch.randn(6, 3),
            head=made(nn.Linear, 6, 2),
        ),
        fixed,
        ":cdist",
    ),
    graph(
        "voxels",
        plain(lambda self, x: self.head(torch.histc((centred(x)[:, 0] * 2).round(), 8, -4, 4)), head=made(nn.Linear, 8, 2)),
        fixed,
        ":__getitem__ :round :histc",
    ),
)
