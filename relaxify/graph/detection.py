"""Sites by data flow: linear operations whose type proves nothing, found equivariant by how their values transform.

A bare nn.Linear, or an einsum with a Parameter in somebody's forward, is an equivariant map if its data carry a
representation on other axes than those it mixes (Vector Neurons, PaiNN, GVP), or on the very axis that it mixes. What an
adapter claims is held to the same evidence: a layer downstream of a fault reads what no longer transforms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from relaxify.graph.actions import InputAction
from relaxify.graph.breaks import Break, first_break, op_name, where
from relaxify.graph.evidence import Evidence, observe
from relaxify.graph.fitting import Transformation, known_actions
from relaxify.graph.initial_zeros import Assumption, assumptions
from relaxify.graph.inputs import Inputs
from relaxify.graph.linear_ops import Contraction, contraction, parameters_behind
from relaxify.groups import Group
from relaxify.registry import Operation, OperationAdapter, adapters
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, Features, Path, Rejected, Site

SAMPLES, MORE_SAMPLES = 2, 8


@dataclass(frozen=True)
class Call:
    """One execution of a linear operation with a weight: where, and with which of the owner's parameters behind it."""

    node: fx.Node
    contraction: Contraction
    parameters: tuple[str, ...]
    path: str
    owner: str
    is_module: bool


@dataclass(frozen=True)
class DataFlow:
    """What the data flow says of the `claimed`, what it has `judged` besides, and where runs took different courses."""

    claimed: Sequence[Site | Rejected]
    judged: Sequence[Site | Rejected]
    diverged: str | None


def judge_by_data_flow(
    model: nn.Module, group: Group, inputs: Inputs, action: InputAction | None, claimed: Sequence[Site | Rejected]
) -> DataFlow:
    """A verdict on each linear operation that no adapter has claimed, and on what the claimed sites read.

    If the output of the model does not transform, the operation that breaks it is among the rejected, as unsound.
    """
    known: list[Site | Rejected] = []
    sites = [entry for entry in claimed if isinstance(entry, Site)]
    for samples in (SAMPLES, MORE_SAMPLES):
        evidence = observe(model, group, inputs, action, samples=samples)
        known = list(_known_operations(model, evidence))
        taken = [entry.path for entry in (*claimed, *known)]
        calls = linear_calls(model, evidence, taken)
        for assumed in _zero_states(evidence, calls):
            other = observe(model, group, inputs, action, samples=samples, injected=assumed.injections)
            if first_break(other) is None:
                evidence, calls = other, linear_calls(model, other, taken)
                break
        promises = _Promises(evidence, sites)
        broken = first_break(evidence, promises)
        # more inputs give more samples for the fits; most models need no more
        if not broken and not any(_undecided(evidence, call) for of_path in calls.values() for call in of_path):
            break
    entries = [_merge(model, evidence, path, of_path) for path, of_path in calls.items()]
    if broken is not None and not any(isinstance(entry, Rejected) and entry.unsound for entry in entries):
        reason = f"from {broken.location} on the output no longer transforms under {group.name}"
        entries.append(Rejected(broken.module, broken.op, reason, unsound=True))
    return DataFlow([_held_to(promises, broken, entry) for entry in claimed], [*known, *entries], evidence.diverged)


def _known_operations(model: nn.Module, evidence: Evidence) -> Iterator[Site | Rejected]:
    """What adapters claim of the operations that read parameters, each path once."""
    experts = [adapter for adapter in adapters() if isinstance(adapter, OperationAdapter)]
    claimed: set[str] = set()
    for node in evidence.nodes if experts else []:
        if node.op == "call_function" and node.meta["parameters"]:
            path, shapes = node.meta["module"], tuple(map(_shape, (*node.all_input_nodes, node)))
            operation = Operation(node, path, model.get_submodule(path), node.meta["parameters"], shapes)
            claims = [entry for expert in experts for entry in expert.operations(operation, evidence.group)]
            yield from (entry for entry in claims if entry.path not in claimed)
            claimed |= {entry.path for entry in claims}


def _zero_states(evidence: Evidence, calls: dict[str, list[Call]]) -> Iterator[Assumption]:
    read = [call.contraction.data for of_path in calls.values() for call in of_path]
    return assumptions(evidence, [node for node in read if evidence.of(node).kind == "zero"])


class _Promises:
    """Whether the values at claimed layers transform as the layers' types say. Exact where fits lack samples."""

    def __init__(self, evidence: Evidence, sites: Sequence[Site]) -> None:
        self.read: dict[str, bool] = {}
        self._kept: dict[fx.Node, bool | None] = {}
        for site in sites:
            for call in evidence.recording.calls.get(site.path, ()):
                data = call.argument(0, site.map.argument)
                for node, features, rep in (
                    (data, site.map.features_in, site.map.rep_in),
                    (call.result, site.map.features_out, site.map.rep_out),
                ):
                    if isinstance(node, fx.Node):
                        self._kept[node] = evidence.obeys(node, features, rep)
                if isinstance(data, fx.Node) and self._kept[data] is not None:
                    self.read[site.path] = self.read.get(site.path, True) and bool(self._kept[data])

    def __call__(self, node: fx.Node) -> bool | None:
        return self._kept.get(node)


def _held_to(promises: _Promises, broken: Break | None, entry: Site | Rejected) -> Site | Rejected:
    """A claimed site whose input does not transform as it should is downstream of a fault: not relaxed."""
    if not isinstance(entry, Site) or promises.read.get(entry.path, True):
        return entry
    cause = "" if broken is None else f", downstream of {broken}"
    reason = f"what it reads does not transform as {entry.map.rep_in}{cause}"
    return Rejected(entry.path, entry.map.op, reason, spoilt=True)


def linear_calls(model: nn.Module, evidence: Evidence, claimed: Collection[str] = ()) -> dict[str, list[Call]]:
    """Every linear operation of the run that mixes axes with a parameter, by the path of its site.

    But for those at `claimed` paths, and below.
    """
    behind = parameters_behind(evidence.nodes)
    weights = {node: names for node, names in behind.items() if any(_is_parameter(model, name) for name in names)}
    calls: dict[str, list[Call]] = {}
    for node in evidence.nodes:
        if node.op != "call_function" or node in behind:
            continue
        found = contraction(node.target, node.args, node.kwargs, lambda n: n in weights, _shape)
        if found is None:
            continue
        call = _call(model, node, found, weights[found.weight])
        if not any(f"{call.path}.".startswith(f"{taken}.") for taken in claimed):
            calls.setdefault(call.path, []).append(call)
    return calls


def _undecided(evidence: Evidence, call: Call) -> bool:
    """Whether more samples could tell more about an operation's input or output."""
    return any(evidence.of(node).kind == "undecided" for node in (call.contraction.data, call.node))


def _call(model: nn.Module, node: fx.Node, found: Contraction, parameters: tuple[str, ...]) -> Call:
    used = [model.get_parameter(name) for name in parameters if _is_parameter(model, name)]
    # the innermost module that runs the operation and holds the parameters, however deep, by whatever names
    owner = node.meta["module"]
    while (names := _names_in(model.get_submodule(owner), used)) is None and owner:
        owner = owner.rpartition(".")[0]
    names = names or parameters
    is_module = owner == node.meta["module"] and isinstance(model.get_submodule(owner), nn.Linear)
    path = owner if is_module else ".".join(filter(None, (owner, names[0])))
    return Call(node, found, names, path, owner, is_module)


def _names_in(module: nn.Module, parameters: Sequence[nn.Parameter]) -> tuple[str, ...] | None:
    """The names that these parameters have in a module, or None if it does not hold them all."""
    names = {id(p): name for name, p in reversed(list(module.named_parameters(remove_duplicate=False)))}
    return tuple(names[id(p)] for p in parameters) if all(id(p) in names for p in parameters) else None


def _merge(model: nn.Module, evidence: Evidence, path: str, calls: list[Call]) -> Site | Rejected:
    """What all calls of one operation say together."""
    results = [_judge(model, evidence, call) for call in calls]
    for result in results:
        if isinstance(result, Rejected):
            return result
    sites = [result for result in results if isinstance(result, Site)]
    first = sites[0]
    for other in sites[1:]:
        if not _same(first.map, other.map):
            return Rejected(path, first.map.op, "its calls carry different representations, or on different axes")
    return first


def _same(a: EquivariantMap, b: EquivariantMap) -> bool:
    return (
        (a.features_in, a.features_out, a.rep_in.blocks, a.rep_out.blocks)
        == (b.features_in, b.features_out, b.rep_in.blocks, b.rep_out.blocks)
        and all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a.rep_in.actions, b.rep_in.actions, strict=True))
    )  # fmt: skip


def _judge(model: nn.Module, evidence: Evidence, call: Call) -> Site | Rejected:
    op, before, after = _op(model, call), evidence.of(call.contraction.data), evidence.of(call.node)
    reason = _no_evidence(evidence, call, before)
    if reason is not None:
        return Rejected(call.path, op, reason, spoilt=before.kind == "none")
    if after.kind != "linear":
        reason = f"its output does not transform as its input does at {where(call.node)}"
        if _bias(call.node) is not None:
            reason += ": a bias on vector channels breaks equivariance"
        return Rejected(call.path, op, reason, unsound=True)
    result = _map(model, evidence, call, op, before, after)
    if isinstance(result, Rejected):
        return result
    error = functools.partial(max, before.residual, after.residual)
    module = model.get_submodule(call.owner)
    return Site(call.path, module, result, error, evidence=f"data flow at {where(call.node)}")


def _no_evidence(evidence: Evidence, call: Call, before: Transformation) -> str | None:
    """Why what an operation reads says nothing for it, or None if it carries a representation."""
    if evidence.past_divergence(call.node):
        return f"the runs on x and on g x take different courses from {evidence.diverged} on"
    return {
        "invariant": f"invariant -> invariant: it cannot break {evidence.group.name}",
        "undecided": "too few samples in the example inputs to tell how its input transforms; pass larger ones",
        "zero": "its input is zero, which tells nothing",
        "none": f"its input does not transform linearly at {where(call.node)}",
    }.get(before.kind)


def _map(
    model: nn.Module, evidence: Evidence, call: Call, op: str, before: Transformation, after: Transformation
) -> EquivariantMap | Rejected:
    found = call.contraction
    assert before.actions is not None
    assert after.actions is not None
    n_in, n_out = len(_shape(found.data)), len(_shape(call.node))
    group, name = evidence.group, _name(evidence, before)
    if set(before.axes) & set(found.axes_in):
        if before.axes != found.axes_in or after.axes != found.axes_out:
            return Rejected(call.path, op, "it mixes components of the representation with channels")
        if _is_isometric(group, before.actions) and not _is_isometric(group, after.actions):
            reason = f"it mixes the components of a {name}, and does not commute with {group.name}, at {where(call.node)}"
            return Rejected(call.path, op, reason, unsound=True)
        rep_in = Representation.of(group, name, 1, before.actions)
        rep_out = Representation.of(group, _name(evidence, after), 1, after.actions)
        features = Features(found.axes_in), Features(found.axes_out)
        return _describe(call, EquivariantMap("data_flow", op, rep_in, rep_out, *features))
    places = tuple(found.place(axis, n_in, n_out) for axis in before.axes)
    if after.axes != places or not torch.allclose(before.actions, after.actions, atol=1e-6):
        return Rejected(
            call.path, op, "its input and output carry different representations on the axes that it leaves alone"
        )
    c_in, c_out = _size(found.data, found.axes_in), _size(call.node, found.axes_out)
    rep_in = Representation.of(group, name, c_in, before.actions, "component_major")
    rep_out = Representation.of(group, name, c_out, before.actions, "component_major")
    features = Features((*before.axes, *found.axes_in)), Features((*after.axes, *found.axes_out))
    return _describe(call, EquivariantMap("data_flow", op, rep_in, rep_out, *features))


def _is_isometric(group: Group, actions: Tensor) -> bool:
    """Whether the actions are orthogonal. A sound map between orthogonal representations gives no other kind."""
    lie, finite = actions[: len(group.generators)], actions[len(group.generators) :]
    identity = torch.eye(actions.shape[-1], dtype=actions.dtype).expand_as(finite)
    return torch.allclose(lie, -lie.mT, atol=1e-5) and torch.allclose(finite @ finite.mT, identity, atol=1e-5)


def _describe(call: Call, map_: EquivariantMap) -> EquivariantMap:
    """Add how the op is reached at run time, and what its own weight can express."""
    names = call.parameters
    if not call.is_module:
        map_ = replace(map_, intercepts=names)
    if call.contraction.weight.op != "get_attr":
        return replace(map_, unfoldable="its weight is computed from other parameters")
    if map_.features_in.axes == call.contraction.axes_in:
        return replace(map_, unfoldable="it mixes the very axis that the group acts on")
    if call.contraction.order is None:
        return replace(map_, unfoldable="its weight is no plain matrix of channels")
    return replace(map_, paths=(Path(names[0], 0, 0, 0, order=call.contraction.order),))


def _name(evidence: Evidence, found: Transformation) -> str:
    assert found.actions is not None
    if not found.axes:
        return "pseudoscalar"
    known = known_actions(evidence.group, len(found.axes))
    fitted = f"fitted{found.actions.shape[-1]}"
    return next((name for name, actions in known.items() if torch.equal(found.actions, actions)), fitted)


def _op(model: nn.Module, call: Call) -> str:
    return type(model.get_submodule(call.owner)).__name__ if call.is_module else op_name(call.node)


def _bias(node: fx.Node) -> Any:
    if node.target is torch.nn.functional.linear:
        return node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    return None


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("value") if isinstance(node, fx.Node) else None
    return () if value is None else tuple(value.shape)


def _size(node: fx.Node, axes: tuple[int, ...]) -> int:
    return math.prod(_shape(node)[axis] for axis in axes)


def _is_parameter(model: nn.Module, name: str) -> bool:
    try:
        model.get_parameter(name)
    except AttributeError:
        return False
    return True
