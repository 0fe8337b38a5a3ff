"""How the fibre groups of escnn's gspaces move the plane or space: the matrix of each element, the element of each matrix.

escnn places its groups in O(2) or O(3), whose elements are matrices on (x, y) or (x, y, z). A group without a base space is
placed as escnn defines it: turns of the plane, reflections that keep the x axis, polyhedra as they stand on the grid.
"""

from __future__ import annotations

import copyreg
import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import exponential


@dataclass(frozen=True)
class Placement:
    """A fibre group inside of `ambient`, O(2) or O(3): `include` maps its elements there, `restrict` back, or to None."""

    fibre: Any
    ambient: Any
    include: Callable[[Any], Any]
    restrict: Callable[[Any], Any]
    dim: int

    @functools.cached_property
    def known(self) -> list[tuple[Any, Float[Tensor, "d d"]]]:
        """The elements of a finite group with their matrices."""
        return [] if self.is_continuous else [(g, self.matrix(g)) for g in self.fibre.elements]

    @property
    def is_continuous(self) -> bool:
        return self.fibre.order() < 0

    def matrix(self, g: Any) -> Float[Tensor, "d d"]:
        """How an element of the fibre group moves the base space."""
        return torch.tensor(self.ambient.standard_representation()(self.include(g))).to(torch.float64)

    def element(self, matrix: Float[Tensor, "d d"]) -> Any | None:
        """The element of the fibre group that moves the base space by this matrix, or None if none does."""
        if not torch.allclose(matrix @ matrix.mT, torch.eye(self.dim, dtype=torch.float64), atol=1e-6):
            return None
        known = self.known
        if self.is_continuous:
            g = self.restrict(self._in_ambient(matrix))
            known = [] if g is None else [(g, self.matrix(g))]
        return next((g for g, moved in known if torch.allclose(moved, matrix, atol=1e-6)), None)

    def turn(self, generator: Float[Tensor, "d d"], angle: float) -> Any | None:
        """The element exp(angle A / |A|), with |A| the angle by which exp(A) turns, or None if the group has none."""
        return self.element(exponential(angle / speed(generator) * generator)) if self.is_continuous else None

    def frames(self) -> list[Float[Tensor, "d d"]]:
        """Turns of the axes in which to look for a group: none, and, in the plane, those onto each axis of reflection."""
        frames = [torch.eye(self.dim, dtype=torch.float64)]
        if self.dim == 2:
            flips = [matrix for _, matrix in self.known if torch.linalg.det(matrix) < 0]
            frames += [_rotation(math.atan2(float(flip[1, 0]), float(flip[0, 0])) / 2) for flip in flips]
        return frames

    @property
    def name(self) -> str:
        """The group's name in our spelling; flips of the plane alone are D(1), whatever their axis."""
        name, order = str(self.fibre.name), self.fibre.order()
        if self.dim == 3:
            return _IN_SPACE[name][1] if name in _IN_SPACE else f"a group {name} of space"
        if any(torch.linalg.det(matrix) < 0 for _, matrix in self.known):
            return f"D({order // 2})"
        return name if self.is_continuous else f"C({order})"

    def _in_ambient(self, matrix: Float[Tensor, "d d"]) -> Any:
        flip = int(torch.linalg.det(matrix) < 0)
        if self.dim == 2:
            return self.ambient.element((flip, math.atan2(float(matrix[1, 0]), float(matrix[0, 0]))))
        return self.ambient.element((flip, (-matrix if flip else matrix).numpy()), "MAT")


def placement(gspace: Any) -> Placement | None:
    """How a gspace's fibre group moves its base space; None if there is no base space, and no usual one."""
    library, fibre = sys.modules["escnn.group"], gspace.fibergroup
    ambients = {2: library.o2_group, 3: library.o3_group}
    if gspace.dimensionality:
        ambient = ambients[gspace.dimensionality]()
        return Placement(fibre, ambient, gspace._inclusion, gspace._restriction, gspace.dimensionality)
    polygons = {"CyclicGroup": (None, fibre.order()), "DihedralGroup": (0.0, fibre.order() // 2)}
    key, dim = polygons.get(type(fibre).__name__) or _IN_THE_PLANE.get(fibre.name), 2
    if key is None:
        if fibre.name not in _IN_SPACE:
            return None
        key, dim = _IN_SPACE[fibre.name][0], 3
    ambient = ambients[dim]()
    _, include, restrict = ambient.subgroup(key)
    return Placement(fibre, ambient, include, restrict, dim)


@functools.cache
def share_groups() -> None:
    """Let copies of layers share escnn's groups, each of which exists once.

    Copied by value, a group's elements are asked for their hash while they are still empty, and layers over SO(3) cannot be
    copied at all.
    """
    for kind in sys.modules["escnn.group"].groups_dict.values():
        copyreg.pickle(kind, _by_name)


def _by_name(group: Any) -> Any:
    make = functools.partial(type(group)._generator, **group._keys)
    # a group made past the library's factories may have another under its name
    return (make, ()) if make() is group else object.__reduce_ex__(group, 4)


def speed(generator: Float[Tensor, "d d"]) -> float:
    """The angle by which exp(A) turns, of an antisymmetric A."""
    return float(generator.norm()) / math.sqrt(2)


def _rotation(angle: float) -> Float[Tensor, "2 2"]:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


# of escnn's groups, the subgroups of O(2) that they are when nothing says where they act
_IN_THE_PLANE: dict[str, tuple[Any, ...]] = {"SO(2)": (None, -1), "O(2)": (0.0, -1)}

# the subgroups of O(3), with their names in our spelling
_IN_SPACE: dict[str, tuple[tuple[Any, ...], str]] = {
    "SO(3)": ((False, "so3"), "SO(3)"),
    "O(3)": ((True, "so3"), "O(3)"),
    "Octahedral": ((False, "octa"), "Octa"),
    "FullOctahedral": ((True, "octa"), "FullOcta"),
    "Icosahedral": ((False, "ico"), "the icosahedron's rotation group"),
    "FullIcosahedral": ((True, "ico"), "the icosahedron's full symmetry group"),
}
