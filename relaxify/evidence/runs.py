"""The runs that evidence rests on: a float64 copy of a model on inputs near the given ones, and on those moved by g."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from relaxify.evidence.actions import InputAction, default_action
from relaxify.evidence.evidence import Evidence, Sample
from relaxify.evidence.fitting import elements
from relaxify.graph.inputs import Inputs, InputsError, map_tensors, tensors_of
from relaxify.graph.precision import quiet
from relaxify.graph.recording import Recording, record
from relaxify.grids.pixels import MovePixels, on_pixels
from relaxify.groups import Element, Group
from relaxify.modules.hanging import probe
from relaxify.representations import Representation

Injection = Callable[[int, Element | None], Tensor]
"""(number of the input x, g or None) -> the value that a node shall have in the run on g x, or on x."""

Injections = Mapping[int, Injection]
"""What takes the place of the values computed by the nodes of these numbers."""


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
        forced = [{index: inject(k, g) for index, inject in injected.items()} for g in (None, *drawn)]
        base = self._run(x, forced[0])
        moved = [self._run(self.action(vector.rho(g), x), to, locate=False) for g, to in zip(drawn, forced[1:], strict=True)]
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
