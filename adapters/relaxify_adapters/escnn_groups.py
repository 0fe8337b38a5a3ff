"""escnn's fibre groups: which of their elements are the generators of the group that a user names, and how these act."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import exponential
from relaxify.grids.taps import grid_actions
from relaxify.groups import Group
from relaxify.representations import Block, Representation
from relaxify_adapters.escnn_space import Placement, placement, speed


class NotASubgroupError(ValueError):
    """The group that is asked for does not act on this layer's features."""


# a turn so small that irreps up to frequency 31 turn by less than a right angle, up to which the sine has an inverse
_SMALL = 0.05
# and one that has no small multiple that is a whole turn
_GENERIC = 0.7


@dataclass(frozen=True)
class Fibre:
    """How `group` sits in the fibre group of a gspace.

    `finite` are the fibre's elements for the finite generators, which move the base space by `matrices`.
    """

    group: Group
    matrices: Float[Tensor, "fin d d"]
    finite: tuple[Any, ...]
    placement: Placement
    _actions: dict[int, tuple[Any, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    _matrices: dict[int, tuple[Any, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def grid(self, size: tuple[int, ...]) -> Float[Tensor, "actions taps taps"]:
        """How each generator moves the taps of a kernel of this size."""
        return grid_actions(self.group.generators, self.matrices, size)

    @functools.cached_property
    def some_elements(self) -> tuple[Any, ...]:
        """Generators, and a turn for each Lie generator, as elements of the fibre group."""
        return (*self.finite, *self._turns(_GENERIC))

    def matrices_of(self, rep: Any) -> Float[Tensor, "elements d d"]:
        """How `some_elements` act."""
        if id(rep) not in self._matrices:
            acting = [torch.tensor(rep(g)).to(torch.float64) for g in self.some_elements]
            self._matrices[id(rep)] = rep, torch.stack(acting) if acting else torch.zeros(0, rep.size, rep.size).double()
        return self._matrices[id(rep)][1]

    def _turns(self, angle: float) -> tuple[Any, ...]:
        return tuple(self.placement.turn(generator, angle) for generator in self.group.generators)

    @functools.cached_property
    def _small_turns(self) -> tuple[Any, ...]:
        return self._turns(_SMALL)

    def turning_error(self, rep: Any) -> float:
        """The largest |exp(t drho(A)) - rho(exp(t A))| at one t, over the Lie generators A."""
        errors = [0.0]
        turns = self.matrices_of(rep)[len(self.finite) :]
        for generator, turned, derivative in zip(self.group.generators, turns, self.action(rep), strict=False):
            errors.append(float((exponential(_GENERIC / speed(generator) * derivative) - turned).norm()))
        return max(errors)

    def action(self, rep: Any) -> Float[Tensor, "actions d d"]:
        """drho of the Lie generators, then rho of the finite ones, in float64."""
        # two representations of one name may differ in their bases
        if id(rep) not in self._actions:
            pairs = zip(self.group.generators, self._small_turns, strict=True)
            lie = [self._derivative(rep, generator, small) for generator, small in pairs]
            finite = [torch.tensor(rep(g)).to(torch.float64) for g in self.finite]
            none = torch.zeros(0, rep.size, rep.size, dtype=torch.float64)
            self._actions[id(rep)] = rep, torch.stack([*lie, *finite]) if lie or finite else none
        return self._actions[id(rep)][1]

    def representation(self, field_type: Any) -> Representation:
        """The representation of an escnn field type, equal neighbours as one block."""
        blocks: list[Block] = []
        actions: list[Tensor] = []
        for rep in field_type.representations:
            if blocks and blocks[-1].name == rep.name:
                blocks[-1] = Block(rep.name, blocks[-1].multiplicity + 1, rep.size)
                continue
            blocks.append(Block(rep.name, 1, rep.size))
            actions.append(self.action(rep))
        return Representation(self.group, tuple(blocks), tuple(actions))

    def _derivative(self, rep: Any, generator: Float[Tensor, "d d"], small: Any) -> Float[Tensor, "d d"]:
        """drho(A), irrep by irrep, from the logarithm of rho at a small turn: no difference is taken."""
        parts = {name: _logarithm(torch.tensor(rep.group.irrep(*name)(small)).to(torch.float64)) for name in set(rep.irreps)}
        basis = torch.tensor(rep.change_of_basis).to(torch.float64)
        derivative = basis @ torch.block_diag(*(parts[name] for name in rep.irreps)) @ torch.linalg.inv(basis)
        derivative *= speed(generator) / _SMALL
        return torch.where(derivative.abs() < 1e-12, 0, derivative)


@dataclass(frozen=True, eq=False)
class _Same:
    """Equal to itself alone: escnn's gspaces may have no hash, and equal ones may differ."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def fibre_of(gspace: Any, group: Group) -> Fibre:
    """The group as a subgroup of a gspace's fibre group, whose axes of reflection may lie elsewhere in the plane.

    NotASubgroupError if it is not one: the message says what the layer is equivariant under.
    """
    return _fibre_of(_Same(gspace), group)


@functools.lru_cache(maxsize=32)
def _fibre_of(same: _Same, group: Group) -> Fibre:
    gspace = same.value
    placed = placement(gspace)
    if placed is None:
        raise NotASubgroupError(f"its group {gspace.fibergroup.name} has no base space that would say how it moves points")
    if group.dim != placed.dim:
        wanted = "" if placed.dim == 2 else "; pass 'SO(3)', 'O(3)' or a Group.from_generators(...) of 3 x 3 matrices"
        raise NotASubgroupError(f"its features transform under {placed.name}, on which {group.name} does not act{wanted}")
    for frame in placed.frames():
        matrices = frame @ group.finite @ frame.mT
        finite = tuple(placed.element(matrix) for matrix in matrices)
        turns = (placed.turn(generator, _GENERIC) for generator in group.generators)
        if all(g is not None for g in (*finite, *turns)):
            return Fibre(group, matrices, finite, placed)
    if placed.fibre.order() == 1:
        raise NotASubgroupError(f"it is equivariant under translations alone, and {group.name} is more")
    raise NotASubgroupError(f"it is equivariant under {placed.name}, which does not contain {group.name}")


def _logarithm(rotation: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The antisymmetric X with exp(X) = R, for turns by less than a right angle: (R - R^T) / 2 = sinh(X)."""
    sine, axes = torch.linalg.eigh((rotation - rotation.mT) / 2j)
    return ((axes * sine.arcsin() * 1j) @ axes.mH).real
