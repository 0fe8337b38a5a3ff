"""Evidence by data flow: how every value of a model transforms, from recorded runs on x and on g x."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from relaxify.evidence.fitting import transformation
from relaxify.evidence.generators import known_actions
from relaxify.evidence.other_values import by_other_values, is_beyond, representations_of
from relaxify.evidence.pixel_maps import PixelMaps, lengths_change
from relaxify.evidence.transformations import TOLERANCE, Norms, Pairs, Transformation, close, elements
from relaxify.graph.recording import Node, Recording
from relaxify.grids.pixels import is_image
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify.sites import Features
from relaxify.verdicts.draws import Draw

ROUNDING = 1e-13


@dataclass(frozen=True)
class Sample:
    """One input: the run on x and the runs on g x, for one g per generator and a further one."""

    base: Recording
    moved: Sequence[Recording]

    @functools.cached_property
    def common(self) -> int:
        """How many nodes the runs have in common, with their shapes, before one takes another course."""
        return min(common(self.base.nodes, run.nodes, shapes=True) for run in self.moved)


class Evidence:
    """What runs of a model on transformed inputs say about each of its values.

    `nodes` are those of a run on the example inputs as they are. `diverged` names the statement at which a run on
    transformed inputs first took another course, or is None. Axes of one of the `sample_sizes` (nodes, points, a batch)
    carry no representation in the inputs.
    """

    def __init__(
        self,
        group: Group,
        recording: Recording,
        samples: Sequence[Sample],
        diverged: str | None,
        length: int,
        *,
        images: bool = False,
    ) -> None:
        self.group = group
        self.recording = recording
        self.nodes = recording.nodes
        self.diverged = diverged
        self.samples = samples
        self.sample_sizes: Collection[int] = ()
        self._index = {node: i for i, node in enumerate(self.nodes[:length])}
        self._known: dict[tuple[int, tuple[int, ...] | None], Transformation] = {}
        self._representations: dict[int, Sequence[Tensor]] = {}
        self._finite: dict[int, bool] = {}
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        values = [node.meta["value"] for node in inputs if node.meta["floating"] and node.meta["value"].numel()]
        self.tiny = ROUNDING * min([1.0, *(float(value.abs().max()) or 1.0 for value in values)])
        self.pixel_maps = self._pixel_maps(inputs) if images else None
        self.sample_sizes = self._axes_of(inputs)
        self._representations.clear()

    @functools.cached_property
    def constants(self) -> frozenset[fx.Node]:
        """Tensors that were there before the runs, or are made of plain numbers, and are the same in each run."""
        shared = self.nodes[: min(sample.common for sample in self.samples)]
        candidates = unseen(shared)
        return frozenset(node for i, node in enumerate(shared) if node in candidates and self._is_the_same(i))

    def _is_the_same(self, index: int) -> bool:
        held = [run.nodes[index].meta.get("held") for s in self.samples for run in (s.base, *s.moved)]
        return all(each is held[0] or (each is not None and torch.equal(each, held[0])) for each in held)

    def drawn(self) -> Sequence[Draw]:
        """The group elements of the runs."""
        return [Draw(self.group, (g,)) for g in elements(self.group)]

    def of(self, node: fx.Node, shape: tuple[int, ...] | None = None) -> Transformation:
        """How the value of a node transforms, seen in another shape if one is given."""
        index = self._index.get(node)
        if index is None or node.meta.get("value") is None:
            return Transformation("undecided")
        key = index, None if shape == tuple(node.meta["value"].shape) else shape
        if key not in self._known:
            self._known[key] = self._fit(_reshaped(self._pairs_at(index), key[1]))
        return self._known[key]

    def of_less(self, node: fx.Node, constant: Tensor, shape: tuple[int, ...] | None = None) -> Transformation:
        """How the value of a node would transform without a constant that is added in it."""
        pairs = [(base - constant, [moved - constant for moved in runs]) for base, runs in self.values(node)]
        return self._fit(_reshaped(pairs, shape))

    def representations(self, size: int) -> Sequence[Tensor]:
        """The actions of the representations that values carry on an axis of this size, those known best first."""
        if size not in self._representations:
            values = [] if size in self.sample_sizes else self._values_with(size)
            self._representations[size] = representations_of(self.group, size, values)
        return self._representations[size]

    def _values_with(self, size: int) -> list[tuple[int, Pairs]]:
        """Axes of this size, and values that have them: some from all over the model, of every shape."""
        of_shape: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for node, index in self._index.items():
            shape = () if node.meta.get("value") is None else tuple(node.meta["value"].shape)
            axis = next((axis for axis in range(-1, -len(shape) - 1, -1) if shape[axis] == size), None)
            if axis is not None and node.op == "call_function":
                of_shape.setdefault(shape, []).append((axis, index))
        places = [place for each in of_shape.values() for place in each[:: -(-len(each) // 4)]]
        chosen = places[:: -(-len(places) // 24)] if places else []
        return [(axis, self._pairs_at(index)) for axis, index in chosen if self._is_finite(index)]

    def _is_finite(self, index: int) -> bool:
        if index not in self._finite:
            self._finite[index] = _are_finite(self._pairs_at(index), Norms())
        return self._finite[index]

    def _fit(self, pairs: Pairs) -> Transformation:
        norms = Norms()
        if not _are_finite(pairs, norms):
            # uninitialised memory may hold anything
            return Transformation("undecided")
        if self.pixel_maps is None:
            return self._transformation(pairs, norms)
        found = self.pixel_maps.transformation(self.group, pairs, sample_sizes=self.sample_sizes, tiny=self.tiny)
        if found.kind != "undecided" or not self.group.compact or pairs[0][0].ndim < 2:
            return found
        back = pairs if found.pixels is None else self.pixel_maps.moved_back(self.group, pairs, found.pixels)
        residual = lengths_change(back, found.pixels)
        return Transformation("none", residual=residual, pixels=found.pixels) if residual > TOLERANCE else found

    def _transformation(self, pairs: Pairs, norms: Norms) -> Transformation:
        found = transformation(self.group, pairs, sample_sizes=self.sample_sizes, tiny=self.tiny, norms=norms)
        if found.is_sound:
            return found
        told = by_other_values(self.group, pairs, self.representations, self.sample_sizes, norms)
        if told is None and is_beyond(pairs[0][0].shape, self.representations):
            return Transformation("undecided", beyond=True)
        return told or found

    def _pixel_maps(self, inputs: Sequence[fx.Node]) -> PixelMaps | None:
        shapes = [node.meta["value"].shape for node in self._index if node.meta.get("value") is not None]
        sizes = {shape[-1] for shape in shapes if len(shape) > 3 and shape[-1] == shape[-2] > 1}
        images = [node.meta["shape"][-1] for node in inputs if node.meta["floating"] and is_image(node.meta["value"])]
        return PixelMaps(images[0], sorted(sizes, reverse=True)) if images else None

    def _axes_of(self, inputs: Sequence[fx.Node]) -> set[int]:
        """Sizes of the axes on which the inputs carry no representation: nodes, points, a batch."""
        free, carrying = set(), {self.group.vector_size, 1}
        for node in inputs:
            shape, axes = node.meta["shape"], self.of(node).axes
            free |= {size for axis, size in enumerate(shape, -len(shape)) if axes and axis not in axes}
            # both ends of edges are no sample
            free |= set() if node.meta["floating"] else {size for size in shape if size > 2 or len(shape) == 1}
            carrying |= {shape[axis] for axis in axes}
        return free - carrying

    def obeys(self, node: fx.Node, features: Features, representation: Representation) -> bool | None:
        """Whether the value of a node transforms by this representation; None if it was not seen in all runs."""
        index = self._index.get(node)
        if index is None or node.meta.get("value") is None:
            return None
        return all(map(functools.partial(self._obeys, features, representation), self.pairs(node)))

    def _obeys(self, features: Features, representation: Representation, pair: tuple[Tensor, Sequence[Tensor]]) -> bool:
        base, runs = pair
        rows = features.rows(base)
        return not base.any() or all(
            close(features.rows(moved), g.move(representation, rows)) for g, moved in zip(self.drawn(), runs, strict=True)
        )

    def name_of(self, found: Transformation) -> str:
        """What a representation that a value carries is called."""
        assert found.actions is not None
        if not found.axes:
            return "pseudoscalar"
        known = known_actions(self.group, len(found.axes))
        fitted = f"fitted{found.actions.shape[-1]}"
        return next((name for name, actions in known.items() if torch.equal(found.actions, actions)), fitted)

    def is_seen(self, node: fx.Node) -> bool:
        """Whether the value of a node was seen in all runs."""
        return node in self._index and node.meta.get("value") is not None

    def values(self, node: fx.Node) -> Pairs:
        """The values of a node in all runs."""
        return self._pairs_at(self._index[node])

    def pairs(self, node: fx.Node) -> Pairs:
        """The values of a node in all runs, with their pixels moved back."""
        maps, values = self.pixel_maps, self.values(node)
        pixels = None if maps is None else self.of(node).pixels
        return values if pixels is None or maps is None else maps.moved_back(self.group, values, pixels)

    @property
    def parting(self) -> fx.Node | None:
        """The node at which a run on transformed inputs first took another course, if one did."""
        return None if self.diverged is None else self.nodes[len(self._index)]

    def past_divergence(self, node: fx.Node) -> bool:
        """Whether a node comes after the statement from which on the runs took different courses."""
        return self.diverged is not None and node not in self._index

    def _pairs_at(self, index: int) -> Pairs:
        return [(_value(s.base.nodes[index]), [_value(run.nodes[index]) for run in s.moved]) for s in self.samples]


def unseen(nodes: Iterable[fx.Node]) -> frozenset[fx.Node]:
    """Tensors that were made of nothing that was seen: constants, unless something made them out of sight."""
    found = ((node, node.meta.get("held")) for node in nodes)
    return frozenset(node for node, held in found if held is not None and not held.requires_grad)


def _are_finite(pairs: Pairs, norms: Norms) -> bool:
    return all(math.isfinite(norms(value)) for base, runs in pairs for value in (base, *runs))


def _reshaped(pairs: Pairs, shape: tuple[int, ...] | None) -> Pairs:
    if shape is None:
        return pairs
    return [(base.reshape(shape), [moved.reshape(shape) for moved in runs]) for base, runs in pairs]


def common(first: Sequence[Node], second: Sequence[Node], *, shapes: bool) -> int:
    """How many nodes two runs have in common before one takes another course."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        is_other = a.target != b.target or a.meta.get("module") != b.meta.get("module")
        if is_other or (shapes and a.meta.get("seen") != b.meta.get("seen")):
            return i
    return min(len(first), len(second))


def _value(node: Node) -> Tensor:
    value = node.meta["value"]
    assert isinstance(value, Tensor)
    return value.double()
