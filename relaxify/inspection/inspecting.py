"""inspect: run a model on x and on g x, and say which layer breaks equivariance, by how much, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from relaxify.evidence.breaks import op_name, where
from relaxify.evidence.evidence import Evidence
from relaxify.graph.inputs import Inputs, leaves_of, tensors_of
from relaxify.groups import Group
from relaxify.inspection.carried import carried_by_outputs, words_of
from relaxify.inspection.faults import attributed
from relaxify.inspection.layers import layer_report
from relaxify.inspection.lie_derivatives import lie_derivatives
from relaxify.inspection.report import Fault, ModuleReport, NodeReport, OutputReport, Report
from relaxify.relaxation.planning import Examined, Plan, plan_and_analysis
from relaxify.relaxation.switching import relaxed
from relaxify.relaxation.terms.term import Term, terms_of
from relaxify.verdicts.actions import InputAction, OutputAction, action_on
from relaxify.verdicts.features import IrrepsOf
from relaxify.verdicts.twin import Twin
from relaxify.verdicts.verdict import Errors, OutputVerdict


def inspect(
    model: nn.Module,
    group: Group | str,
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    input_action: InputAction | None = None,
    input_irreps: IrrepsOf | None = None,
    output_action: OutputAction | None = None,
    training: bool = False,
) -> Report:
    """Equivariance errors of a model, of its layers and of its operations, and the first operation that breaks it.

    - `model`, `group`: see `relaxify`.
    - `inputs`: the arguments of forward; `keywords`: all of them by name, instead.
    - `input_action`: (g, inputs) -> inputs moved by the group element's matrix g (n x n); by default every axis that has
      the size n is a vector.
    - `input_irreps`: instead, the features that inputs carry on their last axis, by the names of forward's arguments:
      {"x": "8x0e+8x1o"} in e3nn's notation and basis (of degree 1: x, y, z), or in that of `relaxify.irreps` for other
      groups; or an escnn field type. The other inputs move as by default.
    - `output_action`: (g, output) -> output moved by g, of the same shape; by default what each tensor of the output is
      measured to transform as, or comes nearest to.
    - `training`: inspect the model in training mode (with the same random numbers in each run), where dropout acts.

    Works on any model that runs, relaxed or not; a relaxed one is inspected as it is without its terms, and its terms layer
    by layer. ValueError for an unknown group, or if the model does not run in float64. The model is not changed.

    >>> import torch
    >>> report = inspect(nn.Linear(3, 3, bias=False), "SO(3)", torch.randn(8, 3), output_action=lambda g, y: y @ g.T)
    >>> report.is_sound, report.error.mean > 0.1
    (False, True)
    """
    if inputs and keywords:
        raise ValueError("inspect takes its inputs by position or by name, not both; pass all of them in keywords={...}.")
    given = dict(keywords) if keywords else inputs
    acting = action_on(model, group, given, input_action, input_irreps)
    runs = _run(model, group, given, acting, output_action, training)
    lie, method = _lie_derivatives(runs, output_action)
    relaxed_error = _relaxed_error(runs)
    fault, notes = attributed(runs.model, runs.plan, runs.examined, runs.inputs, runs.input_action, training=training)
    return _report(runs, fault, notes, lie, method, relaxed_error)


@dataclass(frozen=True)
class _Runs:
    """A model on x and on g x, with the verdict on it and what its layers are found to be."""

    model: nn.Module
    inputs: Inputs
    input_action: InputAction | None
    training: bool
    terms: Mapping[str, Term]
    plan: Plan
    examined: Examined


def _run(
    model: nn.Module,
    group: Group | str,
    inputs: Inputs,
    input_action: InputAction | None,
    output_action: OutputAction | None,
    training: bool,
) -> _Runs:
    planned, examined = plan_and_analysis(
        model,
        group,
        example_inputs=inputs,
        input_action=input_action,
        output_action=output_action,
        training=training,
        changes=False,
    )
    assert examined is not None
    return _Runs(model, inputs, input_action, training, terms_of(model), planned, examined)


def _lie_derivatives(runs: _Runs, output_action: OutputAction | None) -> tuple[tuple[float, ...], str]:
    evidence = runs.examined.analysis.evidence
    if evidence.diverged is not None:
        return (), "none: the runs on x and on g x take different courses"
    floating = [value.is_floating_point() for _, value in tensors_of(evidence.recording.output)]
    carried = [each for each, is_floating in zip(carried_by_outputs(evidence), floating, strict=True) if is_floating]
    return lie_derivatives(runs.examined.analysis.observer, carried, output_action)


def _relaxed_error(runs: _Runs) -> Errors | None:
    """The error of a relaxed model with its terms acting, held to the same response."""
    if not runs.terms:
        return None
    twin = Twin(runs.model, terms=True)
    with relaxed(twin.model):
        # each run starts from the state that is settled: terms that act belong to it
        twin.settle()
        found = runs.examined.measured.of(twin)
    return None if found is None else found.error


def _report(
    runs: _Runs,
    fault: Fault | None,
    notes: tuple[Fault, ...],
    lie: tuple[float, ...],
    method: str,
    with_terms: Errors | None,
) -> Report:
    analysis, verdict = runs.examined.analysis, runs.examined.measured.verdict
    evidence = analysis.evidence
    return Report(
        group=evidence.group.name,
        model=type(runs.model).__name__,
        verdict=verdict,
        error=verdict.error,
        error_in_own_precision=verdict.error if verdict.own is None else verdict.own.error,
        relaxed_error=with_terms,
        lie=lie,
        lie_method=method,
        outputs=tuple(_output(each) for each in verdict.outputs),
        fault=fault,
        notes=notes,
        undecided=tuple(_undecided(evidence)) if fault is None and verdict.elements and not verdict.is_sound else (),
        layers=tuple(layer_report(site, runs.terms.get(site.path), analysis) for site in runs.plan.sites),
        modules=tuple(_modules(runs.model, evidence)),
        nodes=tuple(_nodes(evidence)),
        diverged=evidence.diverged,
        forward_passes=analysis.observer.runs + verdict.forward_passes + 3 * len(lie) + (3 if runs.terms else 0),
    )


def _output(found: OutputVerdict) -> OutputReport:
    return OutputReport(found.name, found.shape, found.transforms, found.error, found.response)


def _undecided(evidence: Evidence) -> Iterator[str]:
    """The operations, the first ones, of which too little was seen to tell whether they transform."""
    nodes = [node for node in evidence.nodes if node.op == "call_function" and evidence.of(node).kind == "undecided"]
    yield from (f"{op_name(node)} in {node.meta.get('module') or 'the model'} at {where(node)}" for node in nodes[:5])


def _nodes(evidence: Evidence) -> Iterator[NodeReport]:
    for number, node in enumerate(evidence.nodes):
        if node.op != "call_function" or node.meta.get("value") is None:
            continue
        found = evidence.of(node)
        module, shape = node.meta.get("module", ""), tuple(node.meta["value"].shape)
        words = words_of(evidence.group, found)
        yield NodeReport(number, node.name, op_name(node), module, where(node), shape, words, found.residual)


def _modules(model: nn.Module, evidence: Evidence) -> Iterator[ModuleReport]:
    for path, module in model.named_modules():
        calls = evidence.recording.calls.get(path, ())
        nodes = [node for call in calls for node in leaves_of(call.result) if isinstance(node, fx.Node)]
        if nodes:
            found = evidence.of(nodes[-1])
            yield ModuleReport(path, type(module).__name__, words_of(evidence.group, found), found.residual)
