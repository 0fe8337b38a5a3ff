"""inspect: run a model on x and on g x, and say which layer breaks equivariance, by how much, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from relaxify.evidence.analysis import Analysis
from relaxify.evidence.breaks import op_name, where
from relaxify.evidence.evidence import Evidence
from relaxify.graph.exported import AnyModel, opened
from relaxify.graph.inputs import Inputs, leaves_of, tensors_of
from relaxify.groups import Group
from relaxify.inspection.carried import carried_by_outputs, words_of
from relaxify.inspection.factors import report_of_product
from relaxify.inspection.faults import attributed
from relaxify.inspection.layers import layer_report
from relaxify.inspection.lie_derivatives import lie_derivatives
from relaxify.inspection.report import Fault, LayerReport, ModuleReport, NodeReport, OutputReport, Report
from relaxify.interrupts import undisturbed
from relaxify.modules.checks import check_is_module, unwrapped
from relaxify.relaxation.examining import Examined
from relaxify.relaxation.plan import Plan
from relaxify.relaxation.planning import plan_and_analysis
from relaxify.relaxation.switching import relaxed
from relaxify.relaxation.terms.term import terms_of
from relaxify.verdicts.action_errors import InputAction, OutputAction
from relaxify.verdicts.actions import action_on, described
from relaxify.verdicts.default_action import default_action
from relaxify.verdicts.factors import of_factor
from relaxify.verdicts.features import IrrepsOf
from relaxify.verdicts.measuring import Measurement
from relaxify.verdicts.twin import Twin
from relaxify.verdicts.verdict import Errors


@undisturbed
def inspect(
    model: AnyModel,
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
    - `inputs`: the arguments of forward; `keywords`: all of them by name, instead. A torch.export program has its own.
    - `input_action`: (g, inputs) -> inputs moved by g; `input_irreps`: instead, the features that they carry. See `plan`.
    - `output_action`: (g, output) -> output moved by g, of the same shape; by default what each tensor of the output is
      measured to transform as, or comes nearest to.
    - `training`: inspect the model in training mode (with the same random numbers in each run), where dropout acts.

    Works on any model that runs, relaxed or not, compiled, scripted or wrapped for parallel training; a relaxed one is
    inspected as it is without its terms, and its terms layer by layer. Of a model that runs in its own precision alone
    there is the verdict, and no fault is named. Under a product of groups, `factors` has the report under each, with the
    fault that breaks it. ValueError for an unknown group. The model is not changed.

    >>> import torch
    >>> report = inspect(nn.Linear(3, 3, bias=False), "SO(3)", torch.randn(8, 3), output_action=lambda g, y: y @ g.T)
    >>> report.is_sound, report.error.mean > 0.1
    (False, True)
    """
    if inputs and keywords:
        raise ValueError("inspect takes its inputs by position or by name, not both; pass all of them in keywords={...}.")
    model, given = opened(model, dict(keywords) if keywords else inputs or None)
    check_is_module(model)
    model = unwrapped(model)
    acting = action_on(model, group, given, input_action, input_irreps)
    planned, examined = plan_and_analysis(
        model,
        group,
        example_inputs=given,
        input_action=acting,
        output_action=output_action,
        training=training,
        changes=False,
    )
    assert examined is not None
    inspected = _Inspected(model, given, training)
    known = acting or default_action(planned.group, given)
    seen = tuple(described(given, known, planned.group).items())
    if not examined.factors:
        return replace(inspected.report(planned, examined, acting, output_action), inputs=seen)
    layers, verdict = tuple(inspected.layers(planned, examined)), examined.measured.verdict
    factors = list(inspected.under_factors(planned.group, examined, acting, output_action))
    return replace(report_of_product(verdict, layers, factors), inputs=seen)


@dataclass(frozen=True)
class _Inspected:
    """A model, on these inputs."""

    model: nn.Module
    given: Inputs
    training: bool

    def under_factors(
        self, group: Group, examined: Examined, acting: InputAction | None, output_action: OutputAction | None
    ) -> Iterator[Report]:
        """The report under each factor of a product."""
        for number, (planned, found) in enumerate(examined.factors):
            yield self.report(planned, found, of_factor(acting, group, number), of_factor(output_action, group, number))

    def layers(self, planned: Plan, examined: Examined) -> Iterator[LayerReport]:
        terms = terms_of(self.model)
        yield from (layer_report(site, terms.get(site.path), examined.analysis) for site in planned.sites)

    def report(
        self, planned: Plan, examined: Examined, acting: InputAction | None, output_action: OutputAction | None
    ) -> Report:
        lie, method = _lie_derivatives(examined.analysis, output_action)
        is_relaxed = bool(terms_of(self.model))
        with_terms = _error_with_terms(self.model, examined.measured) if is_relaxed else None
        fault, notes = attributed(self.model, planned, examined, self.given, acting, training=self.training)
        analysis, verdict = examined.analysis, examined.measured.verdict
        evidence = analysis.evidence
        return Report(
            group=evidence.group.name,
            model=type(self.model).__name__,
            verdict=verdict,
            error=verdict.error,
            error_in_own_precision=verdict.error if verdict.own is None else verdict.own.error,
            relaxed_error=with_terms,
            lie=lie,
            lie_method=method,
            outputs=tuple(map(OutputReport.of, verdict.outputs)),
            fault=fault,
            notes=notes,
            undecided=tuple(_undecided(evidence, fault)) if verdict.elements and not verdict.is_sound else (),
            layers=tuple(self.layers(planned, examined)),
            modules=tuple(_modules(self.model, evidence)),
            nodes=tuple(_nodes(evidence)),
            diverged=evidence.diverged,
            forward_passes=analysis.observer.runs + verdict.forward_passes + 3 * len(lie) + (3 if is_relaxed else 0),
        )


def _lie_derivatives(analysis: Analysis, output_action: OutputAction | None) -> tuple[tuple[float, ...], str]:
    evidence = analysis.evidence
    if not analysis.observer.twin.double:
        return (), "none: the model does not run in float64"
    if evidence.diverged is not None:
        return (), "none: the runs on x and on g x take different courses"
    floating = [value.is_floating_point() for _, value in tensors_of(evidence.recording.output)]
    carried = [each for each, is_floating in zip(carried_by_outputs(evidence), floating, strict=True) if is_floating]
    return lie_derivatives(analysis.observer, carried, output_action)


def _error_with_terms(model: nn.Module, measured: Measurement) -> Errors | None:
    """The error of a relaxed model with its terms acting, held to the same response."""
    twin = Twin(model, terms=True)
    with relaxed(twin.model):
        # each run starts from the state that is settled: terms that act belong to it
        twin.settle()
        rough = measured.elsewhere(twin, elements=2)
        found = None if rough is None else measured.of(rough, twin.own)
    return None if found is None else found.error


def _undecided(evidence: Evidence, fault: Fault | None) -> Iterator[str]:
    """The operations, the first ones, of which too little was seen to tell; of those before a fault, if there is one."""
    nodes = [node for node in _before(evidence, fault) if node.op == "call_function"]
    nodes = [node for node in nodes if evidence.of(node).kind == "undecided"]
    found = [f"{op_name(node)} in {node.meta.get('module') or 'the model'} at {where(node)}" for node in nodes]
    # a statement that takes two rows in turn is one place to look
    yield from list(dict.fromkeys(found))[:5]


def _before(evidence: Evidence, fault: Fault | None) -> Iterator[fx.Node]:
    for node in evidence.nodes:
        if fault is not None and (node.meta.get("module"), where(node)) == (fault.module, fault.location):
            return
        yield node


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
