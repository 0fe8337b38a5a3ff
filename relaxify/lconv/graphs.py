"""Layers of graphs whose operators call parameters by themselves, as torch.export writes them: made modules again.

`conv2d(x, conv.weight, conv.bias, ...)` becomes a call of an nn.Conv2d at `conv`, whose parameters are those of the graph,
so that the state dict keeps its keys.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from relaxify.graph.contractions import function_name

_CONVOLUTIONS: dict[tuple[int, bool], type[nn.Module]] = {
    (1, False): nn.Conv1d, (2, False): nn.Conv2d, (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d, (3, True): nn.ConvTranspose3d,
}  # fmt: skip
_TRANSPOSING = frozenset({"t", "permute", "transpose"})


@dataclass(frozen=True)
class _Call:
    """An operator on a graph's own parameters: the layer that it is, but for them."""

    node: fx.Node
    data: fx.Node
    weight: str
    bias: str | None
    layer: nn.Module


def with_layers(graph: fx.GraphModule) -> None:
    """Put a module in the place of each linear operator and convolution that reads a module's `weight` and `bias`."""
    # copies of a module share its graph
    graph.graph = copy.deepcopy(graph.graph)
    uses = Counter(node.target for node in graph.graph.nodes if node.op == "get_attr" for _ in node.users)
    for call in _calls(graph):
        path, _, name = call.weight.rpartition(".")
        is_whole = name == "weight" and call.bias in (None, f"{path}.bias")
        if path and is_whole and uses[call.weight] == 1 and _is_holder(graph.get_submodule(path)):
            _replace(graph, path, call)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _is_holder(module: nn.Module) -> bool:
    """Whether a module is nothing but the place of its parameters."""
    return type(module) is nn.Module and not module._modules and not module._buffers


def _replace(graph: fx.GraphModule, path: str, call: _Call) -> None:
    held = graph.get_submodule(path)
    if set(held._parameters) - {"weight", "bias"} or ("bias" in held._parameters) != (call.bias is not None):
        return
    for name in held._parameters:
        setattr(call.layer, name, held._parameters[name])
    graph.set_submodule(path, call.layer.train(graph.training))
    with graph.graph.inserting_before(call.node):
        module = graph.graph.call_module(path, (call.data,))
    module.meta.update(call.node.meta)
    call.node.replace_all_uses_with(module)
    graph.graph.erase_node(call.node)


def _calls(graph: fx.GraphModule) -> Iterator[_Call]:
    # what is replaced on the way is read by later nodes
    for node in list(graph.graph.nodes):
        name = function_name(node.target) if node.op == "call_function" else ""
        found = _linear(graph, node, name) or _convolution(graph, node, name)
        if found is not None:
            yield found


def _linear(graph: fx.GraphModule, node: fx.Node, name: str) -> _Call | None:
    if name == "linear":
        data, weight, bias = (*node.args, None)[:3]
    elif name == "addmm":
        bias, data, weight = node.args[0], node.args[1], _transposed(node.args[2])
    elif name == "mm":
        data, weight, bias = node.args[0], _transposed(node.args[1]), None
    else:
        return None
    weight_name, bias_name = _parameter(weight), _parameter(bias)
    if not isinstance(data, fx.Node) or weight_name is None or (bias is not None and bias_name is None):
        return None
    n_out, n_in = graph.get_parameter(weight_name).shape
    layer = nn.Linear(n_in, n_out, bias=bias is not None, device="meta")
    return _Call(node, data, weight_name, bias_name, layer)


def _transposed(node: Any) -> Any:
    """What a node is the transpose of."""
    is_transpose = isinstance(node, fx.Node) and node.op == "call_function" and function_name(node.target) in _TRANSPOSING
    return node.args[0] if is_transpose else None


def _convolution(graph: fx.GraphModule, node: fx.Node, name: str) -> _Call | None:
    if name not in _ARGUMENTS:
        return None
    settings: dict[str, Any] = {**dict(zip(_ARGUMENTS[name], node.args, strict=False)), **node.kwargs}
    data, weight, bias = (settings.pop(each, None) for each in ("input", "weight", "bias"))
    weight_name, bias_name = _parameter(weight), _parameter(bias)
    if not isinstance(data, fx.Node) or weight_name is None or (bias is not None and bias_name is None):
        return None
    is_transposed = bool(settings.pop("transposed", "transpose" in name))
    shape = graph.get_parameter(weight_name).shape
    known = {key: value for key, value in settings.items() if is_transposed or key != "output_padding"}
    groups = known.get("groups", 1)
    n_out, n_in = (shape[1] * groups, shape[0]) if is_transposed else (shape[0], shape[1] * groups)
    make = _CONVOLUTIONS[len(shape) - 2, is_transposed]
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
    layer = make(n_in, n_out, tuple(shape[2:]), bias=bias is not None, device="meta", **plain)
    return _Call(node, data, weight_name, bias_name, layer)


_FORWARD = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_BACKWARD = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_ARGUMENTS = {
    **{f"conv{n}d": _FORWARD for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _BACKWARD for n in (1, 2, 3)},
    "convolution": ("input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups"),
}
"""What the operators are called with, in this order."""


def _parameter(node: Any) -> str | None:
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None
