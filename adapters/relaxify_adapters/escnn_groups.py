"""escnn's groups of the plane: which elements of a fibre group are the generators of the group that a user names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.grids import grid_actions
from relaxify.groups import Group
from relaxify.representations import Block, Representation


class NotASubgroupError(ValueError):
    """The group that is asked for does not act on this layer's features."""


@dataclass(frozen=True)
class Fibre:
    """How `group` sits in the fibre group of a gspace.

    `finite` are the fibre's elements for its finite generators, which move the plane by `matrices`; `speeds` are its Lie
    generators, in turns of the plane by one radian.
    """

    group: Group
    matrices: Float[Tensor, "fin 2 2"]
    finite: tuple[Any, ...]
    speeds: tuple[float, ...]
    gspace: Any

    def grid(self, size: tuple[int, ...]) -> Float[Tensor, "actions taps taps"]:
        """How each generator moves the taps of a kernel of this size."""
        return grid_actions(self.group.generators, self.matrices, size)

    def some_elements(self) -> Iterator[Any]:
        """Generators, and a rotation for each Lie generator, as elements of the fibre group."""
        yield from self.finite
        for speed in self.speeds:
            yield _turn(self.gspace, 0.7 * speed)

    def turning_error(self, rep: Any) -> float:
        """|exp(t drho(A)) - rho(exp(t A))| at one t."""
        if not self.speeds:
            return 0.0
        turned = torch.tensor(rep(_turn(self.gspace, 0.7))).to(torch.float64)
        return float((torch.linalg.matrix_exp(0.7 * _derivative(rep)) - turned).norm())

    def action(self, rep: Any) -> Float[Tensor, "actions d d"]:
        """drho of the Lie generators, then rho of the finite ones, in float64."""
        lie = [speed * _derivative(rep) for speed in self.speeds]
        finite = [torch.tensor(rep(g)).to(torch.float64) for g in self.finite]
        none = torch.zeros(0, rep.size, rep.size, dtype=torch.float64)
        return torch.stack([*lie, *finite]) if lie or finite else none

    def representation(self, field_type: Any) -> Representation:
        """The representation of an escnn field type, equal neighbours as one block."""
        blocks: list[Block] = []
        actions: list[Tensor] = []
        made: dict[str, Tensor] = {}
        for rep in field_type.representations:
            if blocks and blocks[-1].name == rep.name:
                blocks[-1] = Block(rep.name, blocks[-1].multiplicity + 1, rep.size)
                continue
            blocks.append(Block(rep.name, 1, rep.size))
            actions.append(made.setdefault(rep.name, self.action(rep)))
        return Representation(self.group, tuple(blocks), tuple(actions))


def fibre_of(gspace: Any, group: Group) -> Fibre:
    """The group as a subgroup of a gspace's fibre group, whose axes of reflection may lie elsewhere.

    NotASubgroupError if it is none: the sentence says what the layer is equivariant under.
    """
    if gspace.dimensionality not in (0, 2) or type(gspace.fibergroup).__name__ not in _ELEMENT:
        raise NotASubgroupError(f"its group {gspace.fibergroup.name} is not one of the plane, and no other is known here")
    if group.dim != 2 or not group.compact:
        raise NotASubgroupError(f"its features transform under {_name(gspace)}, on which {group.name} does not act")
    for axis in _axes(gspace):
        matrices = _rotation(axis) @ group.finite @ _rotation(-axis)
        finite = tuple(_element(gspace, matrix) for matrix in matrices)
        if all(g is not None for g in finite) and (_is_continuous(gspace) or not len(group.generators)):
            speeds = tuple(float(generator[1, 0]) for generator in group.generators)
            return Fibre(group, matrices, finite, speeds, gspace)
    if gspace.fibergroup.order() == 1:
        raise NotASubgroupError(f"it is equivariant under translations alone, and {group.name} is more")
    raise NotASubgroupError(f"it is equivariant under {_name(gspace)}, which does not contain {group.name}")


def _name(gspace: Any) -> str:
    """The name of a gspace's group in our spelling; flips alone are D(1), whatever their axis."""
    kind, order = type(gspace.fibergroup).__name__, gspace.fibergroup.order()
    if kind == "CyclicGroup":
        is_flip = any(torch.linalg.det(_matrix(gspace, g)) < 0 for g in gspace.fibergroup.elements)
        return "D(1)" if is_flip else f"C({order})"
    return f"D({order // 2})" if kind == "DihedralGroup" else str(gspace.fibergroup.name)


def _is_continuous(gspace: Any) -> bool:
    return type(gspace.fibergroup).__name__ in ("SO2", "O2")


def _turn(gspace: Any, angle: float) -> Any:
    """The rotation by an angle, of a continuous fibre group."""
    fibre = gspace.fibergroup
    return fibre.element(angle) if type(fibre).__name__ == "SO2" else fibre.element((0, angle))


def _matrix(gspace: Any, g: Any) -> Float[Tensor, "2 2"]:
    """How an element of the fibre group moves the plane; without a plane, how it moves one that the group is defined on."""
    if gspace.dimensionality == 2:
        return torch.tensor(gspace.basespace_action(g)).to(torch.float64)
    flip, angle = _ELEMENT[type(gspace.fibergroup).__name__](gspace.fibergroup, g)
    return _rotation(angle) @ torch.diag(torch.tensor([1.0, -1.0 if flip else 1.0], dtype=torch.float64))


def _element(gspace: Any, matrix: Float[Tensor, "2 2"]) -> Any | None:
    """The element of the fibre group that moves the plane by this matrix, or None if none does."""
    candidates = gspace.fibergroup.elements
    if _is_continuous(gspace):
        flipped = torch.linalg.det(matrix) < 0
        if flipped and type(gspace.fibergroup).__name__ == "SO2":
            return None
        rest = matrix @ _matrix(gspace, gspace.fibergroup.element((1, 0.0))).mT if flipped else matrix
        angle = math.atan2(float(rest[1, 0]), float(rest[0, 0]))
        candidates = [gspace.fibergroup.element((1, angle)) if flipped else _turn(gspace, angle)]
    return next((g for g in candidates if torch.allclose(_matrix(gspace, g), matrix, atol=1e-9)), None)


def _axes(gspace: Any) -> list[float]:
    """0, and the angles of the axes of reflection that a gspace has: one's own D(n) may be turned."""
    if _is_continuous(gspace):
        return [0.0]
    matrices = [_matrix(gspace, g) for g in gspace.fibergroup.elements]
    flips = [matrix for matrix in matrices if torch.linalg.det(matrix) < 0]
    return [0.0, *(math.atan2(float(flip[1, 0]), float(flip[0, 0])) / 2 for flip in flips)]


def _rotation(angle: float) -> Float[Tensor, "2 2"]:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def _derivative(rep: Any) -> Float[Tensor, "d d"]:
    """drho of a turn by one radian: an irrep of frequency f turns by f."""
    frequencies = [(int(name[-1]), rep.group.irrep(*name).size) for name in rep.irreps]
    parts = [_rotation(math.pi / 2) * f if size == 2 else torch.zeros(1, 1, dtype=torch.float64) for f, size in frequencies]
    basis = torch.tensor(rep.change_of_basis).to(torch.float64)
    derivative = basis @ torch.block_diag(*parts) @ torch.linalg.inv(basis)
    return torch.where(derivative.abs() < 1e-12, 0, derivative)


# whether an element reflects, and by how much it turns after that
_ELEMENT: dict[str, Callable[[Any, Any], tuple[bool, float]]] = {
    "CyclicGroup": lambda fibre, g: (False, 2 * math.pi * g.value / fibre.order()),
    "DihedralGroup": lambda fibre, g: (bool(g.value[0]), 4 * math.pi * g.value[1] / fibre.order()),
    "SO2": lambda fibre, g: (False, float(g.value)),
    "O2": lambda fibre, g: (bool(g.value[0]), float(g.value[1])),
}
