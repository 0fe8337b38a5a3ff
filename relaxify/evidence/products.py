"""Evidence under a product of groups: what each factor does to a value, on its own axes, together.

The elements of two factors commute, so that a value carries a representation of both exactly if it carries one of each. On
the axes of both, drho(A) of the one is drho(A) (x) 1, and rho(g) is rho(g) (x) 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, fx

from relaxify.evidence.evidence import Evidence
from relaxify.evidence.transformations import Axes, Pairs, Transformation
from relaxify.groups import Group

LARGEST_JOINT = 384
"""Components that factors act on together: 128 points in space. Matrices of a term grow with the square."""


class ProductEvidence(Evidence):
    """What runs under each factor say of each value. The nodes are those of the first factor's runs."""

    def __init__(self, group: Group, factors: Sequence[Evidence]) -> None:
        first = factors[0]
        self.group, self.factors = group, factors
        self.recording, self.nodes, self.tiny = first.recording, first.nodes, first.tiny
        self.diverged = next((each.diverged for each in factors if each.diverged is not None), None)
        self.pixel_maps = None
        self._number = {node: number for number, node in enumerate(self.nodes)}
        self._shared: dict[str, list[Tensor]] = {}

    @functools.cached_property
    def constants(self) -> frozenset[fx.Node]:
        return self.factors[0].constants

    def of(self, node: fx.Node, shape: tuple[int, ...] | None = None) -> Transformation:
        nodes = self.under_each(node)
        if nodes is None or node.meta.get("value") is None:
            return Transformation("undecided")
        found = [each.of(own, shape) for each, own in zip(self.factors, nodes, strict=True)]
        together = joint(self.group, found, shape or tuple(node.meta["value"].shape))
        if together.actions is None:
            return together
        # equal ones share their memory: those of many points are large
        alike = self._shared.setdefault(self._name(found), [])
        same = next((each for each in alike if torch.equal(each, together.actions)), None)
        alike += [together.actions] if same is None else []
        return replace(together, actions=alike[-1] if same is None else same)

    def _name(self, found: Sequence[Transformation]) -> str:
        acting = [(own, one) for own, one in zip(self.factors, found, strict=True) if one.actions is not None]
        return f"({' ⊗ '.join(f'{own.group.name} {own.name_of(one)}' for own, one in acting)})"

    def name_of(self, found: Transformation) -> str:
        """Of what `of` said of a value."""
        return next(name for name, alike in self._shared.items() if any(each is found.actions for each in alike))

    def under_each(self, node: fx.Node) -> list[fx.Node] | None:
        """The node in the runs of each factor; None if one of them took another course."""
        number = self._number[node]
        nodes = [each.nodes[number] if number < len(each.nodes) else None for each in self.factors]
        same = [own for own in nodes if own is not None and own.target == node.target]
        return same if len(same) == len(self.factors) else None

    def is_seen(self, node: fx.Node) -> bool:
        nodes = self.under_each(node)
        return nodes is not None and all(each.is_seen(own) for each, own in zip(self.factors, nodes, strict=True))

    def values(self, node: fx.Node) -> Pairs:
        nodes = self.under_each(node)
        assert nodes is not None
        return [pair for each, own in zip(self.factors, nodes, strict=True) for pair in each.values(own)]

    def past_divergence(self, node: fx.Node) -> bool:
        nodes = self.under_each(node)
        return nodes is None or any(each.past_divergence(own) for each, own in zip(self.factors, nodes, strict=True))


def joint(group: Group, found: Sequence[Transformation], shape: tuple[int, ...]) -> Transformation:
    """How a value transforms under a product whose factors do these things to it."""
    for kind in ("zero", "none", "undecided"):
        if (one := next((each for each in found if each.kind == kind), None)) is not None:
            return one
    if all(each.kind == "invariant" for each in found):
        return found[0]
    axes = tuple(dict.fromkeys(axis for each in found for axis in each.axes))
    pixels = next((each.pixels for each in found if each.pixels is not None), None)
    if math.prod(shape[axis] for axis in axes) > LARGEST_JOINT or (pixels and pixels.axes & {*axes}):
        return Transformation("undecided", beyond=True)
    parts = [_on(axes, shape, each, factor) for each, factor in zip(found, group.factors, strict=True)]
    lie = [part[: len(factor.generators)] for part, factor in zip(parts, group.factors, strict=True)]
    finite = [part[len(factor.generators) :] for part, factor in zip(parts, group.factors, strict=True)]
    residual = max(each.residual for each in found)
    return Transformation("linear", axes, torch.cat([*lie, *finite]), residual, pixels=pixels)


def _on(axes: Axes, shape: tuple[int, ...], found: Transformation, factor: Group) -> Float[Tensor, "actions n n"]:
    """What one factor does on the axes of all."""
    own = found.axes if found.actions is not None else ()
    actions = found.actions if found.actions is not None else _still(factor)
    order = [*own, *(axis for axis in axes if axis not in own)]
    sizes = [shape[axis] for axis in order]
    rest = torch.eye(math.prod(sizes[len(own) :]), dtype=actions.dtype)
    whole = torch.einsum("gij,kl->gikjl", actions, rest)
    places = [order.index(axis) for axis in axes]
    both = [1 + place for place in places] + [1 + len(order) + place for place in places]
    n = math.prod(sizes)
    return whole.reshape(len(actions), *sizes, *sizes).permute(0, *both).reshape(len(actions), n, n)


def _still(factor: Group) -> Float[Tensor, "actions 1 1"]:
    lie, finite = torch.zeros(len(factor.generators), 1, 1), torch.ones(len(factor.finite), 1, 1)
    return torch.cat([lie, finite]).double()
