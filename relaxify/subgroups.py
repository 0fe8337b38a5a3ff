"""Subgroups: H inside of G by its matrices, and how a representation of G acts when only H does.

H's Lie generators are combinations of G's, so that drho restricted to H is the same combination; its finite generators are
elements of G.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.elements import element_of
from relaxify.groups import Group
from relaxify.random_elements import Element
from relaxify.representations import Representation


def subgroup(group: Group | str, within: Group | str) -> Group:
    """The group as a subgroup of another: by matrices of the other's size.

    A smaller group acts on neighbouring axes, the first on which it is a subgroup: SO(2) in SO(3) on x and y, that is about
    z, and SO(3) in SO(1,3) on space. "SO(2) about x" says another axis.

    ValueError if it is a subgroup nowhere.

    >>> subgroup("SO(2)", "O(3)").generators.tolist()
    [[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    """
    inner, outer = Group.parse(group), Group.parse(within)
    for placed in _placed(inner, outer.dim):
        if _is_within(placed, outer):
            return placed
    raise ValueError(
        f"{inner.name} is no subgroup of {outer.name}; pass one, or a Group of {outer.dim} x {outer.dim} matrices."
    )


def restricted(rep: Representation, sub: Group) -> Representation:
    """The representation as a subgroup of its group acts, block by block. ValueError if it is no subgroup.

    >>> vector = restricted(Representation.defining(Group.parse("O(3)")), Group.parse("O(2) about z"))
    >>> vector.group, vector.actions[0].shape
    (Group('O(2) about z'), torch.Size([2, 3, 3]))
    """
    sub = subgroup(sub, rep.group)
    coefficients, lie = _coefficients(sub, rep.group), len(rep.group.generators)
    elements = [element_of(rep.group, g) for g in sub.finite]
    actions = []
    for at, action in enumerate(rep.actions):
        moved = [rep.matrices(element)[at] for element in elements]
        actions.append(torch.cat([torch.einsum("ha,aij->hij", coefficients, action[:lie]), *(m[None] for m in moved)]))
    return Representation(sub, rep.blocks, tuple(actions))


def _placed(group: Group, size: int) -> Iterator[Group]:
    """The group on each run of neighbouring axes, the others left alone."""
    for before in range(size - group.dim + 1):
        after = size - group.dim - before
        generators = torch.nn.functional.pad(group.generators, (before, after, before, after))
        rest = torch.ones(size, dtype=torch.float64)
        rest[before : before + group.dim] = 0
        finite = torch.nn.functional.pad(group.finite, (before, after, before, after)) + torch.diag(rest)
        yield group if size == group.dim else replace(group, generators=generators, finite=finite)


def _is_within(group: Group, outer: Group) -> bool:
    if group.dim != outer.dim:
        return False
    lie = torch.einsum("ha,aij->hij", _coefficients(group, outer), outer.generators)
    if not torch.allclose(lie, group.generators, atol=1e-9):
        return False
    try:
        return all(isinstance(element_of(outer, g), Element) for g in group.finite)
    except ValueError:
        return False


def _coefficients(group: Group, outer: Group) -> Float[Tensor, "lie outer_lie"]:
    """Each Lie generator of a subgroup in the outer group's, by least squares."""
    if not len(outer.generators) or not len(group.generators):
        return torch.zeros(len(group.generators), len(outer.generators), dtype=torch.float64)
    sides = outer.generators.flatten(1).mT, group.generators.flatten(1).mT
    found: Tensor = torch.linalg.lstsq(*sides, driver="gelsd").solution.mT
    return found
