"""Tensors of physics in the notations in use, axes reshaped where they had to be moved, sparse values, and what is zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from verdicts.actions import along, each, first, fixed, through
from verdicts.entry import BROKEN, SOUND, Action, Entry
from verdicts.parts import linear, normal, parameter, plain
from verdicts.vector_models import centred

VECTORS = along(-1)
ROWS, COLUMNS = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
"""Voigt's order: xx, yy, zz, yz, xz, xy."""


def tensors(
    name: str, function: Callable[[Tensor], Any], carry: Action = fixed, fault: str = "", *, label: str = "", **more: Any
) -> Entry:
    """A function of eleven vectors."""
    label = label or (BROKEN if fault else SOUND)
    make = plain(lambda self, x: function(self.mix(centred(x).mT).mT), mix=linear(11, 11))
    given = {"inputs": normal((11, 3)), "move": first(VECTORS), "label": label, "fault": fault, "group": "SO(3)"}
    return Entry(name, make=make, carry=carry, **(given | more))


def voigt(v: Tensor, factor: float = 1.0) -> Tensor:
    """v_i v_j, with `factor` where i < j: 1 of a stress, 2 of a strain."""
    return (v[:, :, None] * v[:, None])[:, ROWS, COLUMNS] * weights(factor).to(v)


def weights(factor: float) -> Tensor:
    return torch.tensor([1.0, 1.0, 1.0, factor, factor, factor])


def on_voigt(factor: float = 1.0) -> Callable[[Tensor], Tensor]:
    """How a symmetric tensor in this notation turns: written out, moved as a matrix, and read off again."""

    def matrix(g: Tensor) -> Tensor:
        columns = []
        for unit, i, j, weight in zip(torch.eye(6).to(g), ROWS, COLUMNS, weights(factor).to(g), strict=True):
            del unit
            whole = torch.zeros(3, 3).to(g)
            whole[i, j] = whole[j, i] = 1 / weight
            columns.append((g @ whole @ g.mT)[ROWS, COLUMNS] * weights(factor).to(g))
        return torch.stack(columns, dim=1)

    return matrix


def newton(v: Tensor) -> tuple[Tensor, Tensor]:
    """Forces between pairs, and their sum: zero, but for rounding."""
    r = v[:, None] - v[None]
    forces = (r * torch.exp(-r.norm(dim=-1, keepdim=True))).sum(1)
    return forces, forces.sum(0)


def traceless(v: Tensor) -> tuple[Tensor, Tensor]:
    quadrupoles = v[:, :, None] * v[:, None] - torch.eye(3).to(v) * v.square().sum(1)[:, None, None] / 3
    return quadrupoles, torch.einsum("nii->n", quadrupoles)


def of_unit_vectors(v: Tensor) -> tuple[Tensor, Tensor]:
    return v, (v / v.norm(dim=1, keepdim=True)).norm(dim=1) - 1


def scaled_by_node(h: Tensor) -> Tensor:
    return h * torch.linspace(1, 2, 6).to(h)[:, None]


def on_sparse(g: Tensor, value: Tensor) -> Tensor:
    return VECTORS(g, value.to_dense())


def blanked(v: Tensor) -> Tensor:
    v = v.clone()
    v[:, 2] = 0
    return v * v.norm()


def messages(act: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A graph by its sparse adjacency."""

    def forward(self: nn.Module, adjacency: Tensor, x: Tensor) -> Tensor:
        return act(torch.sparse.mm(adjacency, self.mix(x)))

    return plain(forward, mix=linear(4, 4))


def relabelled(g: Tensor, values: Any) -> Any:
    adjacency, x = values
    g = g.to(x.dtype)
    return (g @ adjacency.to_dense() @ g.mT).to_sparse(), g @ x


def graph() -> tuple[Tensor, Tensor]:
    return (torch.rand(6, 6) > 0.5).float().to_sparse(), torch.randn(6, 4)


def sparse_graph(name: str, act: Callable[[Tensor], Tensor], fault: str = "") -> Entry:
    label = BROKEN if fault else SOUND
    make = messages(act)
    return Entry(name, "S(6)", make, graph, relabelled, along(0), label, fault, input_action=relabelled)


def complex_plane(name: str, function: Callable[[Tensor], Tensor], fault: str = "") -> Entry:
    """A function of complex numbers, which turns of the plane multiply by exp(it)."""
    make = plain(
        lambda self, x: torch.view_as_real(function(torch.view_as_complex(x)[:, None] * self.w)), w=lambda: parameter(4)
    )
    label = BROKEN if fault else SOUND
    return Entry(name, "SO(2)", make, normal((11, 2)), first(along(-1)), along(-1), label, fault)


ENTRIES = (
    tensors("a hyperpolarisability", lambda v: torch.einsum("ni,nj,nk->ijk", v, v, v), along(-3, -2, -1)),
    tensors("tensors of rank 3 at each point", lambda v: torch.einsum("ni,nj,nk->nijk", v, v, v), along(-3, -2, -1)),
    tensors("a tensor of rank 4", lambda v: torch.einsum("ni,nj,nk,nl->ijkl", v, v, v, v), along(-4, -3, -2, -1)),
    tensors(
        "a tensor of rank 3 of absolute values",
        lambda v: torch.einsum("ni,nj,nk->ijk", v, v.abs(), v),
        along(-3, -2, -1),
        ":abs",
    ),
    tensors("stresses as Voigt has them", voigt, through(on_voigt(), -1)),
    tensors("strains as Voigt has them", lambda v: voigt(v, 2.0), through(on_voigt(2.0), -1)),
    tensors("one strain", lambda v: voigt(v, 2.0).mean(0), through(on_voigt(2.0), -1)),
    tensors("one stress as Mandel has it", lambda v: voigt(v, 2**0.5).mean(0), through(on_voigt(2**0.5), -1)),
    tensors("strains with a factor too many", lambda v: voigt(v, 3.0), through(on_voigt(2.0), -1), ":mul"),
    tensors("an elasticity", lambda v: voigt(v).mT @ voigt(v), through(on_voigt(), -2, -1)),
    tensors("a compliance", lambda v: voigt(v, 2.0).mT @ voigt(v, 2.0), through(on_voigt(2.0), -2, -1)),
    tensors("a piezoelectric tensor", lambda v: v.mT @ voigt(v), lambda g, y: along(-2)(g, through(on_voigt(), -1)(g, y))),
    tensors("relu of an elasticity", lambda v: (voigt(v).mT @ voigt(v)).relu(), through(on_voigt(), -2, -1), ":relu"),
    tensors("axes reshaped in the place of moved", lambda v: v.reshape(3, 11), along(0), ":reshape"),
    tensors("axes moved, then reshaped back", lambda v: v.mT.reshape(11, 3), VECTORS, ":reshape"),
    tensors("a component set to zero in place", blanked, VECTORS, ":setitem"),
    tensors("a sum of forces beside the forces", newton, each(VECTORS, VECTORS)),
    tensors("lengths of unit vectors less one", of_unit_vectors, each(VECTORS, fixed)),
    tensors("a trace of what has none", traceless, each(along(-2, -1), fixed)),
    tensors("a sum of forces beside relu", lambda v: (newton(v)[1], torch.relu(v)), each(VECTORS, VECTORS), ":relu"),
    tensors("a sparse output", lambda v: (v @ v.mT).to_sparse(), fixed),
    tensors("a sparse output with a fault", lambda v: torch.relu(v).to_sparse(), on_sparse, ":relu"),
    sparse_graph("a sparse adjacency", torch.tanh),
    sparse_graph("a sparse adjacency, then a scale of one's own for each node", scaled_by_node, ":mul"),
    complex_plane("a gate by absolute values", lambda z: z * z.abs()),
    complex_plane("conjugates added", lambda z: z + 0.3 * z.conj(), ":add"),
)
