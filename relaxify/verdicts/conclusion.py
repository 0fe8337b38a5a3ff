"""From what each tensor of an output comes to, to the verdict on the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from relaxify.groups import Group
from relaxify.verdicts.judging import output_verdict
from relaxify.verdicts.orbits import not_finite
from relaxify.verdicts.subject import Measured
from relaxify.verdicts.verdict import Errors, OutputVerdict, Reason, Status, Verdict

_UNKNOWN = Errors.of([])


def without_runs(model: nn.Module, group: Group, reason: Reason, where: str) -> Verdict:
    """The verdict where nothing can be measured: on a model or inputs that are not finite, or outputs that are not seen."""
    names = type(model).__name__, group.name
    return Verdict(*names, Status.UNDECIDED, reason, _UNKNOWN, 0.0, torch.float64, 0, 0, "", where, ())


def conclude(model: nn.Module, group: Group, found: Measured) -> Verdict:
    """The verdict on a model of which this was measured."""
    moving = [each for each in found.orbits if each.moved]
    outputs = tuple(output_verdict(each, moving) for each in found.outputs)
    worst = _worst(outputs)
    verdict = Verdict(
        model=type(model).__name__,
        group=group.name,
        status=worst.status,
        reason=worst.reason,
        error=worst.error,
        tolerance=worst.tolerance,
        precision=found.precision,
        elements=sum(len(each.moved) for each in moving),
        inputs=len(moving),
        element=worst.element,
        where=worst.name if worst.status is not Status.SOUND else "",
        outputs=outputs,
    )
    if where := next(not_finite(found.orbits), ""):
        return replace(verdict, status=Status.UNDECIDED, reason=Reason.NOT_FINITE, error=_UNKNOWN, where=where)
    if verdict.status is Status.BROKEN and not found.repeats:
        return replace(verdict, status=Status.UNDECIDED, reason=Reason.RANDOM)
    if verdict.is_sound and not any(each.step for each in moving):
        return replace(verdict, status=Status.UNDECIDED, reason=Reason.UNMOVED)
    return verdict


def _worst(outputs: Sequence[OutputVerdict]) -> OutputVerdict:
    """The output that decides. One that is silent decides only where all are: beside others it may be a constant."""
    telling = [each for each in outputs if each.reason is not Reason.SILENT] or outputs
    order = {Status.BROKEN: 2, Status.UNDECIDED: 1}
    return max(telling, key=lambda each: (order.get(each.status, 0), each.error.largest))
