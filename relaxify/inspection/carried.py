"""As what each tensor of a model's output transforms, or comes nearest to transforming: what its errors are taken from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from relaxify.evidence.evidence import Evidence
from relaxify.evidence.generators import known_actions
from relaxify.evidence.transformations import Transformation, elements
from relaxify.graph.inputs import leaves_of
from relaxify.grids.pixels import Pixels
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify.sites import Features


@dataclass(frozen=True)
class Carried:
    """As what one tensor of the output transforms, or comes nearest to transforming."""

    group: Group
    features: Features | None
    representation: Representation | None
    pixels: tuple[Pixels, int] | None = None
    """Where it has pixels that move, and the number of those of the images."""

    def move(self, g: Any, value: Tensor) -> Tensor:
        """rho(g) applied to a value."""
        moved = self._apply(lambda representation: representation.rho(g), value)
        if self.pixels is None:
            return moved
        pixels, image = self.pixels
        return pixels.move(Representation.defining(self.group).rho(g), moved, image)

    def move_infinitesimally(self, coefficients: Tensor, value: Tensor) -> Tensor:
        """drho(A) applied to a value."""
        if self.representation is None:
            return torch.zeros_like(value)
        return self._apply(lambda representation: representation.drho(coefficients), value)

    def _apply(self, matrix_of: Callable[[Representation], Tensor], value: Tensor) -> Tensor:
        if self.representation is None:
            return value
        matrix = matrix_of(self.representation)
        return matrix.squeeze() * value if self.features is None else self.features.apply(matrix, value)


def carried_by_outputs(evidence: Evidence) -> list[Carried]:
    """As what each tensor of the output transforms: as measured, or else what it comes nearest to."""
    # one tensor may be returned twice
    return [_carried(evidence, arg) for arg in leaves_of(evidence.nodes[-1].args) if isinstance(arg, fx.Node)]


def _carried(evidence: Evidence, node: fx.Node) -> Carried:
    found, group = evidence.of(node), evidence.group
    pixels = None if found.pixels is None or evidence.pixel_maps is None else (found.pixels, evidence.pixel_maps.image)
    if found.kind in ("invariant", "zero") or node.meta.get("value") is None:
        return Carried(group, None, None, pixels)
    if found.kind == "linear":
        assert found.actions is not None
        representation = Representation.of(group, "output", 1, found.actions)
        features = Features(found.axes) if found.axes else None
        return Carried(group, features, representation, pixels)
    pairs, drawn = evidence.values(node), elements(group)

    def distance(candidate: Carried) -> float:
        return max(
            float((moved - candidate.move(g, base)).norm() / (moved.norm() or 1.0))
            for base, runs in pairs
            for g, moved in zip(drawn, runs, strict=True)
        )

    return min(_candidates(evidence, node), key=distance)


def _candidates(evidence: Evidence, node: fx.Node) -> Iterator[Carried]:
    """What a value might carry: nothing, vectors or pairs of them, or what values upstream carry on axes of its sizes."""
    group, shape = evidence.group, node.meta["value"].shape
    yield Carried(group, None, None)
    if (pixels := evidence.of(node).pixels) is not None and evidence.pixel_maps is not None:
        yield Carried(group, None, None, (pixels, evidence.pixel_maps.image))
    own = [axis for axis in range(-len(shape), 0) if shape[axis] == group.vector_size]
    for axes in [*((axis,) for axis in own), *itertools.combinations(own, 2)]:
        (actions,) = known_actions(group, len(axes)).values()
        yield Carried(group, Features(axes), Representation.of(group, "output", 1, actions))
    for found in _upstream(evidence, node):
        assert found.actions is not None
        if len(found.axes) == 1 and len(shape) >= -found.axes[0] and shape[found.axes[0]] == found.actions.shape[-1]:
            yield Carried(group, Features(found.axes), Representation.of(group, "output", 1, found.actions))


def _upstream(evidence: Evidence, node: fx.Node) -> Iterator[Transformation]:
    """How the values transform that a node is made of, nearest first."""
    waiting, seen = [node], {node}
    while waiting:
        found = evidence.of(waiting[0])
        if found.kind == "linear":
            yield found
        sources = [source for source in waiting.pop(0).all_input_nodes if source not in seen]
        seen |= set(sources)
        # what is made of a value that carries something says no more
        waiting += [] if found.kind == "linear" else sources


def words_of(group: Group, found: Transformation) -> str:
    """How a value transforms, for people."""
    if found.pixels is not None and found.is_sound:
        return f"{words_of(group, replace(found, pixels=None))} on pixels that move"
    if found.actions is None:
        return {"none": "in no linear way", "undecided": "too few samples to tell"}.get(found.kind, found.kind)
    if not found.axes:
        return "pseudoscalar"
    known = known_actions(group, len(found.axes))
    name = next((name for name, actions in known.items() if torch.equal(actions, found.actions)), None)
    axes = ("axis " if len(found.axes) == 1 else "axes ") + " and ".join(map(str, found.axes))
    return f"{name or f'{found.actions.shape[-1]}-dimensional'} on {axes}"
