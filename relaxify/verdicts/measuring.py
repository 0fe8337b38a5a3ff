"""measure: the verdict on a model under a group, from runs of copies of it alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from relaxify.graph.inputs import Inputs, InputsError, call
from relaxify.grids.pixels import on_pixels
from relaxify.groups import Group
from relaxify.verdicts.action_errors import InputAction, OutputAction
from relaxify.verdicts.actions import moves_pixels
from relaxify.verdicts.conclusion import conclude, without_runs
from relaxify.verdicts.default_action import default_action
from relaxify.verdicts.draws import Draw, draws
from relaxify.verdicts.factors import check_commuting, of_one_factor
from relaxify.verdicts.generic import SIZE, Generic, responsible, special
from relaxify.verdicts.judging import Judged, in_precision, judge
from relaxify.verdicts.nearby import tensors_in
from relaxify.verdicts.orbits import Actions, Orbit, finite, not_finite, orbit
from relaxify.verdicts.outputs import OutputError
from relaxify.verdicts.places import nowhere, of_inputs, of_pixels
from relaxify.verdicts.subject import Measured, Subject
from relaxify.verdicts.twin import Runner, Twin
from relaxify.verdicts.verdict import Errors, OwnPrecision, Reason, Status, Verdict, of_product

NEW = 10
"""Times an error, above which another is of another size."""


@dataclass(frozen=True)
class Measurement:
    """A verdict, with what it rests on; without where nothing was run."""

    verdict: Verdict
    subject: Subject | None = None
    found: Measured | None = None

    @property
    def twin(self) -> Twin | None:
        """The copy in float64 that was measured, as the model is, if there is one."""
        return self.subject.twin if self.subject is not None and self.subject.twin.double else None

    @property
    def orbit(self) -> Orbit | None:
        """The runs on the given input and on what it is moved to."""
        return None if self.found is None else self.found.orbits[0]

    @property
    def worst(self) -> tuple[Inputs, Draw] | None:
        """The element that broke the model most: on the given input, or on one nearby where none did on that."""
        if self.found is None or self.subject is None:
            return None
        runs = [run for each in self.found.outputs if each.status is Status.BROKEN for run in each.runs]
        here = [run for run in runs if run.x is self.subject.inputs and not run.is_within]
        worst = max(here or runs, key=lambda run: run.error, default=None)
        return None if worst is None else (worst.x, worst.g)

    def elsewhere(self, twin: Twin, elements: int) -> Orbit | None:
        """What another copy of the model gives on the given input, and on what that is moved to; None if it does not run."""
        if self.subject is None:
            return None
        with suppress(InputsError):
            given = twin.inputs(self.subject.given)
            return orbit(twin, self.subject.actions, given, draws(self.subject.group, 0)[:elements])
        return None

    def of(self, rough: Orbit, precision: torch.dtype) -> OwnPrecision | None:
        """The same in another precision, held to transforming as was found and to the same response."""
        if self.found is None:
            return None
        telling = [each for each in self.found.outputs if each.runs and each.reason is not Reason.SILENT]
        errors = [in_precision(each, rough, self.found.orbits[0], self.found.setting) for each in telling]
        if not errors:
            return None
        return OwnPrecision(precision, Errors.of([e for e, _ in errors]), max(r for _, r in errors))


def measure(model: nn.Module, group: Group | str, inputs: Inputs, **options: Any) -> Verdict:
    """The verdict of `measurement`, of which these are the arguments.

    >>> measure(nn.Linear(3, 3, bias=False), "SO(3)", (torch.randn(8, 3),)).status
    <Status.BROKEN: 'broken'>

    A product of groups is measured factor by factor.

    >>> measure(nn.Linear(4, 4, bias=False), "O(3) x S(5)", (torch.randn(8, 5, 3, 4),)).status
    <Status.SOUND: 'sound'>
    """
    group = Group.parse(group)
    if not group.factors:
        return measurement(model, group, inputs, **options).verdict
    check_commuting(group, inputs, options.get("input_action") or default_action(group, inputs))
    of_each = (of_one_factor(options, group, number) for number in range(len(group.factors)))
    verdicts = [measure(model, factor, inputs, **own) for factor, own in zip(group.factors, of_each, strict=True)]
    return of_product(group.name, verdicts)


def measurement(
    model: nn.Module,
    group: Group | str,
    inputs: Inputs,
    *,
    input_action: InputAction | None = None,
    output_action: OutputAction | None = None,
    training: bool = False,
    own: bool = True,
    generic: bool = True,
    prepare: Callable[[nn.Module], None] | None = None,
    runner: Runner = call,
) -> Measurement:
    """Whether f(g x) = rho(g) f(x): the error relative to f's response, in float64 where the model runs in it.

    - `inputs`: the arguments of forward, a tuple or a dict by name. They and the model are copied, and stay as they are.
    - `input_action`: (g, inputs) -> moved inputs; by default every axis of the size of g's matrix carries vectors.
    - `output_action`: (g, output) -> moved output; by default what each tensor of the output is measured to transform as.
    - `training`: in training mode, with the same random numbers in each run.
    - `own`: measure in the model's own precision too. `generic`: also once parameters that are exactly 0 or 1 have moved.
    - `prepare`: called with each copy of the model before it runs; `runner`: runs it on the given input and where that is
      moved to, in float64.

    Undecided, without a run, of a model with NaN or with an output in which no tensor is found. ValueError if the model
    cannot be copied or run, or if it is ambiguous how the group acts on the inputs.
    """
    group = Group.parse(group)
    actions = Actions(input_action or default_action(group, inputs), output_action)
    group = on_pixels(group) if moves_pixels(actions.inputs) else group
    if where := spoilt(model, inputs):
        return Measurement(without_runs(model, group, Reason.NOT_FINITE, where))
    subjects = _Subjects(model, group, actions, inputs, training, prepare, is_own=input_action is not None)
    try:
        subject, found = _as_it_is(subjects, generic=generic, runner=runner)
    except OutputError as unseen:
        return Measurement(without_runs(model, group, Reason.UNSEEN, unseen.where))
    verdict = conclude(model, group, found)
    if verdict.is_sound and not subject.repeats(found.orbits[0], seed=0 if training else 1):
        verdict = replace(verdict, status=Status.UNDECIDED, reason=Reason.RANDOM)
    verdict = replace(verdict, forward_passes=subject.twin.runs)
    if generic and verdict.status in (Status.SOUND, Status.UNDECIDED) and verdict.reason is not Reason.RANDOM:
        verdict = _in_general(verdict, model, subject)
    measured = Measurement(verdict, subject, found)
    if subject.twin.double and subject.twin.own != torch.float64 and (own or verdict.is_sound):
        measured = _in_own_precision(measured, _in_its_precision(model, training, prepare), elements=2 if own else 0)
    return measured


def _in_its_precision(model: nn.Module, training: bool, prepare: Callable[[nn.Module], Any] | None) -> Twin | None:
    """A copy in the model's own precision; None of one that only float64 can run: escnn's models share their bases, say."""
    with suppress(RuntimeError):
        return Twin(model, training=training, double=False, prepare=prepare)
    return None


def _in_own_precision(measured: Measurement, twin: Twin | None, elements: int) -> Measurement:
    """With what a copy in the model's own precision does: what overflows there is not sound, whatever float64 holds."""
    if twin is None:
        return measured
    rough, verdict = measured.elsewhere(twin, elements), measured.verdict
    if rough is not None and elements:
        verdict = replace(verdict, own=measured.of(rough, twin.own))
    if rough is not None and verdict.is_sound and (where := next(not_finite([rough]), "")):
        verdict = replace(verdict, status=Status.UNDECIDED, reason=Reason.OVERFLOW, where=where, element="")
    return replace(measured, verdict=replace(verdict, forward_passes=verdict.forward_passes + twin.runs))


@dataclass(frozen=True)
class _Subjects:
    """Copies to measure, in either precision."""

    model: nn.Module
    group: Group
    actions: Actions
    inputs: Inputs
    training: bool
    prepare: Callable[[nn.Module], None] | None
    is_own: bool

    def copied(self, *, double: bool) -> Subject:
        twin = Twin(self.model, training=self.training, double=double, prepare=self.prepare)
        if moves_pixels(self.actions.inputs):
            where = of_pixels(self.inputs)
        elif self.is_own:
            where = of_inputs(self.actions, twin.inputs(self.inputs), draws(self.group, 0)[0])
        else:
            where = nowhere
        return Subject(twin, self.group, self.actions, self.inputs, where)


def _as_it_is(subjects: _Subjects, *, generic: bool, runner: Runner) -> tuple[Subject, Measured]:
    """The model in float64, or in its own precision if it does not run in that."""
    subject = subjects.copied(double=True)
    try:
        return subject, subject.measured(whole=not (generic and special(subject.twin.model)), runner=runner)
    except InputsError:
        other = subjects.copied(double=False)
        if other.twin.own != torch.float64:
            with suppress(ValueError):
                return other, other.measured()
        raise


def _in_general(verdict: Verdict, model: nn.Module, subject: Subject) -> Verdict:
    """The verdict with that on the model in general position: a sound model may break once it is trained."""
    where = special(subject.twin.model)
    general = Generic(subject.twin, where)
    for size in (SIZE, SIZE / 10):
        if not where:
            break
        general.move(general.names, size)
        with suppress(InputsError):
            found = subject.measured(whole=False, from_nearby=True)
            there = conclude(model, subject.group, found)
            if there.reason is not Reason.NOT_FINITE:
                verdict = _together(verdict, there, functools.partial(_responsible, general, subject, found, size))
                break
    verdict = replace(verdict, forward_passes=subject.twin.runs)
    subject.twin.restore()
    general.move(())
    return verdict


def _together(here: Verdict, there: Verdict, parameters: Callable[[], tuple[str, ...]]) -> Verdict:
    both = replace(here, elements=here.elements + there.elements, inputs=here.inputs + there.inputs)
    # of what transformed in a known way, that it may do so in another once trained is not enough; nor is an error that
    # is there as it is, and comes to lie on the other side of the tolerance
    is_new = not there.error.largest <= NEW * here.error.largest
    if is_new and (there.status is Status.BROKEN or (here.is_sound and there.reason is Reason.FEW)):
        what = replace(both, generic=there.error, where=there.where, outputs=there.outputs, element=there.element)
        return replace(what, status=Status.LATENT, reason=Reason.TRAINED, parameters=parameters())
    if here.reason is Reason.SILENT and there.is_sound:
        # zero until trained
        return replace(there, elements=both.elements, inputs=both.inputs, generic=there.error)
    return replace(both, generic=there.error)


def _responsible(general: Generic, subject: Subject, found: Measured, size: float) -> tuple[str, ...]:
    """The parameters that break the model when they alone move: told by the output and the element that were worst."""
    broken = next(each for each in found.outputs if _is_against(each))
    moving = next(each for each in found.orbits if each.moved)
    run = max(broken.runs, key=lambda run: run.error, default=None)
    worst = [each.g for each in moving.moved] if run is None else [run.g]
    # an error close to the tolerance is told from none by its own size
    share = math.inf if run is None else run.error / NEW

    def is_wrong(judged: Judged) -> bool:
        if judged.status is Status.BROKEN or judged.reason is broken.reason:
            return True
        telling = [each.error for each in judged.runs if not each.is_silent]
        return judged.name == broken.name and max(telling, default=0.0) > share

    def breaks(some: Sequence[str]) -> bool:
        general.move(some, size)
        runs = orbit(subject.twin, subject.actions, moving.inputs, worst)
        return any(is_wrong(judge(name, [runs], found.setting)) for name in runs.values)

    return responsible(general.names, breaks)


def _is_against(found: Judged) -> bool:
    return found.status is Status.BROKEN or found.reason is Reason.FEW


def without_entries(inputs: Inputs) -> str:
    """The first input, if none has any entries."""
    tensors = tensors_in(inputs)
    if not tensors or any(value.numel() for value in tensors.values()):
        return ""
    name, value = next(iter(tensors.items()))
    return f"input{name} has shape {tuple(value.shape)}, which has no entries"


def spoilt(model: nn.Module, inputs: Inputs) -> str:
    """The first parameter or input that is not finite."""
    for name, parameter in model.named_parameters():
        if any((is_lazy(parameter), parameter.is_meta)):
            continue
        if not finite(parameter.detach()):
            return f"parameter {name}"
    # an infinite entry may be a mask
    return next((f"input{name}" for name, value in tensors_in(inputs).items() if value.isnan().any()), "")
