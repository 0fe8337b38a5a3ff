"""inspect: run a model on x and on g x, measure its error end to end, trace it back to an operation, and report."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from relaxify.evidence.actions import InputAction
from relaxify.evidence.analysis import Analysis
from relaxify.evidence.breaks import op_name, where
from relaxify.evidence.evidence import Evidence
from relaxify.graph.inputs import Inputs, leaves_of
from relaxify.graph.precision import quiet
from relaxify.groups import Group
from relaxify.inspection.carried import carried_by_outputs, words_of
from relaxify.inspection.faults import dtype_of, first_fault, rounding_fault
from relaxify.inspection.layers import layer_report
from relaxify.inspection.outputs import (
    OutputAction,
    group_errors,
    lie_derivatives,
    output_reports,
    response_of,
    runs_of,
    runs_with,
)
from relaxify.inspection.report import Errors, Fault, ModuleReport, NodeReport, OutputReport, Report
from relaxify.modules.hanging import probe
from relaxify.relaxation.planning import Plan, plan_and_analysis
from relaxify.relaxation.switching import relaxed
from relaxify.relaxation.terms.term import Term, terms_of


def inspect(
    model: nn.Module,
    group: Group | str,
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    input_action: InputAction | None = None,
    output_action: OutputAction | None = None,
    training: bool = False,
) -> Report:
    """Equivariance errors of a model, of its layers and of its operations, and the first operation that breaks it.

    - `model`, `group`: see `relaxify`.
    - `inputs`: the arguments of forward; `keywords`: all of them by name, instead.
    - `input_action`: (g, inputs) -> inputs moved by the group element's matrix g (n x n); by default every axis that has
      the size n is a vector.
    - `output_action`: (g, output) -> output moved by g, of the same shape; by default what each tensor of the output is
      measured to transform as, or comes nearest to.
    - `training`: inspect the model in training mode (with the same random numbers in each run), where dropout acts.

    Works on any model that runs, relaxed or not; a relaxed one is inspected as it is without its terms, and its terms layer
    by layer. ValueError for an unknown group, or if the model does not run in float64. The model is not changed.

    >>> report = inspect(nn.Linear(3, 3, bias=False), "SO(3)", torch.randn(8, 3), output_action=lambda g, y: y @ g.T)
    >>> report.is_sound, report.error.mean > 0.1
    (False, True)
    """
    if inputs and keywords:
        raise ValueError("inspect takes its inputs by position or by name, not both; pass all of them in keywords={...}.")
    runs = _run(model, group, dict(keywords) if keywords else inputs, input_action, training)
    measured = _measure(runs, output_action)
    fault = _attribute(runs, measured)
    return _report(runs, measured, fault)


@dataclass(frozen=True)
class _Runs:
    """A model on x and on g x, in float64 and without its terms, with what its layers are found to be."""

    model: nn.Module
    inputs: Inputs
    training: bool
    terms: Mapping[str, Term]
    plan: Plan
    analysis: Analysis


@dataclass(frozen=True)
class _Measured:
    """Errors from the inputs to the outputs; `own` in the model's own precision, `relaxed` with its terms acting."""

    error: Errors
    own: Errors
    relaxed: Errors | None
    outputs: tuple[OutputReport, ...]
    lie: tuple[float, ...]
    lie_method: str


def _run(model: nn.Module, group: Group | str, inputs: Inputs, input_action: InputAction | None, training: bool) -> _Runs:
    terms = terms_of(model)
    planned, analysis = plan_and_analysis(
        model, group, example_inputs=inputs, input_action=input_action, training=training, symmetrise=bool(terms)
    )
    assert analysis is not None
    return _Runs(model, inputs, training, terms, planned, analysis)


def _measure(runs: _Runs, output_action: OutputAction | None) -> _Measured:
    evidence, observer = runs.analysis.evidence, runs.analysis.observer
    carried, response = carried_by_outputs(evidence), response_of(observer)

    def errors_of(model: nn.Module, inputs: Inputs) -> Errors:
        with quiet(dtype_of(model)):
            moved = runs_with(model, evidence.group, inputs, observer.action)
            return group_errors(moved, carried, response, output_action)[0]

    error, of_outputs = group_errors(runs_of(evidence), carried, response, output_action)
    lie, method = lie_derivatives(observer, carried, output_action)
    own, with_terms = errors_of(probe(runs.model, None).train(runs.training), runs.inputs), None
    if runs.terms:
        twin = copy.deepcopy(runs.model).to("cpu", torch.float64).eval()
        with relaxed(twin):
            with_terms = errors_of(twin, observer.inputs)
    outputs = output_reports(evidence, carried, of_outputs, response)
    return _Measured(error, own, with_terms, outputs, lie, method)


def _attribute(runs: _Runs, measured: _Measured) -> Fault | None:
    return first_fault(runs.plan, runs.analysis, measured.error) or rounding_fault(
        runs.model, runs.analysis.evidence, runs.inputs, measured.own, training=runs.training
    )


def _report(runs: _Runs, measured: _Measured, fault: Fault | None) -> Report:
    analysis, evidence = runs.analysis, runs.analysis.evidence
    # of the response, of the Lie derivatives, and of the model in its own precision and with its terms
    others = 6 + len(measured.lie) + (2 if runs.terms else 1) * (2 + evidence.group.actions)
    return Report(
        group=evidence.group.name,
        model=type(runs.model).__name__,
        error=measured.error,
        error_in_own_precision=measured.own,
        relaxed_error=measured.relaxed,
        lie=measured.lie,
        lie_method=measured.lie_method,
        outputs=measured.outputs,
        fault=fault,
        layers=tuple(layer_report(site, runs.terms.get(site.path), analysis) for site in runs.plan.sites),
        modules=tuple(_modules(runs.model, evidence)),
        nodes=tuple(_nodes(evidence)),
        diverged=evidence.diverged,
        forward_passes=analysis.observer.runs + others,
    )


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
