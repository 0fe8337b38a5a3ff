"""The runs that evidence rests on: a float64 copy of a model on inputs near the given ones, and on those moved by g."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.evidence.evidence import Evidence, Sample, common
from relaxify.evidence.full_size import FullSize
from relaxify.evidence.transformations import elements
from relaxify.graph.inputs import Inputs
from relaxify.graph.recording import Recording, again, record
from relaxify.grids.pixels import on_pixels
from relaxify.groups import Group
from relaxify.random_elements import Element
from relaxify.verdicts.action_errors import InputAction
from relaxify.verdicts.actions import moves_pixels
from relaxify.verdicts.default_action import default_action
from relaxify.verdicts.draws import Draw, draws
from relaxify.verdicts.nearby import nearby
from relaxify.verdicts.orbits import Actions
from relaxify.verdicts.places import turns_images
from relaxify.verdicts.twin import Twin

STEP = 0.1
"""How far other inputs are from the given ones, relative to these."""

Injection = Callable[[int, Element | None], Tensor]
"""(number of the input x, g or None) -> the value that a node shall have in the run on g x, or on x."""

Injections = Mapping[int, Injection]
"""What takes the place of the values computed by the nodes of these numbers."""


class Observer:
    """Runs a float64 copy of a model on x and on g x, for inputs x near the given ones, as many as are asked for.

    The copy is in eval mode, or in training mode with the same random numbers in each run; `prepare` is called with it
    before it runs; `twin` is such a copy, if there is one. `injected` replaces what the nodes of these numbers computed.
    ValueError if it is ambiguous how the group acts on the inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        group: Group,
        inputs: Inputs,
        action: InputAction | None = None,
        *,
        training: bool = False,
        prepare: Callable[[nn.Module], None] | None = None,
        twin: Twin | None = None,
    ) -> None:
        self.actions = Actions(action or default_action(group, inputs))
        self.twin = twin or Twin(model, training=training, prepare=prepare)
        self._earlier = self.twin.runs
        self.inputs = self.twin.inputs(inputs)
        by_default = moves_pixels(self.actions.inputs)
        self.group = on_pixels(group) if by_default else group
        self.images = by_default or turns_images(self.actions, self.inputs, draws(group, 0)[0])

    @property
    def runs(self) -> int:
        return self.twin.runs - self._earlier

    def moved(self, g: Element, inputs: Inputs) -> Inputs:
        """g x."""
        return self.actions.on_inputs(Draw(self.group, (g,)), inputs)

    def evidence(self, samples: int, before: Evidence | None = None, injected: Injections | None = None) -> Evidence:
        """Evidence from so many inputs, those of the evidence `before` included."""
        collected = list(before.samples) if before else []
        if not self.twin.runs:
            # some models do in their first run what they never do again: they fill caches
            self._run(self.inputs, record)
        collected += [self._sample(k, injected or {}) for k in range(len(collected), samples)]
        first = collected[0]
        # other inputs may have other numbers of neighbours, but what took another course says nothing of this one
        kept = [s for s in collected if common(first.base.nodes, s.base.nodes, shapes=False) == len(first.base.nodes)]
        length = min(s.common for s in kept)
        nodes = first.base.nodes
        diverged = nodes[length].meta.get("location", "") if length < len(nodes) else None
        return Evidence(self.group, first.base, kept, diverged, length, images=self.images)

    def unseen(self) -> Evidence:
        """Evidence of one run that says nothing of any value."""
        base = self._run(self.inputs, record)
        return Evidence(self.group, base, [Sample(base, [base])], None, 0)

    def _sample(self, k: int, injected: Injections) -> Sample:
        drawn = elements(self.group)
        x = self.inputs if k == 0 else nearby(self.inputs, self.moved(drawn[-1], self.inputs), k, STEP)
        forced = [{index: inject(k, g) for index, inject in injected.items()} for g in (None, *drawn)]
        base = self._run(x, record, injected=forced[0])
        moved = [
            self._run(self.moved(g, x), again, first=base, injected=to) for g, to in zip(drawn, forced[1:], strict=True)
        ]
        return Sample(base, moved)

    def full_size(self, evidence: Evidence, worst: tuple[Inputs, Draw] | None = None) -> FullSize:
        """Runs on the elements that verdicts rest on, and on the one that was worst of all, on the input where it was."""
        # those of the given input, and those of the one nearby
        drawn = [*draws(self.group, 0), *(draws(self.group, 1) if len(self.group.generators) else ())]
        given, g = worst or (self.inputs, drawn[0])
        drawn += [] if g in drawn else [g]
        inputs = [given, *(self.actions.on_inputs(g, given) for g in drawn)]
        base, *moved = [self._run(x, again, first=evidence.recording, keep=lambda tensor: True) for x in inputs]
        return FullSize(evidence, drawn, base, moved)

    def _run(self, inputs: Inputs, recorded: Callable[..., Recording], **options: Any) -> Recording:
        if self.images:
            # what is complex in a model of images is a spectrum of theirs, which moves as no image does
            options = {"keep": torch.is_floating_point, **options}
        found: Recording = self.twin.run(inputs, functools.partial(recorded, **options))
        return found
