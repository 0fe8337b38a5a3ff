"""Sites by data flow: linear operations whose type proves nothing, found equivariant by how their values transform.

A bare nn.Linear, or an einsum with a Parameter in somebody's forward, is an equivariant map if its data carry a
representation on another axis than the one it mixes (Vector Neurons, PaiNN, GVP), or on the very axis that it mixes.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from relaxify.graph.actions import InputAction
from relaxify.graph.evidence import Evidence, Transformation, observe
from relaxify.graph.linear_ops import Contraction, contraction, parameters_behind
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, Features, Path, Rejected, Site


@dataclass(frozen=True)
class Call:
    """One execution of a linear operation with a weight: where, and with which parameters behind the weight."""

    node: fx.Node
    contraction: Contraction
    parameters: tuple[str, ...]
    path: str
    owner: str
    is_module: bool


def linear_calls(model: nn.Module, evidence: Evidence) -> dict[str, list[Call]]:
    """Every linear operation of the run that mixes an axis with a parameter, by the path of its site."""
    behind = parameters_behind(evidence.nodes)
    weights = {node: names for node, names in behind.items() if any(_is_parameter(model, name) for name in names)}
    calls: dict[str, list[Call]] = {}
    for node in evidence.nodes:
        if node.op != "call_function" or node in behind:
            continue
        found = contraction(node.target, node.args, node.kwargs, lambda n: n in weights, _ndim)
        if found is not None:
            call = _call(model, node, found, weights[found.weight])
            calls.setdefault(call.path, []).append(call)
    return calls


def sites_by_data_flow(
    model: nn.Module, group: Group, inputs: tuple[Any, ...], action: InputAction | None, claimed: Collection[str]
) -> list[Site | Rejected]:
    """A site, or why there is none, for each linear operation that no adapter has `claimed` (a path, and all below it).

    If the output of the model does not transform, the operation that breaks it is among the rejected, as unsound.
    """
    for samples in (2, 8):
        evidence = observe(model, group, inputs, action, samples=samples)
        calls = {
            path: of_path
            for path, of_path in linear_calls(model, evidence).items()
            if not any(f"{path}.".startswith(f"{taken}.") for taken in claimed)
        }
        # more inputs give more samples for the fits; most models need no more
        if not any(_undecided(evidence, call) for of_path in calls.values() for call in of_path):
            break
    entries = [_merge(model, evidence, path, of_path) for path, of_path in calls.items()]
    broken = first_break(evidence)
    if broken is not None and not any(isinstance(entry, Rejected) and entry.unsound for entry in entries):
        reason = f"from {broken.location} on the output no longer transforms under {group.name}"
        entries.append(Rejected(broken.module, broken.op, reason, unsound=True))
    return entries


def _undecided(evidence: Evidence, call: Call) -> bool:
    """Whether more samples could tell more about an operation's input or output."""
    return any(evidence.of(node).kind == "undecided" for node in (call.contraction.data, call.node))


def _call(model: nn.Module, node: fx.Node, found: Contraction, parameters: tuple[str, ...]) -> Call:
    owner = node.meta["module"]
    module = model.get_submodule(owner)
    if isinstance(module, nn.Linear):
        return Call(node, found, parameters, owner, owner, is_module=True)
    # the innermost module that runs the operation and holds the parameter, however deep
    while owner and not all(name.startswith(f"{owner}.") for name in parameters):
        owner = owner.rpartition(".")[0]
    return Call(node, found, parameters, parameters[0], owner, is_module=False)


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
    if before.kind == "invariant":
        return Rejected(call.path, op, f"invariant -> invariant: it cannot break {evidence.group.name}")
    if before.kind == "undecided":
        return Rejected(
            call.path, op, "too few samples in the example inputs to tell how its input transforms; pass larger ones"
        )
    if before.kind == "none":
        return Rejected(call.path, op, f"its input does not transform linearly at {_where(call.node)}")
    if after.kind != "linear":
        reason = f"its output does not transform as its input does at {_where(call.node)}"
        if _bias(call.node) is not None:
            reason += ": a bias on vector channels breaks equivariance"
        return Rejected(call.path, op, reason, unsound=True)
    map_ = _map(model, evidence, call, op, before, after)
    if map_ is None:
        return Rejected(
            call.path, op, "its input and output carry different representations on the axes that it leaves alone"
        )
    error = functools.partial(max, before.residual, after.residual)
    module = model.get_submodule(call.owner)
    return Site(call.path, module, map_, error, evidence=f"data flow at {_where(call.node)}")


def _map(
    model: nn.Module, evidence: Evidence, call: Call, op: str, before: Transformation, after: Transformation
) -> EquivariantMap | None:
    axis_in, axis_out = call.contraction.axis_in, call.contraction.axis_out
    n_in, n_out = _ndim(call.contraction.data), _ndim(call.node)
    c_in, c_out = call.contraction.data.meta["value"].shape[axis_in], call.node.meta["value"].shape[axis_out]
    assert before.axis is not None
    assert after.axis is not None
    assert before.actions is not None
    assert after.actions is not None
    group, name = evidence.group, _name(evidence, before.actions)
    if before.axis == axis_in:
        if after.axis != axis_out:
            return None
        rep_in = Representation.of(group, name, 1, before.actions)
        rep_out = Representation.of(group, _name(evidence, after.actions), 1, after.actions)
        return _describe(
            model, call, EquivariantMap("data_flow", op, rep_in, rep_out, Features((axis_in,)), Features((axis_out,)))
        )
    place = _place(before.axis, n_in, axis_in, n_out, axis_out)
    if after.axis != place or not torch.allclose(before.actions, after.actions, atol=1e-6):
        return None
    rep_in = Representation.of(group, name, c_in, before.actions, "component_major")
    rep_out = Representation.of(group, name, c_out, before.actions, "component_major")
    features = Features((before.axis, axis_in)), Features((after.axis, axis_out))
    return _describe(model, call, EquivariantMap("data_flow", op, rep_in, rep_out, *features))


def _place(axis: int, n_in: int, axis_in: int, n_out: int, axis_out: int) -> int:
    """Where an axis of the data that is not mixed stands in the result, counted from the end."""
    others = [a for a in range(n_in) if a != axis_in % n_in]
    kept = [a for a in range(n_out) if a != axis_out % n_out]
    return kept[others.index(axis % n_in)] - n_out


def _describe(model: nn.Module, call: Call, map_: EquivariantMap) -> EquivariantMap:
    """Add how the op is reached at run time, and what its own weight can express."""
    names = tuple(name.removeprefix(f"{call.owner}.") if call.owner else name for name in call.parameters)
    if not call.is_module:
        map_ = replace(map_, intercepts=names)
    if call.contraction.weight.op != "get_attr":
        return replace(map_, unfoldable="its weight is computed from other parameters")
    if map_.features_in.axes == (call.contraction.axis_in,):
        return replace(map_, unfoldable="it mixes the very axis that the group acts on")
    return replace(map_, paths=(Path(names[0], 0, 0, 0, order=call.contraction.order),))


def _name(evidence: Evidence, actions: Tensor) -> str:
    exact = torch.cat([evidence.group.generators, evidence.group.finite])
    return "vector" if actions.shape == exact.shape and torch.allclose(actions, exact) else f"fitted{actions.shape[-1]}"


def _op(model: nn.Module, call: Call) -> str:
    if call.is_module:
        return type(model.get_submodule(call.owner)).__name__
    return str(getattr(call.node.target, "__name__", call.node.target))


def _bias(node: fx.Node) -> Any:
    if node.target is torch.nn.functional.linear:
        return node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    return None


def _where(node: fx.Node) -> str:
    return str(node.meta.get("location") or node.name)


def _ndim(node: Any) -> int:
    value = node.meta.get("value") if isinstance(node, fx.Node) else None
    return -1 if value is None else int(value.ndim)


def _is_parameter(model: nn.Module, name: str) -> bool:
    try:
        model.get_parameter(name)
    except AttributeError:
        return False
    return True


@dataclass(frozen=True)
class Break:
    """The first operation from which on a model's output no longer transforms linearly: where, and what it is."""

    node: fx.Node
    module: str
    location: str
    op: str

    def __str__(self) -> str:
        return f"{self.op} in {self.module or 'the model'} at {self.location}"


def first_break(evidence: Evidence) -> Break | None:
    """The operation that breaks the symmetry, or None if every output of the model transforms linearly (or is undecided).

    A value may transform in no linear way for a while (a product of components, before it is summed): what counts is that
    nothing downstream of the break recovers.
    """
    order = {node: i for i, node in enumerate(evidence.nodes)}
    waiting = [node for node in evidence.nodes[-1].all_input_nodes if evidence.of(node).kind == "none"]
    suspects: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        suspects.add(node)
        waiting += [source for source in node.all_input_nodes if source not in suspects and not _sound(evidence, source)]
    broken = [node for node in suspects if evidence.of(node).kind == "none"]
    if not broken:
        return None
    first = min(broken, key=order.__getitem__)
    name = str(getattr(first.target, "__name__", first.target))
    return Break(first, first.meta.get("module", ""), _where(first), name)


def _sound(evidence: Evidence, node: fx.Node) -> bool:
    return node.op != "call_function" or evidence.of(node).kind in ("invariant", "linear")
