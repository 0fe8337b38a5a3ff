"""Inputs of atomistic models, known by the names that PyG, ASE, MACE, NequIP, SchNetPack and TorchMD-Net give them.

A name decides only where the shape fits it, and of rotations of space alone.
"""

from __future__ import annotations

from torch import Tensor

from relaxify.groups import Group

POSITIONS = frozenset({"pos", "positions", "_positions", "coords", "coordinates", "xyz"})
"""x -> R x + t."""

EDGES = frozenset(
    {"edge_index", "edges", "edge_src", "edge_dst", "senders", "receivers", "idx_i", "idx_j", "_idx_i", "_idx_j"}
)
"""Which node is joined to which."""

_ROWS = frozenset(
    {"cell", "_cell", "lattice", "box", "shifts", "offsets", "_offsets", "edge_vec", "edge_vectors", "_Rij"}
    | {"forces", "_forces", "force", "velocities", "velocity", "vel", "dipole", "dipole_moment"}
)
"""Vectors in rows: v -> R v. The rows of a cell are its vectors; shifts are sums of them."""

_MATRICES = frozenset({"stress", "_stress", "virials", "virial", "strain", "displacement", "polarizability"})
"""T -> R T R^T."""

_STILL = frozenset(
    {"unit_shifts", "edge_cell_shift", "cell_shift", "frac_coords", "pbc", "_pbc"}
    | {"masses", "_masses", "charges", "_charges", "energy", "_energy", "weight", "energy_weight", "forces_weight"}
    | {"stress_weight", "total_charge", "total_spin", "numbers", "atomic_numbers", "_atomic_numbers", "z", "batch", "ptr"}
)
"""In multiples of the cell, or one number for each atom: these stay."""


def axes_by_name(group: Group, name: str, tensor: Tensor) -> tuple[int, ...] | None:
    """The axes on which rotations act on an input of this name, () for none; None if the name says nothing of it.

    >>> import torch
    >>> rotations = Group.parse("SO(3)")
    >>> axes_by_name(rotations, "input.0.cell", torch.eye(3)), axes_by_name(rotations, "input.x", torch.eye(3))
    ((1,), None)
    """
    key, n = name.rpartition(".")[2], group.dim - group.is_affine
    if n != 3 or group.name.startswith(("S(", "C(", "D(")):
        return None
    sizes = tuple(tensor.shape)
    if key in _STILL:
        return ()
    if key in POSITIONS | _ROWS and sizes[-1:] == (n,):
        return (tensor.ndim - 1,)
    if key in _MATRICES and sizes[-2:] == (n, n):
        return tensor.ndim - 2, tensor.ndim - 1
    return None
