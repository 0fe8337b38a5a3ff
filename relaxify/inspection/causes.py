"""Why an operation breaks the symmetry: numeric tests first, then what kind of function it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from relaxify.evidence.breaks import op_name
from relaxify.evidence.evidence import Evidence
from relaxify.evidence.fitting import transformation
from relaxify.evidence.generators import is_isometric
from relaxify.evidence.transformations import TOLERANCE, Pairs, Transformation, on_axes
from relaxify.graph.contractions import MIXING
from relaxify.inspection.cause import Cause, CauseKind, Form
from relaxify.inspection.pixel_causes import pixel_cause


def cause_of(evidence: Evidence, node: fx.Node) -> Cause:
    """The likely reason for which the value of a node does not transform though what it was made of does."""
    of_values = (_convention, _dropout, pixel_cause, _mixing, _bias, _parity, _by_function, _by_operands)
    tests = of_values if evidence.is_seen(node) else (_dropout, _by_function)
    causes = (test(evidence, node) for test in tests)
    return next((cause for cause in causes if cause is not None), _cause(evidence, node, CauseKind.OTHER))


def _cause(evidence: Evidence, node: fx.Node, kind: CauseKind, form: Form = "") -> Cause:
    return Cause(kind, op_name(node), evidence.group.name, form)


def _convention(evidence: Evidence, node: fx.Node) -> Cause | None:
    if evidence.of(node).is_transposed:
        return _cause(evidence, node, CauseKind.CONVENTION)
    if op_name(node) in MIXING and any(_is_sound_transposed(evidence, node, source) for source in node.all_input_nodes):
        return _cause(evidence, node, CauseKind.CONVENTION, "factor")
    return None


def _is_sound_transposed(evidence: Evidence, node: fx.Node, source: fx.Node) -> bool:
    """Whether the operation would be sound with the transpose of one operand, a matrix that moves with g."""
    size = evidence.group.vector_size
    if evidence.of(source).kind != "linear" or tuple(source.meta["value"].shape[-2:]) != (size, size):
        return False
    if any(operand.meta.get("value") is None or "complex" in operand.meta for operand in node.all_input_nodes):
        return False
    operands = {operand: evidence.values(operand) for operand in node.all_input_nodes}

    def value(sample: int, element: int | None) -> Tensor:
        def of(operand: fx.Node) -> Any:
            base, runs = operands[operand][sample]
            found = base if element is None else runs[element]
            return found.mT if operand is source else found

        function: Any = node.target
        return function(*fx.node.map_arg(node.args, of), **fx.node.map_arg(node.kwargs, of))

    elements = range(len(operands[source][0][1]))
    pairs = [(value(k, None), [value(k, e) for e in elements]) for k in range(len(operands[source]))]
    return transformation(evidence.group, pairs, sample_sizes=evidence.sample_sizes).is_sound


def _mixing(evidence: Evidence, node: fx.Node) -> Cause | None:
    """The value still transforms, by W M(g) W^-1, which nothing downstream expects."""
    if evidence.of(node).kind != "linear" or op_name(node) not in MIXING:
        return None
    return _cause(evidence, node, CauseKind.MIXING)


def _dropout(evidence: Evidence, node: fx.Node) -> Cause | None:
    return _cause(evidence, node, CauseKind.DROPOUT) if "dropout" in op_name(node) else None


def _bias(evidence: Evidence, node: fx.Node) -> Cause | None:
    """Differences between inputs transform, though the values do not: f(x) = f_e(x) + constant."""
    (base, moved), *others = evidence.pairs(node)
    differences = [
        (other - base, [a - b for a, b in zip(runs, moved, strict=True)])
        for other, runs in others
        if other.shape == base.shape
    ]
    if op_name(node) in _NORMALISATIONS or not differences:
        return None
    found = transformation(evidence.group, differences, sample_sizes=evidence.sample_sizes)
    if found.actions is None or not is_isometric(evidence.group, found.actions):
        return None
    return _cause(evidence, node, CauseKind.BIAS)


def _parity(evidence: Evidence, node: fx.Node) -> Cause | None:
    """Some matrix carries x to g x for every Lie generator, and none does for a finite one."""
    lie, finite = len(evidence.group.generators), len(evidence.group.finite)
    if not lie or not finite:
        return None
    for residuals in _residuals(evidence.pairs(node), evidence.group.vector_size, lie + finite):
        if max(residuals[:lie]) < TOLERANCE <= max(residuals[lie:]):
            return _cause(evidence, node, CauseKind.PARITY)
    return None


def _residuals(pairs: Pairs, size: int, count: int) -> Iterator[list[float]]:
    """For each place where a representation of the group's own size may act, how badly each g fits a matrix there."""
    shape = pairs[0][0].shape
    places: list[tuple[int, ...]] = [(axis,) for axis in range(-len(shape), 0) if shape[axis] == size]
    for axes in [(), *places]:
        same = [(base, runs) for base, runs in pairs if not axes or base.shape[axes[0]] == size]
        before = torch.cat([on_axes(base, axes) for base, _ in same], dim=1)
        after = [torch.cat([on_axes(runs[e], axes) for _, runs in same], dim=1) for e in range(count)]
        inverse = torch.linalg.pinv(before, rtol=1e-9)
        yield [float((moved @ inverse @ before - moved).norm() / moved.norm()) for moved in after]


def _by_function(evidence: Evidence, node: fx.Node) -> Cause | None:
    op = op_name(node)
    return next((_cause(evidence, node, kind) for kind, functions in _FUNCTIONS.items() if op in functions), None)


def _by_operands(evidence: Evidence, node: fx.Node) -> Cause | None:
    sources = [source for source in node.all_input_nodes if source.meta.get("value") is not None]
    moving = [found for found in map(evidence.of, sources) if found.kind == "linear"]
    if len(moving) > 1 and _differ(moving):
        return _cause(evidence, node, CauseKind.MISMATCH)
    if op_name(node) in MIXING:
        return _cause(evidence, node, CauseKind.MIXING)
    if len(moving) == 1 and (len(sources) > 1 or any(isinstance(arg, int | float) for arg in node.args)):
        return _cause(evidence, node, CauseKind.CONSTANT)
    return None


def _differ(found: Sequence[Transformation]) -> bool:
    actions = [each.actions for each in found if each.actions is not None]
    first, *others = actions
    return any(other.shape != first.shape or not torch.allclose(other, first, atol=1e-6) for other in others)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NORMALISATIONS = _names("layer_norm batch_norm instance_norm group_norm rms_norm local_response_norm softmax log_softmax")
_NONLINEARITIES = _names(
    """relu relu_ leaky_relu leaky_relu_ gelu silu elu selu celu mish tanh sigmoid softplus softsign hardtanh hardswish relu6
    abs exp log sin cos square pow __pow__ sqrt clamp clamp_min clip sign round floor reciprocal prelu rrelu threshold"""
)
_COMPARISONS = _names(
    """gt ge lt le __gt__ __ge__ __lt__ __le__ greater less
    max amax min amin maximum minimum argmax argmin sort argsort topk median cummax max_pool1d max_pool2d max_pool3d
    adaptive_max_pool1d adaptive_max_pool2d boolean_dispatch scatter_reduce"""
)
_SELECTIONS = _names(
    """__getitem__ getitem select narrow unbind chunk split index_select gather take_along_dim diagonal masked_fill where
    tril triu flip roll"""
)
_REDUCTIONS = _names("sum mean norm vector_norm std var prod logsumexp cumsum")
_RESAMPLINGS = _names("conv1d conv2d conv3d avg_pool1d avg_pool2d avg_pool3d interpolate pad grid_sample")
_FUNCTIONS = {
    CauseKind.NORMALISATION: _NORMALISATIONS,
    CauseKind.NONLINEARITY: _NONLINEARITIES,
    CauseKind.COMPARISON: _COMPARISONS,
    CauseKind.SELECTION: _SELECTIONS,
    CauseKind.REDUCTION: _REDUCTIONS,
    CauseKind.RESAMPLING: _RESAMPLINGS,
}
"""Functions by the fault that they commit on components."""
