"""Sites by data flow: linear operations whose type proves nothing, found equivariant by how their values transform.

A bare nn.Linear, or an einsum with a Parameter in somebody's forward, is an equivariant map if its data carry a
representation on other axes than those it mixes (Vector Neurons, PaiNN, GVP), or on the very axis that it mixes. What an
adapter claims is held to the same evidence: a layer downstream of a fault reads what no longer transforms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from relaxify.evidence.analysis import Analysis, Promises
from relaxify.evidence.breaks import Break, op_name, where
from relaxify.evidence.evidence import Evidence
from relaxify.evidence.generators import is_isometric
from relaxify.evidence.made_kernels import Reason, judge_made_kernel, no_evidence
from relaxify.evidence.transformations import Transformation, span
from relaxify.graph.contractions import ChannelOrder, function_name
from relaxify.graph.derived_weights import derived_weight
from relaxify.graph.weighted_calls import WeightedCall, made_kernels, rearranged, unexpanded
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, EvidenceKind, Features, Path, Rejected, RejectionKind, Site


@dataclass(frozen=True)
class DataFlow:
    """What the data flow says of the `claimed`, and what it has `judged` besides."""

    claimed: Sequence[Site | Rejected]
    judged: Sequence[Site | Rejected]


def judge_by_data_flow(model: nn.Module, analysis: Analysis, claimed: Sequence[Site | Rejected]) -> DataFlow:
    """A verdict on each linear operation that no adapter has claimed, and on what the claimed sites read.

    If the output of the model does not transform, the operation that breaks it is among the rejected, as unsound.
    """
    evidence, broken = analysis.evidence, analysis.broken
    entries = [judge_calls(model, evidence, path, of_path) for path, of_path in analysis.calls.items()]
    known = [entry.path for entry in (*claimed, *analysis.known)]
    made = made_kernels(model, evidence.nodes, known, evidence.constants).items()
    entries += [judge_made_kernel(model, evidence, path, of_path) for path, of_path in made]
    if broken is not None and not any(isinstance(entry, Rejected) and entry.unsound for entry in entries):
        reason = f"from {broken.location} on the output no longer transforms under {evidence.group.name}"
        entries.append(Rejected(broken.module, broken.op, reason, RejectionKind.unsound, broken.location))
    held = [_held_to(analysis.promises, broken, entry) for entry in claimed]
    return DataFlow(held, [*analysis.known, *entries])


def _held_to(promises: Promises, broken: Break | None, entry: Site | Rejected) -> Site | Rejected:
    """A claimed site whose input does not transform as it should is downstream of a fault: not relaxed."""
    if not isinstance(entry, Site) or promises.read.get(entry.path, True):
        return entry
    cause = "" if broken is None else f", downstream of {broken}"
    reason = f"what it reads does not transform as {entry.map.rep_in}{cause}"
    return Rejected(entry.path, entry.map.op, reason, RejectionKind.spoilt)


def judge_calls(model: nn.Module, evidence: Evidence, path: str, calls: Sequence[WeightedCall]) -> Site | Rejected:
    """What all calls of one linear operation say together."""
    results = [_judge(model, evidence, call) for call in calls]
    for result in results:
        if isinstance(result, Rejected):
            return result
    sites = [result for result in results if isinstance(result, Site)]
    first = sites[0]
    for other in sites[1:]:
        if not _same(first.map, other.map):
            reason = "its calls carry different representations, or on different axes"
            return Rejected(path, first.map.op, reason, location=other.location)
    if any(other.map.paths != first.map.paths for other in sites):
        reason = "its calls make different weights of the same parameters"
        return replace(first, map=replace(first.map, paths=(), derived=(), unfoldable=reason))
    derived = list(first.map.derived)
    for weight in (weight for other in sites[1:] for weight in other.map.derived):
        derived += [] if any(weight.is_like(each) for each in derived) else [weight]
    return replace(first, map=replace(first.map, derived=tuple(derived)))


def _same(a: EquivariantMap, b: EquivariantMap) -> bool:
    return (
        (a.features_in, a.features_out, a.rep_in.blocks, a.rep_out.blocks)
        == (b.features_in, b.features_out, b.rep_in.blocks, b.rep_out.blocks)
        and all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a.rep_in.actions, b.rep_in.actions, strict=True))
    )  # fmt: skip


def _judge(model: nn.Module, evidence: Evidence, call: WeightedCall) -> Site | Rejected:
    call = _as_it_was(evidence, call)
    before, after = _before(evidence, call), evidence.of(call.node, call.shape_out)
    rejected = functools.partial(Rejected, call.path, _op(model, call), location=where(call.node))
    if before.pixels is not None and set(call.contraction.axes_in) & before.pixels.axes:
        return rejected(*_mixes_pixels(call, before, after))
    if nothing := no_evidence(evidence, call, before):
        return rejected(*nothing)
    idle = "its weights start at zero" if after.kind == "zero" else ""
    if idle:
        after = _with_other_weights(call, before)
    if after.kind == "zero":
        reason = f"it is idle: its output is zero as it is initialised, which tells nothing, at {where(call.node)}"
        return rejected(reason, RejectionKind.undecided)
    if after.kind != "linear":
        reason = f"its output does not transform as its input does at {where(call.node)}{_why(evidence, call, before)}"
        return rejected(reason, RejectionKind.unsound)
    result = _map(model, evidence, call, before, after)
    if not isinstance(result, EquivariantMap):
        return rejected(*result)
    error = functools.partial(max, before.residual, after.residual)
    module = model.get_submodule(call.owner)
    return Site(call.path, module, result, error, EvidenceKind.data_flow, where(call.node), idle=idle)


def _why(evidence: Evidence, call: WeightedCall, before: Transformation) -> str:
    """What makes the output of a linear operation transform in no way: its bias, if it is that alone, or what it mixes."""
    added = getattr(_bias(call.node), "meta", {}).get("value")
    if isinstance(added, Tensor) and evidence.is_seen(call.node):
        without = evidence.of_less(call.node, added, call.shape_out)
        if without.actions is not None and is_isometric(evidence.group, without.actions):
            return ": a bias on vector channels breaks equivariance"
    if set(before.axes) & set(call.contraction.axes_in):
        return ": it mixes components that transform"
    return ""


def _as_it_was(evidence: Evidence, call: WeightedCall) -> WeightedCall:
    """The call on data in the shape in which the least acts on them: rows that vectors were merged into transform too."""
    shapes = [(each, _before(evidence, each).actions) for each in (call, *call.before_merging())]
    known = [(actions.shape[-1], number, each) for number, (each, actions) in enumerate(shapes) if actions is not None]
    return min(known)[2] if known else call


def _before(evidence: Evidence, call: WeightedCall) -> Transformation:
    return evidence.of(call.contraction.data, call.shape_in)


def _with_other_weights(call: WeightedCall, before: Transformation) -> Transformation:
    """How the output will transform of a mix of channels whose weights start at zero; `zero` of what else gives zeros.

    That the model stays equivariant once they are others is part of the verdict on it.
    """
    found, weight = call.contraction, call.contraction.weight.meta.get("value")
    if before.kind != "linear" or set(before.axes) & set(found.axes_in) or weight is None or weight.any():
        return Transformation("zero")
    n_in, n_out = len(call.shape_in), len(call.shape_out)
    return replace(before, axes=tuple(found.place(axis, n_in, n_out) for axis in before.axes))


def _mixes_pixels(call: WeightedCall, before: Transformation, after: Transformation) -> Reason:
    if before.is_sound and not after.is_sound:
        where_ = where(call.node)
        return f"it mixes pixels with weights that change with their places, at {where_}", RejectionKind.unsound
    kind = RejectionKind.spoilt if before.kind == "none" else RejectionKind.unsupported
    return "it mixes pixels, and no such layer is relaxed", kind


def _map(
    model: nn.Module, evidence: Evidence, call: WeightedCall, before: Transformation, after: Transformation
) -> EquivariantMap | Reason:
    """The map on the channels next to the axes that the group acts on, or on those very axes."""
    found = call.contraction
    assert before.actions is not None
    assert after.actions is not None
    if set(before.axes) & set(found.axes_in):
        return _map_of_components(model, evidence, call, before, after)
    n_in, n_out = len(call.shape_in), len(call.shape_out)
    places = tuple(found.place(axis, n_in, n_out) for axis in before.axes)
    if after.axes != places or not torch.allclose(before.actions, after.actions, atol=1e-6):
        reason = "its input and output carry different representations on the axes that it leaves alone"
        return reason, RejectionKind.unsupported
    rep_in, rep_out = (
        Representation.of(evidence.group, evidence.name_of(before), _size(shape, axes), before.actions, "component_major")
        for shape, axes in ((call.shape_in, found.axes_in), (call.shape_out, found.axes_out))
    )
    features = Features((*before.axes, *found.axes_in)), Features((*after.axes, *found.axes_out))
    return _describe(model, call, EquivariantMap("data_flow", _op(model, call), rep_in, rep_out, *features))


def _map_of_components(
    model: nn.Module, evidence: Evidence, call: WeightedCall, before: Transformation, after: Transformation
) -> EquivariantMap | Reason:
    found, group = call.contraction, evidence.group
    assert before.actions is not None
    assert after.actions is not None
    n_in, n_out = len(call.shape_in), len(call.shape_out)
    # an axis of the representation's that is not mixed is there in both
    left = [axis for axis in before.axes if axis not in found.axes_in]
    axes_in, axes_out = (*left, *found.axes_in), (*(found.place(axis, n_in, n_out) for axis in left), *found.axes_out)
    if not set(after.axes) <= set(axes_out):
        return "it mixes components of the representation with channels", RejectionKind.unsupported
    name, name_out = evidence.name_of(before), evidence.name_of(after)
    if is_isometric(group, before.actions) and not is_isometric(group, after.actions):
        reason = f"it mixes the components of a {name}, and does not commute with {group.name}, at {where(call.node)}"
        return reason, RejectionKind.unsound
    channels_in, channels_out = (
        tuple(axis for axis in axes if axis not in of.axes) for axes, of in ((axes_in, before), (axes_out, after))
    )
    rep_in, rep_out = (
        Representation.of(group, name_, _size(shape, channels), actions, "component_major")
        for name_, shape, channels, actions in (
            (name, call.shape_in, channels_in, before.actions),
            (name_out, call.shape_out, channels_out, after.actions),
        )
    )
    features = Features((*before.axes, *channels_in)), Features((*after.axes, *channels_out))
    map_ = _describe(model, call, EquivariantMap("data_flow", _op(model, call), rep_in, rep_out, *features))
    return replace(map_, reached=_reached(evidence, call, before, after)) if map_.derived else map_


def _reached(
    evidence: Evidence, call: WeightedCall, before: Transformation, after: Transformation
) -> tuple[Tensor, Tensor] | None:
    """What input and output have a part in, of the axes that the group acts on; None if all."""
    values = evidence.values(call.contraction.data)[0][0], evidence.values(call.node)[0][0]
    of_data, of_result = values[0].reshape(call.shape_in), values[1].reshape(call.shape_out)
    found = span(of_data, before.axes), span(of_result, after.axes)
    is_all = all(int(torch.linalg.matrix_rank(each, hermitian=True)) == len(each) for each in found)
    return None if is_all else found


def _describe(model: nn.Module, call: WeightedCall, map_: EquivariantMap) -> EquivariantMap:
    """Add how the op is reached at run time, and what its own weight can express."""
    names = call.parameters
    if not call.is_module:
        map_ = replace(map_, intercepts=names, has_constants=call.has_constants)
    order = _order(call)
    if order is not None and not set(map_.features_in.axes) <= set(call.contraction.axes_in):
        return replace(map_, paths=(Path(names[0], 0, 0, 0, order=order),))
    derived = derived_weight(model, call, map_.features_in.axes, map_.features_out.axes)
    if derived is None:
        return replace(map_, unfoldable="how its weight is made of its parameters ran out of sight")
    return replace(map_, derived=(derived,))


_TRANSPOSED: dict[ChannelOrder, ChannelOrder] = {"in_out": "out_in", "out_in": "in_out"}


def _order(call: WeightedCall) -> ChannelOrder | None:
    """Which axis of the parameter itself is the input's, if the weight is that parameter or its transpose; else None."""
    found = call.contraction
    if found.order is None or found.weight.op == "get_attr":
        return found.order
    if (stored := rearranged(found.weight)) is None:
        return None
    n_in, n_out = _size(call.shape_in, found.axes_in), _size(call.shape_out, found.axes_out)
    matrix = unexpanded(found.weight).reshape((n_in, n_out) if found.order == "in_out" else (n_out, n_in))
    is_same, is_transpose = (torch.equal(each.flatten(), stored.flatten()) for each in (matrix, matrix.mT))
    if is_same is is_transpose and min(n_in, n_out) > 1:
        return None
    return found.order if is_same else _TRANSPOSED[found.order]


def _op(model: nn.Module, call: WeightedCall) -> str:
    return type(model.get_submodule(call.owner)).__name__ if call.is_module else op_name(call.node)


def _bias(node: fx.Node) -> Any:
    """What is added to the product, if it is one with an addition."""
    name = function_name(node.target)
    if name == "linear":
        return node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    return node.args[0] if name in ("addmm", "baddbmm") else None


def _size(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(shape[axis] for axis in axes)
