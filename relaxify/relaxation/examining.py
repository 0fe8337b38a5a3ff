"""A model on example inputs: the verdict on the whole, which decides, and what its values do, which explains it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from relaxify.evidence.analysis import Analysis, analyse, analyse_nothing, analyse_verdict, asked_of, symmetrise
from relaxify.evidence.silence import is_sound_until_silent
from relaxify.evidence.verdict_runs import Tape
from relaxify.graph.inputs import Inputs
from relaxify.groups import Group
from relaxify.relaxation.plan import Plan
from relaxify.sites import Rejected, RejectionKind, Site
from relaxify.verdicts.action_errors import InputAction, OutputAction
from relaxify.verdicts.measuring import Measurement, measurement, spoilt, without_entries
from relaxify.verdicts.verdict import Reason, Status, Verdict


@dataclass(frozen=True)
class Examined:
    """A model on example inputs: the verdict on it as a whole, and how each of its values transforms.

    `factors`: under a product of groups, what is planned under each factor and what that rests on.
    """

    measured: Measurement
    analysis: Analysis
    factors: tuple[tuple[Plan, Examined], ...] = ()


def examine(
    model: nn.Module,
    group: Group,
    inputs: Inputs,
    settled: Sequence[Site | Rejected],
    *,
    own: bool,
    whole: bool,
    training: bool,
    input_action: InputAction | None,
    output_action: OutputAction | None,
) -> Examined:
    """The verdict first; what each value does explains it, and never overrules it.

    If `own`, also in the model's own precision; if `whole`, each value of it.
    """
    if where := without_entries(inputs):
        raise ValueError(f"{where}, of which nothing can be told; use at least one sample.")
    if where := spoilt(model, inputs):
        raise ValueError(f"{where} has NaN or infinite values, of which nothing can be told; restore or replace them.")
    sites = [entry for entry in settled if isinstance(entry, Site)]
    options: dict[str, Any] = {"training": training, "prepare": partial(symmetrise, sites=sites)}
    actions: dict[str, Any] = {"input_action": input_action, "output_action": output_action}
    tape = Tape(None if whole else partial(asked_of, model, group, settled))
    measured = measurement(model, group, inputs, own=own, runner=tape, **actions, **options)
    if found := analyse_verdict(model, group, inputs, input_action, settled, measured, tape.runs, whole=whole):
        return Examined(measured, found)
    if measured.subject is not None and measured.twin is None:
        found = analyse_nothing(model, group, inputs, input_action, settled, twin=measured.subject.twin)
        return Examined(measured, found)
    # where a sign flips is looked for as if it were wrong
    status = Status.BROKEN if measured.verdict.reason is Reason.SIGN else measured.verdict.status
    options |= {"status": status, "worst": measured.worst, "twin": measured.twin, "whole": whole}
    return Examined(measured, analyse(model, group, inputs, input_action, settled, **options))


def as_a_whole(
    model: nn.Module, claims: Sequence[Site | Rejected], decided: list[Site | Rejected], examined: Examined
) -> list[Site | Rejected]:
    """What was decided of each operation, held to the verdict on the model."""
    verdict = examined.measured.verdict
    if verdict.is_sound:
        return [_harmless(entry) for entry in _upheld(claims, decided)]
    is_blamed = any(isinstance(entry, Rejected) and entry.unsound for entry in decided)
    if verdict.status is Status.BROKEN and is_blamed:
        return decided
    # a constant is no proof; but no fault either, of values that transform up to there
    is_harmless = verdict.reason is Reason.SILENT and not is_blamed and is_sound_until_silent(examined.analysis.evidence)
    if is_harmless:
        decided = _upheld(claims, decided)
    return [*decided, *_of_the_model(model, verdict, RejectionKind.undecided if is_harmless else RejectionKind.unsound)]


def _upheld(claims: Sequence[Site | Rejected], decided: Sequence[Site | Rejected]) -> list[Site | Rejected]:
    """Claims are proved, and where nothing is broken, a layer that reads another basis or order of axes is no less right."""
    proved = {claim.path: claim for claim in claims if isinstance(claim, Site)}
    return [proved.get(entry.path, entry) if isinstance(entry, Rejected) and entry.spoilt else entry for entry in decided]


def _harmless(entry: Site | Rejected) -> Site | Rejected:
    if isinstance(entry, Rejected) and entry.unsound:
        return replace(entry, kind=RejectionKind.harmless)
    return entry


def _of_the_model(model: nn.Module, verdict: Verdict, kind: RejectionKind) -> Iterator[Rejected]:
    """What speaks against a model where no operation does."""
    if verdict.status is Status.LATENT:
        for name in verdict.parameters:
            reason = f"it will break {verdict.group} once trained: {name} is harmless only while it is exactly 0 or 1"
            path = name.rpartition(".")[0]
            yield Rejected(path, type(model.get_submodule(path)).__name__, reason, RejectionKind.unsound)
        return
    told = "no single operation could be named" if verdict.status is Status.BROKEN else "it cannot be told to be equivariant"
    error = f", error {verdict.error.mean:.1e}" if verdict.elements else ""
    reason = f"{verdict.why}{error}; {told}"
    yield Rejected("", type(model).__name__, reason, kind)
