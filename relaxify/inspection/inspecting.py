"""inspect: run a model on x and on g x, and say which layer breaks equivariance, by how much, and why."""

from __future__ import annotations

import copy
import linecache
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from relaxify.evidence.actions import InputAction
from relaxify.evidence.analysis import Analysis
from relaxify.evidence.breaks import op_name, where
from relaxify.evidence.evidence import Evidence, quiet
from relaxify.graph.inputs import Inputs, leaves_of, map_tensors
from relaxify.graph.recording import record
from relaxify.groups import Group
from relaxify.inspection.cause import Cause, CauseKind
from relaxify.inspection.causes import cause_of
from relaxify.inspection.layers import layer_report
from relaxify.inspection.outputs import (
    OutputAction,
    carried_by_outputs,
    group_errors,
    lie_derivatives,
    output_reports,
    response_of,
    runs_of,
    runs_with,
    words_of,
)
from relaxify.inspection.report import Errors, Fault, ModuleReport, NodeReport, Report
from relaxify.relaxation.planning import Plan, plan_and_analysis
from relaxify.relaxation.switching import relaxed
from relaxify.relaxation.terms.term import terms_of
from relaxify.sites import probe

ROUNDING = 1e-3


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

    - `inputs`: the arguments of forward; `keywords`: all of them by name, instead.
    - `input_action`: (g, inputs) -> inputs moved by the group element's matrix g; by default every axis that has the size
      of g is a vector.
    - `output_action`: (g, output) -> moved output; by default what each tensor of the output is measured to transform as,
      or comes nearest to.
    - `training`: inspect the model in training mode (with the same random numbers in each run), where dropout acts.

    Works on any model that runs, relaxed or not; a relaxed one is inspected as it is without its terms, and its terms layer
    by layer. ValueError for an unknown group, or if the model does not run in float64. The model is not changed.

    >>> report = inspect(nn.Linear(3, 3, bias=False), "SO(3)", torch.randn(8, 3), output_action=lambda g, y: y @ g.T)
    >>> report.is_sound, report.error.mean > 0.1
    (False, True)
    """
    if inputs and keywords:
        raise ValueError("inspect takes its inputs by position or by name, not both; pass all of them in keywords={...}.")
    given: Inputs = dict(keywords) if keywords else inputs
    terms = terms_of(model)
    planned, analysis = plan_and_analysis(
        model, group, example_inputs=given, input_action=input_action, training=training, symmetrise=bool(terms)
    )
    assert analysis is not None
    evidence, observer = analysis.evidence, analysis.observer
    carried, response = carried_by_outputs(evidence), response_of(observer)
    error, of_outputs = group_errors(runs_of(evidence), carried, response, output_action)
    lie, method = lie_derivatives(observer, carried, output_action)

    def errors_with(other: nn.Module, on: Inputs) -> Errors:
        with quiet(_dtype(other)):
            return group_errors(runs_with(other, evidence.group, on, observer.action), carried, response, output_action)[0]

    own = errors_with(probe(model, None).train(training), given)
    return Report(
        group=evidence.group.name,
        model=type(model).__name__,
        error=error,
        error_in_own_precision=own,
        relaxed_error=_with_terms(model, lambda twin: errors_with(twin, observer.inputs)) if terms else None,
        lie=lie,
        lie_method=method,
        outputs=output_reports(evidence, carried, of_outputs, response),
        fault=_fault(planned, analysis, error) or _rounding(model, evidence, given, own, training),
        layers=tuple(layer_report(site, terms.get(site.path), analysis) for site in planned.sites),
        modules=tuple(_modules(model, evidence)),
        nodes=tuple(_nodes(evidence)),
        diverged=evidence.diverged,
        forward_passes=observer.runs + 6 + len(lie) + (2 if terms else 1) * (2 + evidence.group.actions),
    )


def _fault(planned: Plan, analysis: Analysis, error: Errors) -> Fault | None:
    """The first of what breaks the output, and of the linear operations that should be equivariant and are not."""
    unsound = {rejected.path for rejected in planned.unsound}
    nodes = {call.node for path, calls in analysis.calls.items() if path in unsound for call in calls}
    nodes |= {analysis.broken.node} if analysis.broken else set()
    evidence = analysis.evidence
    node = next((node for node in evidence.nodes if node in nodes), None)
    if node is None:
        return None
    return _fault_at(node, cause_of(evidence, node), evidence.of(node).residual, error.mean)


def _fault_at(node: fx.Node, why: Cause, own: float, of_output: float) -> Fault:
    location = where(node)
    file, _, line = location.rpartition(":")
    source = linecache.getline(file, int(line)).strip() if line.isdigit() else ""
    amplified = of_output / own if own else float("inf")
    return Fault(node.meta.get("module", ""), op_name(node), location, source, why, own, amplified)


def _with_terms(model: nn.Module, measure: Callable[[nn.Module], Errors]) -> Errors:
    """What is measured of a relaxed model with its terms acting."""
    twin = copy.deepcopy(model).to("cpu", torch.float64).eval()
    with relaxed(twin):
        return measure(twin)


def _rounding(model: nn.Module, evidence: Evidence, inputs: Inputs, own: Errors, training: bool) -> Fault | None:
    """The operation at which a model that is sound in float64 loses its digits in its own precision."""
    if not own.largest > ROUNDING:
        return None
    dtype = _dtype(model)
    with quiet(dtype):
        run = record(probe(model, None).train(training), map_tensors(lambda _, value: value.detach().clone(), inputs))
    lost: set[fx.Node] = set()
    for exact, rounded in zip(evidence.nodes, run.nodes, strict=False):
        error = _difference(exact, rounded)
        if error > ROUNDING and lost.isdisjoint(exact.all_input_nodes):
            details = {"dtype": str(dtype).removeprefix("torch.")}
            why = Cause(CauseKind.ROUNDING, op_name(exact), evidence.group.name, details=details)
            return _fault_at(exact, why, error, own.mean)
        lost |= {exact} if error > ROUNDING else set()
    return None


def _difference(exact: fx.Node, rounded: fx.Node) -> float:
    a, b = exact.meta.get("value"), rounded.meta.get("value")
    if a is None or b is None or a.shape != b.shape or not a.numel() or exact.op != "call_function":
        return 0.0
    return float((a.double() - b.double()).norm() / (a.double().norm() or 1.0))


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


def _dtype(model: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in model.parameters()), torch.get_default_dtype())
