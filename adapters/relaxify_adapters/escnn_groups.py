"""escnn's fibre groups: which of their elements are the generators of the group that a user names, and how these act."""

from __future__ import annotations

from collections.abc import Iterator
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
    _actions: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def grid(self, size: tuple[int, ...]) -> Float[Tensor, "actions taps taps"]:
        """How each generator moves the taps of a kernel of this size."""
        return grid_actions(self.group.generators, self.matrices, size)

    def some_elements(self) -> Iterator[Any]:
        """Generators, and a turn for each Lie generator, as elements of the fibre group."""
        yield from self.finite
        for generator in self.group.generators:
            yield self.placement.turn(generator, _GENERIC)

    def turning_error(self, rep: Any) -> float:
        """The largest |exp(t drho(A)) - rho(exp(t A))| at one t, over the Lie generators A."""
        errors = [0.0]
        for generator, derivative in zip(self.group.generators, self.action(rep), strict=False):
            turned = torch.tensor(rep(self.placement.turn(generator, _GENERIC))).to(torch.float64)
            errors.append(float((exponential(_GENERIC / speed(generator) * derivative) - turned).norm()))
        return max(errors)

    def action(self, rep: Any) -> Float[Tensor, "actions d d"]:
        """drho of the Lie generators, then rho of the finite ones, in float64."""
        if rep.name not in self._actions:
            lie = [self._derivative(rep, generator) for generator in self.group.generators]
            finite = [torch.tensor(rep(g)).to(torch.float64) for g in self.finite]
            none = torch.zeros(0, rep.size, rep.size, dtype=torch.float64)
            self._actions[rep.name] = torch.stack([*lie, *finite]) if lie or finite else none
        return self._actions[rep.name]

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

    def _derivative(self, rep: Any, generator: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        """drho(A), irrep by irrep, from the logarithm of rho at a small turn: no difference is taken."""
        small = self.placement.turn(generator, _SMALL)
        parts = {name: _logarithm(torch.tensor(rep.group.irrep(*name)(small)).to(torch.float64)) for name in set(rep.irreps)}
        basis = torch.tensor(rep.change_of_basis).to(torch.float64)
        derivative = basis @ torch.block_diag(*(parts[name] for name in rep.irreps)) @ torch.linalg.inv(basis)
        derivative *= speed(generator) / _SMALL
        return torch.where(derivative.abs() < 1e-12, 0, derivative)


def fibre_of(gspace: Any, group: Group) -> Fibre:
    """The group as a subgroup of a gspace's fibre group, whose axes of reflection may lie elsewhere in the plane.

    NotASubgroupError if it is not one: the message says what the layer is equivariant under.
    """
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
