"""Evidence by data flow: how every value of a model transforms, measured by running the model on x and on g x."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from relaxify.evidence.actions import InputAction, default_action
from relaxify.evidence.feature_maps import Grid, lengths_change
from relaxify.evidence.fitting import TOLERANCE, Pairs, Transformation, close, elements, transformation
from relaxify.graph.inputs import Inputs, InputsError, map_tensors, tensors_of
from relaxify.graph.precision import NamedInDouble
from relaxify.graph.recording import Recording, record
from relaxify.grids.pixels import MovePixels, is_image, on_pixels
from relaxify.groups import Element, Group
from relaxify.representations import Representation
from relaxify.sites import Features, probe

ROUNDING = 1e-13

Injection = Callable[[int, Element | None], Tensor]
"""(number of the input x, g or None) -> the value that a node shall have in the run on g x, or on x."""

Injections = Mapping[int, Injection]
"""What takes the place of the values computed by the nodes of these numbers."""


@dataclass(frozen=True)
class Sample:
    """One input: the run on x and the runs on g x, for one g per generator and a further one."""

    base: Recording
    moved: Sequence[Recording]


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
        self._known: dict[int, Transformation] = {}
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        values = [node.meta["value"] for node in inputs if node.meta["floating"] and node.meta["value"].numel()]
        self._tiny = ROUNDING * min([1.0, *(float(value.abs().max()) or 1.0 for value in values)])
        self.grid = self._grid(inputs) if images else None
        self.sample_sizes = self._axes_of(inputs)

    def of(self, node: fx.Node) -> Transformation:
        """How the value of a node transforms."""
        index = self._index.get(node)
        if index is None or node.meta.get("value") is None:
            return Transformation("undecided")
        if index not in self._known:
            self._known[index] = self._fit(self._pairs_at(index))
        return self._known[index]

    def _fit(self, pairs: Pairs) -> Transformation:
        if not all(value.isfinite().all() for base, runs in pairs for value in (base, *runs)):
            # memory that is not yet written to may hold anything
            return Transformation("undecided")
        if self.grid is None:
            return transformation(self.group, pairs, sample_sizes=self.sample_sizes, tiny=self._tiny)
        found = self.grid.transformation(self.group, pairs, sample_sizes=self.sample_sizes, tiny=self._tiny)
        if found.kind != "undecided" or not self.group.compact or pairs[0][0].ndim < 2:
            return found
        back = pairs if found.pixels is None else self.grid.moved_back(self.group, pairs, found.pixels)
        residual = lengths_change(back, found.pixels)
        return Transformation("none", residual=residual, pixels=found.pixels) if residual > TOLERANCE else found

    def _grid(self, inputs: Sequence[fx.Node]) -> Grid | None:
        shapes = [node.meta["value"].shape for node in self._index if node.meta.get("value") is not None]
        sizes = {shape[-1] for shape in shapes if len(shape) > 3 and shape[-1] == shape[-2] > 1}
        images = [node.meta["shape"][-1] for node in inputs if node.meta["floating"] and is_image(node.meta["value"])]
        return Grid(images[0], sorted(sizes, reverse=True)) if images else None

    def _axes_of(self, inputs: Sequence[fx.Node]) -> set[int]:
        """Sizes of the axes on which the inputs carry no representation: nodes, points, a batch."""
        free, carrying = set(), {self.group.dim, 1}
        for node in inputs:
            shape, axes = node.meta["shape"], self.of(node).axes
            free |= {size for axis, size in enumerate(shape, -len(shape)) if axes and axis not in axes}
            free |= set() if node.meta["floating"] else set(shape)
            carrying |= {shape[axis] for axis in axes}
        return free - carrying

    def obeys(self, node: fx.Node, features: Features, representation: Representation) -> bool | None:
        """Whether the value of a node transforms by this representation; None if it was not seen in all runs."""
        index = self._index.get(node)
        if index is None or node.meta.get("value") is None:
            return None
        matrices = [representation.rho(g).mT for g in elements(self.group)]
        return all(
            close(features.rows(moved), features.rows(base) @ matrix) or not base.any()
            for base, runs in self.pairs(node)
            for moved, matrix in zip(runs, matrices, strict=True)
        )

    def values(self, node: fx.Node) -> Pairs:
        """The values of a node in all runs."""
        return self._pairs_at(self._index[node])

    def pairs(self, node: fx.Node) -> Pairs:
        """The values of a node in all runs, with their pixels moved back."""
        pixels, values = self.of(node).pixels, self.values(node)
        return values if pixels is None or self.grid is None else self.grid.moved_back(self.group, values, pixels)

    def past_divergence(self, node: fx.Node) -> bool:
        """Whether a node comes after the statement from which on the runs took different courses."""
        return self.diverged is not None and node not in self._index

    def _pairs_at(self, index: int) -> Pairs:
        return [(_value(s.base.nodes[index]), [_value(run.nodes[index]) for run in s.moved]) for s in self.samples]


class Observer:
    """Runs a float64 copy of a model on x and on g x, for inputs x near the given ones, as many as are asked for.

    The copy is in eval mode, or in training mode with the same random numbers in each run. `injected` replaces what the
    nodes of these numbers computed. ValueError if it is ambiguous how the group acts on the inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        group: Group,
        inputs: Inputs,
        action: InputAction | None = None,
        *,
        training: bool = False,
    ) -> None:
        self.action = action or default_action(group, inputs)
        self.images = isinstance(self.action, MovePixels)
        self.group = on_pixels(group) if self.images else group
        self.model = probe(model).train(training)
        self.inputs: Inputs = map_tensors(lambda _, tensor: _double(tensor), inputs)
        self.runs = 0

    def evidence(self, samples: int, before: Evidence | None = None, injected: Injections | None = None) -> Evidence:
        """Evidence from so many inputs, those of the evidence `before` included."""
        collected = list(before.samples) if before else []
        with quiet():
            if not self.runs:
                # some models do in their first run what they never do again: they fill caches
                self._run(self.inputs, {})
            collected += [self._sample(k, injected or {}) for k in range(len(collected), samples)]
        first = collected[0]
        # other inputs may have other numbers of neighbours, but what took another course says nothing of this one
        kept = [s for s in collected if _common(first.base.nodes, s.base.nodes, shapes=False) == len(first.base.nodes)]
        length = min(_common(s.base.nodes, run.nodes, shapes=True) for s in kept for run in s.moved)
        nodes = first.base.nodes
        diverged = nodes[length].meta.get("location", "") if length < len(nodes) else None
        return Evidence(self.group, first.base, kept, diverged, length, images=self.images)

    def _sample(self, k: int, injected: Injections) -> Sample:
        vector, drawn = Representation.defining(self.group), elements(self.group)
        x = self.inputs if k == 0 else _nearby(self.inputs, self.action(vector.rho(drawn[-1]), self.inputs), seed=k)
        base = self._run(x, {index: inject(k, None) for index, inject in injected.items()})
        moved = [
            self._run(
                self.action(vector.rho(g), x), {index: inject(k, g) for index, inject in injected.items()}, locate=False
            )
            for g in drawn
        ]
        return Sample(base, moved)

    def _run(self, inputs: Inputs, injected: Mapping[int, Tensor], *, locate: bool = True) -> Recording:
        # a model may ask for gradients of its inputs (forces), and leaves them changed
        fresh = map_tensors(lambda _, tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad), inputs)
        torch.manual_seed(0)
        self.runs += 1
        try:
            return record(self.model, fresh, injected=injected, locate=locate)
        except Exception as error:
            raise InputsError(error, "float64") from error


def observe(
    model: nn.Module, group: Group, inputs: Inputs, action: InputAction | None = None, *, samples: int = 2
) -> Evidence:
    """Evidence from runs of a float64 copy of the model, in eval mode, on `samples` inputs near the given ones.

    ValueError if the model cannot be run on the inputs, or it is ambiguous how the group acts on them.
    """
    return Observer(model, group, inputs, action).evidence(samples)


def _value(node: fx.Node) -> Tensor:
    value = node.meta["value"]
    assert isinstance(value, Tensor)
    return value.double()


def _common(first: Sequence[fx.Node], second: Sequence[fx.Node], *, shapes: bool) -> int:
    """How many nodes two runs have in common before one takes another course."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a.target != b.target or a.meta.get("module") != b.meta.get("module") or (shapes and _shape(a) != _shape(b)):
            return i
    return min(len(first), len(second))


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("value")
    return None if value is None else tuple(value.shape)


def _double(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def _nearby(inputs: Inputs, moved: Inputs, seed: int) -> Inputs:
    """Inputs a little way off: more samples for the fits. One-hot codes, masks and such stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    others = dict(tensors_of(moved))

    def jitter(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or (torch.equal(tensor, others[name]) and torch.equal(tensor, tensor.round())):
            return tensor
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        return tensor + 0.1 * tensor.std(correction=0) * noise

    result: Inputs = map_tensors(jitter, inputs)
    return result


@contextmanager
def quiet(dtype: torch.dtype = torch.float64) -> Iterator[None]:
    """New tensors in float64, or another type, and the user's random stream as it was afterwards."""
    default = torch.get_default_dtype()
    named = NamedInDouble() if dtype is torch.float64 else nullcontext()
    with torch.random.fork_rng(devices=[]), named:
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
