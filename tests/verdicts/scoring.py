"""What relaxify says of one entry, held against its label: the verdicts of inspect, plan and assert_equivariant."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn

from relaxify import Group, Report, inspect, plan, relaxify
from relaxify.relaxation.plan import Plan
from relaxify.testing import assert_equivariant
from relaxify.verdicts import Status, Verdict
from verdicts import oracle
from verdicts.entry import BROKEN, LATENT, NEVER, SOUND, UNSEEN, Entry, Matrices

REFUSED = "refused"
"""A ValueError or TypeError: a sentence, no verdict."""
UNDECIDED = "undecided"
ALLOWED = {SOUND: {SOUND}, BROKEN: {BROKEN}, LATENT: {BROKEN}, NEVER: {BROKEN, UNDECIDED, REFUSED}, UNSEEN: {UNDECIDED}}
"""What may be said of each kind of model."""
SMALL = 1e-5
"""The error of a model that `relaxify` has made equivariant, where constants are kept in float32."""


@dataclass(frozen=True)
class Score:
    """The three verdicts, the operation named as the first that breaks, and what went wrong."""

    entry: Entry
    inspected: str
    planned: str
    asserted: str
    named: tuple[str, str] | None
    seconds: float
    words: str
    relaxed: bool
    """Whether strict `relaxify` takes a model that will break once trained."""
    planned_of: str
    """The label of what a plan is of: the model as it is, or as `relaxify` would make it, with symmetrised convolutions."""
    changed: bool
    """Whether the user's model, inputs or random numbers are not what they were."""

    @property
    def verdicts(self) -> dict[str, str]:
        """Those that were asked for: a plan is made of models in evaluation, as `relaxify` would leave them."""
        found = {"inspect": self.inspected, "plan": self.planned, "assert_equivariant": self.asserted}
        return {verb: verdict for verb, verdict in found.items() if not (verb == "plan" and self.entry.training)}

    def _label(self, verb: str) -> str:
        return self.planned_of if verb == "plan" else self.entry.label

    @property
    def false_sound(self) -> bool:
        return any(verdict == SOUND != self._label(verb) for verb, verdict in self.verdicts.items())

    @property
    def false_broken(self) -> bool:
        return any(verdict != SOUND == self._label(verb) for verb, verdict in self.verdicts.items())

    @property
    def crashed(self) -> str:
        """What was raised that is no sentence for a user, or refused or left undecided that should have a verdict."""
        return ", ".join(
            f"{verb}: {verdict}"
            for verb, verdict in self.verdicts.items()
            if verdict not in ALLOWED[self._label(verb)] | {SOUND}
            # of a map on other pixels it may be left open whether it is meant, if it is said where it comes about
            and not (verdict == UNDECIDED and self._label(verb) == BROKEN and self.named_right)
        )

    @property
    def unspoken(self) -> bool:
        """Whether what cannot be seen, or will break once trained, was not said to."""
        if self.entry.label == UNSEEN:
            return "return tensors" not in self.words
        return self.entry.label == LATENT and "once trained" not in self.words

    @property
    def named_right(self) -> bool:
        return self.named is not None and plain(self.named) in {plain(fault) for fault in self.entry.faults}


def plain(fault: tuple[str, str]) -> tuple[str, str]:
    """Path and operation in which relu_ and __add__ are relu and add.

    >>> plain(("head", "torch.nn.functional.relu_"))
    ('head', 'relu')
    """
    path, op = fault
    name = op.rpartition(".")[2].lower()
    return path, name if name == "__getitem__" else name.strip("_")


def score(entry: Entry) -> Score:
    """Judge an entry in all three ways."""
    model, inputs = entry.model(), entry.example()
    before = _state(model, inputs)
    positional, keywords = _arguments(entry, inputs)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inspected, report = _said(lambda: inspect(model, *positional, **keywords))
        # assert_equivariant would measure the same once more, with the same seeds
        measured = {"side_effect": report} if inspected else {"return_value": report}
        with mock.patch("relaxify.testing.inspect", **measured):
            asserted, _ = _said(lambda: assert_equivariant(model, *positional, **keywords))
        refused, found = _said(lambda: plan(model, _group(entry), example_inputs=inputs, **_planned(entry)))
    seconds = time.perf_counter() - start
    fault = report.fault if isinstance(report, Report) else None
    inspected = inspected or _in_a_word(report.verdict)
    return Score(
        entry,
        inspected,
        _planned_verdict(entry, refused, found),
        # an assertion fails in one way only
        (inspected if asserted == BROKEN and inspected == UNDECIDED else asserted) or SOUND,
        (fault.module, fault.op) if fault else None,
        seconds,
        " ".join(f"{report}\n{found}".split()),
        relaxed=entry.label == LATENT and not _is_symmetrised(found) and _takes(entry),
        planned_of=_planned_of(entry, found),
        changed=not _same(before, _state(model, inputs)),
    )


def _in_a_word(verdict: Verdict) -> str:
    return {Status.SOUND: SOUND, Status.UNDECIDED: UNDECIDED}.get(verdict.status, BROKEN)


def _planned_verdict(entry: Entry, refused: str, found: Any) -> str:
    """What a plan says: `relaxify` takes what nothing speaks against, whatever the verdict. A refusal must be expected."""
    if refused:
        expected = bool(entry.refusal) and entry.refusal in str(found)
        return entry.label if refused == REFUSED and expected else refused
    said = _in_a_word(found.verdict)
    return SOUND if not found.unsound else BROKEN if said == SOUND else said


def _planned_of(entry: Entry, found: Any) -> str:
    if not _is_symmetrised(found):
        return entry.label
    model = relaxify(entry.model(), _group(entry), example_inputs=entry.example(), strict=False, **_planned(entry))
    return SOUND if oracle.error(entry, model=model) < SMALL else BROKEN


def _is_symmetrised(found: Any) -> bool:
    """Whether `relaxify` would make ordinary convolutions equivariant, so that the plan is not of the model as it is."""
    sites = found.sites if isinstance(found, Plan) else ()
    return any(site.map.convolution is not None and site.map.convolution.kernel.symmetriser is not None for site in sites)


def _takes(entry: Entry) -> bool:
    """Whether strict `relaxify` relaxes the model."""
    refused, _ = _said(lambda: relaxify(entry.model(), _group(entry), example_inputs=entry.example(), **_planned(entry)))
    return not refused


def _said(judge: Callable[[], Any]) -> tuple[str, Any]:
    """A verdict in the place of what was raised, and the result or the words."""
    try:
        return "", judge()
    except AssertionError as complaint:
        return BROKEN, complaint
    except (ValueError, TypeError) as refusal:
        return REFUSED if type(refusal) in (ValueError, TypeError) and _is_sentence(refusal) else _name(refusal), refusal
    except Exception as error:
        return _name(error), error


def _is_sentence(error: Exception) -> bool:
    """Whether a refusal is relaxify's own, raised where it names the thing and the reason."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "relaxify" in trace.tb_frame.f_globals.get("__name__", "")


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"


def _group(entry: Entry) -> Group | str:
    if isinstance(entry.group, Matrices):
        return Group.from_generators(entry.group.lie, finite=entry.group.finite, name=entry.group.name)
    return entry.group


def _planned(entry: Entry) -> dict[str, Any]:
    told = {"input_action": entry.input_action} if entry.input_action else {}
    return told | ({"input_irreps": dict(entry.irreps)} if entry.irreps else {})


def _arguments(entry: Entry, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    named = isinstance(inputs, dict)
    keywords = _planned(entry) | ({"keywords": inputs} if named else {}) | {"training": entry.training}
    if entry.output_action:
        keywords["output_action"] = entry.output_action
    return (_group(entry), *(() if named else inputs)), keywords


def _state(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    tensors = [value for value in model.state_dict(keep_vars=True).values() if isinstance(value, torch.Tensor)]
    given = [value for _, value in oracle.leaves(inputs)]
    return [value.detach().clone() for value in (*tensors, *given)]


def _same(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return len(before) == len(after) and all(
        a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True)
    )
