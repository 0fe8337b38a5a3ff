"""Attribution: the operation to which an error is traced back, with its place in the user's source and its cause."""

from __future__ import annotations

import functools
import linecache
import math
from collections.abc import Iterator

import torch
from torch import fx, nn

from relaxify.evidence.analysis import Analysis, analyse
from relaxify.evidence.breaks import op_name, where
from relaxify.evidence.evidence import Evidence
from relaxify.graph.inputs import Inputs
from relaxify.graph.recording import Recording, record
from relaxify.groups import Group
from relaxify.inspection.cause import Cause, CauseKind, Form
from relaxify.inspection.causes import cause_of
from relaxify.inspection.report import Fault
from relaxify.relaxation.examining import Examined
from relaxify.relaxation.plan import Plan
from relaxify.verdicts.action_errors import InputAction
from relaxify.verdicts.generic import move_special
from relaxify.verdicts.orbits import finite
from relaxify.verdicts.twin import Twin
from relaxify.verdicts.verdict import Reason, Status, Verdict, name_of

ROUNDING = 1e-3
"""The relative error above which a value has lost its digits."""


def attributed(
    model: nn.Module, planned: Plan, examined: Examined, inputs: Inputs, input_action: InputAction | None, *, training: bool
) -> tuple[Fault | None, tuple[Fault, ...]]:
    """The operation to which the verdict is traced back, if it is one; and those that look odd in a sound model."""
    verdict, analysis = examined.measured.verdict, examined.analysis
    if verdict.status is Status.LATENT:
        moved = functools.partial(move_special, names=verdict.parameters)
        group = Group.parse(planned.group)
        analysis = analyse(
            model, group, inputs, input_action, planned.sites, training=training, prepare=moved, status=Status.BROKEN
        )
        return _first_fault(planned, analysis, verdict), ()
    if verdict.status is Status.BROKEN or verdict.reason in (Reason.FEW, Reason.SIGN):
        return _first_fault(planned, analysis, verdict), ()
    if verdict.reason is Reason.NOT_FINITE:
        return _not_finite_fault(analysis.evidence), ()
    rounding = _rounding_fault(model, analysis.evidence, inputs, verdict, training=training)
    return rounding, tuple(_notes(analysis, verdict))


def _notes(analysis: Analysis, verdict: Verdict) -> Iterator[Fault]:
    """What looks odd in a sound model has no cause: two may cancel, or the basis may be another."""
    if verdict.is_sound and analysis.broken is not None:
        node, evidence = analysis.broken.node, analysis.evidence
        why = Cause(CauseKind.OTHER, op_name(node), evidence.group.name, "note")
        yield _fault_at(node, why, evidence.of(node).residual, verdict.error.mean)


def _first_fault(planned: Plan, analysis: Analysis, verdict: Verdict) -> Fault | None:
    """The first of what breaks the output, and of the linear operations that should be equivariant and are not."""
    broken = (analysis.broken.module, analysis.broken.op) if analysis.broken else None
    unsound = {rejected.path for rejected in planned.unsound if (rejected.path, rejected.op) != broken}
    nodes = {call.node for path, calls in analysis.calls.items() if path in unsound for call in calls}
    nodes |= {analysis.broken.node} if analysis.broken else set()
    evidence = analysis.evidence
    node = next((node for node in evidence.nodes if node in nodes), None)
    if node is None:
        node = _parting(analysis)
        if node is None:
            return None
        return _fault_at(node, Cause(CauseKind.COURSE, op_name(node), evidence.group.name), math.nan, verdict.error.mean)
    return _fault_at(node, _cause(evidence, node, verdict), evidence.of(node).residual, verdict.error.mean)


def _parting(analysis: Analysis) -> fx.Node | None:
    """Where runs part: at what nothing but a branch of the program reads, the last before that moves in no known way."""
    parting = analysis.parting
    before = parting
    while before is not None and (before := before.prev).op == "call_function":
        if not before.users and not analysis.evidence.of(before).is_sound:
            return before
    return parting


def _cause(evidence: Evidence, node: fx.Node, verdict: Verdict) -> Cause:
    if verdict.reason is Reason.TIES:
        return Cause(CauseKind.TIES, op_name(node), evidence.group.name)
    if verdict.reason is Reason.CONVENTION:
        return Cause(CauseKind.CONVENTION, op_name(node), evidence.group.name, "basis")
    return cause_of(evidence, node)


def _not_finite_fault(evidence: Evidence) -> Fault | None:
    """The first operation whose NaN or infinite values reach an output; a mask's, which softmax takes away, do not."""
    waiting = [evidence.nodes[-1]]
    found: set[fx.Node] = set()
    while waiting:
        sources = {node for node in waiting.pop().all_input_nodes if _is_not_finite(node)} - found
        found |= sources
        waiting += sources
    node = next((node for node in evidence.nodes if node in found and node.op == "call_function"), None)
    if node is None:
        return None
    return _fault_at(node, Cause(CauseKind.OTHER, op_name(node), evidence.group.name, "infinite"), math.nan, math.nan)


def _is_not_finite(node: fx.Node) -> bool:
    value = node.meta.get("value")
    return value is not None and not finite(value)


def _rounding_fault(
    model: nn.Module, evidence: Evidence, inputs: Inputs, verdict: Verdict, *, training: bool
) -> Fault | None:
    """The operation at which a model that is sound in float64 loses its digits in its own precision."""
    own, has_overflown = verdict.own, verdict.reason is Reason.OVERFLOW
    if own is None or not (has_overflown or own.error.largest > max(ROUNDING, 100 * torch.finfo(own.precision).eps)):
        return None
    twin = Twin(model, training=training, double=False)
    run = twin.run(twin.inputs(inputs), record)
    # as autocast has it, which no parameter tells
    precision = max(_precisions(run, own.precision), key=lambda dtype: torch.finfo(dtype).eps)
    if not (has_overflown or own.error.largest > 100 * torch.finfo(precision).eps):
        return None
    lost: set[fx.Node] = set()
    for exact, rounded in zip(evidence.nodes, run.nodes, strict=False):
        error = _difference(exact, rounded)
        # what has lost its digits on the way to an overflow is no fault of its own
        is_lost = not error < math.inf if has_overflown else error > ROUNDING
        if is_lost and lost.isdisjoint(exact.all_input_nodes):
            details = {"dtype": name_of(precision)}
            form: Form = "overflow" if has_overflown else ""
            why = Cause(CauseKind.ROUNDING, op_name(exact), evidence.group.name, form, details)
            return _fault_at(exact, why, error, own.error.mean)
        lost |= {exact} if is_lost else set()
    return None


def _precisions(run: Recording, own: torch.dtype) -> set[torch.dtype]:
    values = [node.meta.get("value") for node in run.nodes]
    return {own} | {value.dtype for value in values if value is not None and value.is_floating_point()}


def _fault_at(node: fx.Node, why: Cause, own: float, of_output: float) -> Fault:
    location = where(node)
    file, _, line = location.rpartition(":")
    source = linecache.getline(file, int(line)).strip() if line.isdigit() else ""
    amplified = of_output / own if own else float("inf")
    return Fault(node.meta.get("module", ""), op_name(node), location, source, why, own, amplified)


def _difference(exact: fx.Node, rounded: fx.Node) -> float:
    a, b = exact.meta.get("value"), rounded.meta.get("value")
    if a is None or b is None or a.shape != b.shape or not a.numel() or exact.op != "call_function":
        return 0.0
    return float((a.double() - b.double()).norm() / (a.double().norm() or 1.0))
