"""Subject: one copy of a model, measured on the given input and on one nearby, and on more where that must be confirmed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from relaxify.graph.inputs import Inputs, InputsError, call
from relaxify.groups import Group
from relaxify.verdicts.constraints import exactly
from relaxify.verdicts.dormant import Dormant
from relaxify.verdicts.draws import Draw, draws, small
from relaxify.verdicts.errors import MEANINGLESS, ROUNDINGS, Setting, difference
from relaxify.verdicts.judging import Judged, judge
from relaxify.verdicts.more_inputs import is_few, told_by_more
from relaxify.verdicts.nearby import are_equal, distance, is_zero, nearby, nudged, replaced, size, tensors_in
from relaxify.verdicts.orbits import Actions, Orbit, Values, finite, orbit
from relaxify.verdicts.outputs import is_measured, seen_in
from relaxify.verdicts.places import Places, nowhere
from relaxify.verdicts.twin import Runner, Twin
from relaxify.verdicts.verdict import Reason, Status

STEPS = (0.05, 1e-3)
"""Sizes of the step to a nearby input, tried in turn: the model may be defined for few inputs."""
NOTHING = 1e-6
"""Of the inputs' or the largest output's size: what is smaller and lost in rounding is zero."""
ATTEMPTS, UNGUIDED = 12, 3
"""Further sets of elements, for a fault that shows under few, where an operation is dormant; the first are any elements."""
MORE_STEP = 0.3
"""Of the step to more inputs, where an output has too few entries to tell."""
FURTHER = (0.3, 1.0, 3.0)
"""Sizes of the steps to inputs further away, tried in turn where no output responds near the given one: it may count."""


@dataclass(frozen=True)
class Measured:
    """Runs of a copy, and what each tensor of the output comes to."""

    orbits: tuple[Orbit, ...]
    setting: Setting
    outputs: tuple[Judged, ...]
    precision: torch.dtype
    repeats: bool = True
    """Whether the output on the same input was the same again, where it was looked for."""


@dataclass(frozen=True)
class Subject:
    """A copy of a model with the group, its actions and the given inputs."""

    twin: Twin
    group: Group
    actions: Actions
    given: Inputs
    places: Places = nowhere

    @functools.cached_property
    def inputs(self) -> Inputs:
        """The given inputs; rotations that were rounded to a lower precision are rotations again."""
        exact: Inputs = replaced(self.twin.inputs(self.given), lambda _, value: exactly(value))
        return exact

    def measured(self, *, whole: bool = True, from_nearby: bool = False, runner: Runner = call) -> Measured:
        """Orbits of the given input and, if `whole`, of one nearby, which otherwise only tells the response.

        `from_nearby`: the orbit of the nearby input instead. `runner` is what runs the first orbit, that of the given input.
        """
        drawn, watch = [draws(self.group, seed) for seed in range(2)], Dormant(self.group)
        if from_nearby:
            orbits = [self._nearby(drawn[1]), self._here([])]
        else:
            orbits = [self._here(drawn[0], watch.running(runner)), self._nearby(drawn[1] if whole else [])]
        moving = [each for each in orbits if each is not None]
        found = self._confirmed(moving if any(each.moved for each in moving) else [self._here(drawn[0])])
        return self._looked_for_rare_faults(found, watch) if watch.operations else found

    def _moved(self, inputs: Inputs) -> Inputs:
        """g x, for what an element g moves; zeros that it would move, if they were anything else, as something else."""
        g, before = draws(self.group, 0)[0], tensors_in(inputs)
        moved = self.actions.on_inputs(g, inputs)
        zeros = {name for name, value in before.items() if value.is_floating_point() and is_zero(value)}
        if not zeros:
            return moved
        filled = replaced(inputs, lambda name, value: _ramp(value) if name in zeros else value)
        after = tensors_in(self.actions.on_inputs(g, filled))
        told = {name for name in zeros if name in after and not are_equal(after[name], _ramp(before[name]))}
        found: Inputs = replaced(moved, lambda name, value: _ramp(value) if name in told else value)
        return found

    def _here(self, elements: Sequence[Draw], runner: Runner = call) -> Orbit:
        return orbit(self.twin, self.actions, self.inputs, elements, runner)

    def _nearby(self, elements: Sequence[Draw]) -> Orbit | None:
        """The orbit of an input near the given one on which the model runs, and not to infinity."""
        moved = self._moved(self.inputs)
        for step in STEPS:
            with suppress(InputsError):
                found = orbit(self.twin, self.actions, nearby(self.inputs, moved, 1, step), elements)
                if all(map(finite, found.values.values())):
                    return found
        return None

    def _confirmed(self, orbits: Sequence[Orbit]) -> Measured:
        """What the runs come to, after further ones where a representation was fitted or an error may be rounding."""
        found = self._judged(orbits)
        if any(each.way.fitted and each.status is Status.SOUND for each in found.outputs) and len(self.group.generators):
            drawn = [*small(self.group, 2), *draws(self.group, 2)]
            found = self._judged([*orbits, self._here(drawn)])
        if all(each.reason is Reason.SILENT for each in found.outputs) and (further := self._further(found.orbits[0])):
            found = self._judged([*found.orbits, further])
        if any(each.status is Status.BROKEN and each.runs for each in found.outputs):
            found = self._told_from_rounding(found)
        return self._told_by_more(found)

    def _told_by_more(self, found: Measured) -> Measured:
        """Outputs of few entries, on more inputs."""
        values = found.orbits[0].values
        few = [each.name for each in found.outputs if is_few(each, values.get(each.name))]
        if not few:
            return found
        moved, count = self._moved(self.inputs), 2 + 2 * max(values[name].numel() for name in few)
        inputs = [nearby(self.inputs, moved, seed, MORE_STEP) for seed in range(10, 10 + count)]
        drawn = draws(self.group, 0)[:1]
        outputs = told_by_more(found.outputs, few, inputs, lambda x: orbit(self.twin, self.actions, x, drawn))
        return replace(found, outputs=tuple(outputs))

    def _looked_for_rare_faults(self, found: Measured, watch: Dormant) -> Measured:
        """What is sound, after further elements, up to the first that breaks it; all of a small finite group were drawn."""
        watch.elements += [None, *(run.g for run in found.orbits[0].moved)]
        usual = found.orbits
        is_sound = any(each.status is Status.SOUND for each in found.outputs)
        for attempt in range(ATTEMPTS if is_sound and len(self.group.generators) else 0):
            is_broken = any(each.status is Status.BROKEN for each in found.outputs)
            if is_broken or not watch.operations:
                break
            anywhere = [*draws(self.group, 2 * attempt + 3), *draws(self.group, 2 * attempt + 4)]
            drawn = anywhere if attempt < UNGUIDED else watch.nearer(self.group, attempt)
            watch.elements += [None, *drawn]
            further = self._here(drawn, watch.running(call))
            judged = self._confirmed([*usual, further])
            found = replace(judged, orbits=(*found.orbits, further))
        return found

    def _further(self, here: Orbit) -> Orbit | None:
        """The orbit of an input so far away that the output is another, if there is one."""
        moved = self._moved(self.inputs)
        for seed, step in enumerate(FURTHER, start=2):
            with suppress(InputsError):
                there = nearby(self.inputs, moved, seed, step)
                values = seen_in(self.twin.run(there))
                if all(map(finite, values.values())) and not _are_same(here.values, values, 0.0):
                    return orbit(self.twin, self.actions, there, draws(self.group, 0))
        return None

    def repeats(self, here: Orbit, *, seed: int) -> bool:
        """Whether the output on the given input is the same again, up to rounding, with these random numbers."""
        again = seen_in(self.twin.run(self.inputs, seed=seed))
        return _are_same(here.values, again, ROUNDINGS * torch.finfo(self.twin.lowest).eps)

    def _judged(self, orbits: Sequence[Orbit], **digits: dict[str, float]) -> Measured:
        eps = torch.finfo(self.twin.lowest).eps
        constants = torch.finfo(torch.float32).eps if self.twin.own != torch.float64 else 0.0
        setting = Setting(self.group, eps, self.places, _near(orbits), **digits, constants=constants, sizes=self._sizes())
        moving = [each for each in orbits if each.moved]
        names = dict.fromkeys(name for each in orbits for values in _all(each) for name in values)
        outputs = tuple(judge(name, moving, setting) for name in names)
        return Measured(tuple(orbits), setting, outputs, self.twin.lowest)

    def _sizes(self) -> frozenset[int]:
        """Sizes of the inputs' axes, but for those that may carry vectors."""
        shapes = [value.shape for value in tensors_in(self.inputs).values()]
        return frozenset(size for shape in shapes for size in shape) - {1, self.group.vector_size}

    def _told_from_rounding(self, found: Measured) -> Measured:
        """Errors as large as what the last digits of the inputs do are rounding, or the inputs are on an edge (ties)."""
        base = seen_in(self.twin.run(self.inputs))
        roughness = _changes(base, self.twin.rough_runs(self.inputs)) if self._has_coarse_constants else {}
        again = self._judged(found.orbits, rounding=self._rounding(base, found.setting.eps), roughness=roughness)
        pairs = zip(found.outputs, again.outputs, strict=True)
        is_here = found.orbits[0].inputs is self.inputs
        repeats = not is_here or _are_same(found.orbits[0].values, base, ROUNDINGS * found.setting.eps)
        outputs = tuple(_ties(one, two) for one, two in pairs)
        if any(each.reason is Reason.TIES for each in outputs):
            lost = self._lost(found.orbits, found.setting.eps)
            outputs = tuple(_undecided(each, lost) if each.reason is Reason.TIES else each for each in outputs)
        return replace(again, outputs=outputs, repeats=repeats)

    def _lost(self, orbits: Sequence[Orbit], eps: float) -> dict[str, Reason]:
        """The outputs of which last digits are all there is on inputs nearby too, where nothing ties; and why.

        They are zero but for rounding, or chaotic.
        """
        there = next((each for each in orbits if each.inputs is not self.inputs), None)
        if there is None:
            return {}
        moved = self._moved(there.inputs)
        changes = _changes(there.values, [self.twin.run(nudged(there.inputs, moved, 0, eps))])
        sizes = {name: float(there.values[name].norm()) for name in changes}
        least = NOTHING * max(size(there.inputs), *sizes.values())
        lost = {name for name, change in changes.items() if change > MEANINGLESS * sizes[name]}
        return {name: Reason.SILENT if sizes[name] < least else Reason.ROUNDING for name in lost}

    def _rounding(self, base: Values, eps: float) -> dict[str, float]:
        """How much the output changes with the inputs' last digits."""
        moved = self._moved(self.inputs)
        return _changes(base, (self.twin.run(nudged(self.inputs, moved, seed, eps)) for seed in range(2)))

    @property
    def _has_coarse_constants(self) -> bool:
        """Whether the model's own precision is below float32's: its constants are then far from what they stand for."""
        return torch.finfo(self.twin.own).eps > torch.finfo(torch.float32).eps


def _ramp(value: Tensor) -> Tensor:
    return torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)


def _changes(base: Values, outputs: Iterable[Any]) -> dict[str, float]:
    """How far each tensor of the output is from that of other runs, at most."""
    changes: dict[str, float] = {}
    for name, value in (item for output in outputs for item in seen_in(output).items()):
        if name in base and base[name].shape == value.shape and is_measured(value):
            changes[name] = max(changes.get(name, 0.0), float((value - base[name]).norm()))
    return changes


def _all(each: Orbit) -> list[Values]:
    return [each.values, *(run.values for run in each.moved)]


def _are_same(one: Values, two: Values, tolerance: float) -> bool:
    """Whether two outputs are equal up to a tolerance, of their size."""
    return one.keys() == two.keys() and all(
        value.shape == two[name].shape
        and difference(value, two[name]) <= tolerance * float(value.to(torch.complex128).norm())
        for name, value in one.items()
    )


def _ties(before: Judged, after: Judged) -> Judged:
    is_lost = before.status is Status.BROKEN and after.reason is Reason.ROUNDING
    if is_lost and max(run.error for run in before.runs) > MEANINGLESS:
        return replace(before, reason=Reason.TIES)
    return after if before.status is Status.BROKEN else before


def _undecided(found: Judged, lost: Mapping[str, Reason]) -> Judged:
    return replace(found, status=Status.UNDECIDED, reason=lost[found.name]) if found.name in lost else found


def _near(orbits: Sequence[Orbit]) -> dict[str, float]:
    """How much each tensor varies between the inputs, extrapolated to steps as large as g x - x, at most to its size."""
    first, *others = orbits
    found: dict[str, float] = {}
    for name, value in first.values.items():
        for other in others:
            there = other.values.get(name)
            if there is None or there.shape != value.shape or not is_measured(value):
                continue
            change, size = float((there - value).norm()), max(float(there.norm()), float(value.norm()))
            step = distance(first.inputs, other.inputs)
            factor = max(1.0, max(first.step, other.step) / step) if step else 1.0
            found[name] = max(found.get(name, 0.0), change, min(factor * change, size))
    return found
