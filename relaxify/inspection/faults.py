"""Attribution: the operation to which an error is traced back, with its place in the user's source and its cause."""

from __future__ import annotations

import linecache

import torch
from torch import fx, nn

from relaxify.evidence.analysis import Analysis
from relaxify.evidence.breaks import op_name, where
from relaxify.evidence.evidence import Evidence
from relaxify.graph.inputs import Inputs, map_tensors
from relaxify.graph.precision import quiet
from relaxify.graph.recording import record
from relaxify.inspection.cause import Cause, CauseKind
from relaxify.inspection.causes import cause_of
from relaxify.inspection.report import Errors, Fault
from relaxify.modules.hanging import probe
from relaxify.relaxation.planning import Plan

ROUNDING = 1e-3
"""The relative error above which a value has lost its digits."""


def first_fault(planned: Plan, analysis: Analysis, error: Errors) -> Fault | None:
    """The first of what breaks the output, and of the linear operations that should be equivariant and are not."""
    unsound = {rejected.path for rejected in planned.unsound}
    nodes = {call.node for path, calls in analysis.calls.items() if path in unsound for call in calls}
    nodes |= {analysis.broken.node} if analysis.broken else set()
    evidence = analysis.evidence
    node = next((node for node in evidence.nodes if node in nodes), None)
    return None if node is None else _fault_at(node, cause_of(evidence, node), evidence.of(node).residual, error.mean)


def rounding_fault(model: nn.Module, evidence: Evidence, inputs: Inputs, own: Errors, *, training: bool) -> Fault | None:
    """The operation at which a model that is sound in float64 loses its digits in its own precision."""
    if not own.largest > ROUNDING:
        return None
    dtype = dtype_of(model)
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


def dtype_of(model: nn.Module) -> torch.dtype:
    """The precision that a model is in: that of its first parameter."""
    return next((parameter.dtype for parameter in model.parameters()), torch.get_default_dtype())
