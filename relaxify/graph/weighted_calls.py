"""The calls of a recorded run that contract data with a weight: where they ran, and which parameters it is made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from relaxify.graph.assembling import attributes_behind
from relaxify.graph.complex_values import contraction_of_parts
from relaxify.graph.contractions import MIXING, Contraction, contraction, function_name
from relaxify.graph.merged_axes import Shape, is_reshape, unmerged


@dataclass(frozen=True)
class WeightedCall:
    """One execution of a linear operation with a weight: where, and with which of the owner's parameters behind it."""

    node: fx.Node
    contraction: Contraction
    parameters: tuple[str, ...]
    path: str
    owner: str
    is_module: bool
    shape_in: Shape
    shape_out: Shape
    has_constants: bool = False
    """Whether its weight is also made of tensors that are neither parameters nor buffers: a basis that a function caches."""

    def before_merging(self) -> Iterator[WeightedCall]:
        """The call as one on the shapes that its data had before views merged axes of theirs, the latest first."""
        source = self.contraction.data
        while is_reshape(source.target) and isinstance(source.args[0], fx.Node):
            source = source.args[0]
            found = unmerged(self.contraction, self.shape_in, shape_of(source), self.shape_out)
            if found is not None:
                yield replace(self, contraction=found.contraction, shape_in=found.data, shape_out=found.result)


def weighted_calls(
    model: nn.Module,
    nodes: Sequence[fx.Node],
    known: Collection[str] = (),
    constants: Collection[fx.Node] = frozenset(),
) -> dict[str, list[WeightedCall]]:
    """Every linear operation of the run that mixes axes with a parameter, by the path of its module or of the parameter.

    Except for those at `known` paths and below. Weights may be made of `constants` too.
    """
    behind = attributes_behind(nodes, constants)
    constant = {node for node in behind if node in constants}
    for node in behind:
        constant |= {node} if not constant.isdisjoint(node.all_input_nodes) else set()
    weights = _weights(model, behind)
    calls: dict[str, list[WeightedCall]] = {}
    for node in nodes:
        if node.op != "call_function" or node in behind:
            continue
        found = contraction(node.target, node.args, node.kwargs, weights.__contains__, _mixing_shape, behind.__contains__)
        if found is None:
            continue
        found = contraction_of_parts(found) if "complex" in node.meta else found
        call = _call(model, node, found, behind)
        call = replace(call, has_constants=not constant.isdisjoint(node.all_input_nodes))
        if not any(f"{call.path}.".startswith(f"{path}.") for path in known):
            calls.setdefault(call.path, []).append(call)
    return calls


def made_kernels(
    model: nn.Module,
    nodes: Sequence[fx.Node],
    known: Collection[str] = (),
    constants: Collection[fx.Node] = frozenset(),
) -> dict[str, list[WeightedCall]]:
    """The convolutions whose kernel is made in somebody's forward (turned filters), by the path of the parameter behind it.

    Those of torch's own layers, and at `known` paths and below, are not among them.
    """
    behind = attributes_behind(nodes, constants)
    weights = _weights(model, behind)
    found: dict[str, list[WeightedCall]] = {}
    for node in nodes:
        if node.op != "call_function" or function_name(node.target) not in CONVOLUTIONS or len(node.all_input_nodes) < 2:
            continue
        data, kernel = node.all_input_nodes[:2]
        if kernel in weights and data not in behind and kernel.op != "get_attr":
            call = _call(model, node, Contraction(data, kernel, (), (), None), behind)
            if not any(f"{call.path}.".startswith(f"{path}.") for path in known):
                found.setdefault(call.path, []).append(call)
    return found


CONVOLUTIONS = frozenset(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
"""The names of torch's functions that convolve."""


def _weights(model: nn.Module, behind: Mapping[fx.Node, tuple[str, ...]]) -> set[fx.Node]:
    """What is made of Parameters alone, and may be a weight: not what layers made of learned features (seeds, queries)."""
    learned = {node: {name for name in names if _is_parameter(model, name)} for node, names in behind.items()}
    features: set[fx.Node] = set()
    for node in behind:
        if not features.isdisjoint(node.all_input_nodes) or _is_layer_on_features(model, node, learned):
            features.add(node)
    return {node for node, names in learned.items() if names and node not in features}


def _is_layer_on_features(model: nn.Module, node: fx.Node, learned: Mapping[fx.Node, set[str]]) -> bool:
    """Whether a node is the product of one module's Parameters with another's, or what an nn.Linear makes of Parameters."""
    operands = [learned[source] for source in node.all_input_nodes if learned.get(source)]
    if len(operands) < 2 or function_name(node.target) not in MIXING:
        return False
    owners = [{name.rpartition(".")[0] for name in names} for names in operands]
    is_of_layer = isinstance(model.get_submodule(node.meta["module"]), nn.Linear)
    return is_of_layer or any(a.isdisjoint(b) for a, b in itertools.combinations(owners, 2))


def _call(model: nn.Module, node: fx.Node, found: Contraction, behind: Mapping[fx.Node, tuple[str, ...]]) -> WeightedCall:
    parameters = [name for name in behind[found.weight] if _is_parameter(model, name)]
    fixed = {name for source in node.all_input_nodes for name in behind.get(source, ()) if not _is_parameter(model, name)}
    used = [*map(model.get_parameter, parameters), *map(model.get_buffer, sorted(fixed))]
    # the innermost module that runs the operation and holds the parameters and buffers, however deep, by whatever names
    owner = node.meta["module"]
    while (names := _names_in(model.get_submodule(owner), used)) is None and owner:
        owner = owner.rpartition(".")[0]
    names = (names or tuple(parameters))[: len(parameters)]
    is_module = owner == node.meta["module"] and isinstance(model.get_submodule(owner), nn.Linear)
    path = owner if is_module else ".".join(filter(None, (owner, names[0])))
    return WeightedCall(node, found, names, path, owner, is_module, shape_of(found.data), shape_of(node))


def _names_in(module: nn.Module, used: Sequence[Tensor]) -> tuple[str, ...] | None:
    """The names that these parameters and buffers have in a module, or None if it does not hold them all."""
    held = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    names = {id(tensor): name for name, tensor in reversed(held)}
    return tuple(names[id(tensor)] for tensor in used) if all(id(tensor) in names for tensor in used) else None


def names_at(model: nn.Module, owner: str) -> Callable[[fx.Node], str | None]:
    """What the module at `owner` calls a node's parameter or buffer, if it holds that."""

    def name(node: fx.Node) -> str | None:
        target = str(node.target)
        get = model.get_parameter if _is_parameter(model, target) else model.get_buffer
        names = _names_in(model.get_submodule(owner), [get(target)])
        return None if names is None else names[0]

    return name


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of a node's value; () if it has none."""
    value = node.meta.get("value") if isinstance(node, fx.Node) else None
    return () if value is None else tuple(value.shape)


def own_shape(node: Any) -> Shape:
    """The shape of a node's tensor, without the axis of its parts if it is complex."""
    is_complex = isinstance(node, fx.Node) and "complex" in node.meta
    return shape_of(node)[:-1] if is_complex else shape_of(node)


def _mixing_shape(node: Any) -> Shape:
    """A node's shape, with 1 for an axis along which it was expanded: a weight is the same for each of its entries."""
    expanded = node.meta.get("expanded", ()) if isinstance(node, fx.Node) else ()
    return tuple(1 if axis in expanded else size for axis, size in enumerate(own_shape(node)))


def unexpanded(node: fx.Node) -> Tensor:
    """A node's value, once for each axis along which it was expanded."""
    value: Tensor = node.meta["value"]
    for axis in node.meta.get("expanded", ()):
        value = value.narrow(axis, 0, 1)
    return value


def rearranged(node: fx.Node) -> Tensor | None:
    """The parameter whose axes were put in another order, merged or expanded to give a node's value; None if there is none.

    No sums and no factors, which could be 0 or 1 only as the model is initialised.
    """
    while node.op == "call_function" and function_name(node.target) in _REARRANGING and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    value: Tensor | None = node.meta.get("value") if node.op == "get_attr" else None
    return value


_ORDERS = "t T mT __get__ transpose permute swapaxes swapdims movedim moveaxis numpy_T"
_SHAPES = "view reshape flatten unflatten unsqueeze squeeze expand contiguous clone"
_REARRANGING = frozenset(f"{_ORDERS} {_SHAPES}".split())


def _is_parameter(model: nn.Module, name: str) -> bool:
    try:
        model.get_parameter(name)
    except AttributeError:
        return False
    return True
