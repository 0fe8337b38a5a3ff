"""The recorded graph: one eager run of a model under a TorchFunctionMode, every operation appended to an fx.Graph.

It is never executed, so control flow, kNN, scatter, radius graphs and autograd inside forward are no obstacle: it works
wherever the model runs.
"""

from __future__ import annotations

import functools
import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from relaxify.graph.complex_values import as_real
from relaxify.graph.inputs import Inputs, call, tensors_of
from relaxify.graph.outline import Outline, Point
from relaxify.graph.script_calls import Scripted, script_calls
from relaxify.graph.source_lines import location
from relaxify.graph.storages import expanded_axes, is_mapped, plain, storage, tensors_in, version
from relaxify.interrupts import under

Node = fx.Node | Point


@dataclass(frozen=True)
class Recording:
    """A run of a model as a graph.

    Each node's `meta` holds `value` (a snapshot of the tensor it produced, or None), `seen` (that tensor's shape, or None if
    it is of a kind that is not kept), `module` (the path of the innermost module running), `location` (file:line of the
    statement) and `parameters` (names of the parameters it reads directly); a placeholder's also the input's `shape`, and
    whether it is `floating`; and `held`, if it is made of nothing that was seen, the tensor, which may be a constant. Of
    what is `complex`, value and shapes are those of the real and imaginary parts, on one more axis.
    """

    graph: fx.Graph | Outline
    output: Any
    calls: Mapping[str, Sequence[ModuleCall]]
    """The calls of each module, by its path."""
    writes: bool = False
    """Whether an operation was seen to write to a tensor that was there before."""

    @functools.cached_property
    def nodes(self) -> list[Any]:
        """Nodes; points of an outline."""
        return list(self.graph.nodes)


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module: its arguments and its result, with nodes instead of tensors."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any

    def argument(self, position: int, name: str) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name)


def _is_measured(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def record(
    model: nn.Module,
    inputs: Inputs,
    *,
    keep: Callable[[Tensor], bool] = _is_measured,
    injected: Mapping[int, Tensor] = MappingProxyType({}),
    outline: bool = False,
    copies: bool = True,
    wanted: Collection[int] | None = None,
) -> Recording:
    """Run the model once on the inputs and record every operation.

    `keep` says which values to keep copies of; `injected` replaces what the nodes of these numbers computed. An `outline`
    takes less time: its nodes know their values, but neither their statements nor each other. So does a run without
    `copies`: what is written to in it, as in runs of other models, has no value. `wanted` are the numbers of the nodes whose
    values are kept, if not all are.
    """
    recorder = _Recorder(model, inputs, keep, injected, outline, copies, wanted)
    with _calls_seen_by(recorder), script_calls(recorder.scripted):
        output = under(recorder, call, model, inputs)
    with _UNSEEN():
        if not copies:
            recorder.forget_written()
        last = recorder.graph.output(recorder.reference(_as_tree(output)))
    last.meta.update(value=None, seen=None, module="", location="", parameters=())
    return Recording(recorder.graph, output, recorder.calls, recorder.writes)


def again(model: nn.Module, inputs: Inputs, first: Recording, **options: Any) -> Recording:
    """The outline of a run on other inputs, with copies only if those of the `first` were needed; see `record`."""
    return record(model, inputs, outline=True, copies=first.writes, **options)


class _Recorder(TorchFunctionMode):
    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        keep: Callable[[Tensor], bool],
        injected: Mapping[int, Tensor],
        outline: bool,
        copies: bool,
        wanted: Collection[int] | None,
    ) -> None:
        super().__init__()
        # an outline's nodes are as much of nodes as is asked of them
        self.graph: Any = Outline() if outline else fx.Graph()
        self.keep = keep
        self.injected = injected
        self.outline = outline
        self.copies = copies
        self.wanted = wanted
        self.writes = False
        self.stack: list[str] = []
        self.calls: defaultdict[str, list[ModuleCall]] = defaultdict(list)
        self.paths = {id(module): path for path, module in reversed(list(model.named_modules(remove_duplicate=False)))}
        self.names = {id(p): name for name, p in model.named_parameters(remove_duplicate=True)}
        # a tensor's identity is its id only while it lives
        self._alive: list[Any] = [model, inputs]
        self._nodes: dict[int, Node] = {}
        self._versions: dict[int, int] = {}
        self._writers: dict[int, Node] = {}
        with _UNSEEN():
            self._bind_all(model, inputs)

    def _bind_all(self, model: nn.Module, inputs: Inputs) -> None:
        """Nodes for what is there before anything runs."""
        for name, tensor in tensors_of(inputs):
            node = self.graph.placeholder(name.replace(".", "_"))
            node.meta.update(shape=tuple(as_real(tensor).shape), floating=_is_measured(tensor))
            self._bind(tensor, node, clone=True)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._bind(tensor, self.graph.get_attr(name), clone=False)

    def scripted(self, function: Scripted, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note a call of a TorchScript function."""
        with _UNSEEN():
            read = self.reference(args), self.reference(kwargs)
        result = function(*args, **kwargs)
        with _UNSEEN():
            return self._noted(opaque, read, tensors_in((args, kwargs)), result)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _UNINTERESTING:
            return func(*args, **kwargs)
        with _UNSEEN():
            # what the operation reads is what was there before it wrote
            read = self.reference(tuple(args)), self.reference(kwargs)
        result = func(*args, **kwargs)
        with _UNSEEN():
            return self._noted(func, read, tensors_in((args, kwargs)), result)

    def _noted(self, func: Any, read: tuple[Any, Any], tensors: list[Tensor], result: Any) -> Any:
        """The result, with the call in the graph if it made or wrote to a tensor."""
        written = [tensor for tensor in tensors if self._is_stale(tensor)]
        if not written and not tensors_in(result):
            return result
        if self.injected and isinstance(result, Tensor):
            result = self.injected.get(len(self.graph.nodes), result)
        node = self.append(func, *read, result)
        node.meta["parameters"] = tuple(self.names[id(tensor)] for tensor in tensors if id(tensor) in self.names)
        if func in _FROM_DATA and not tensors:
            node.meta["held"] = result
        self._writers.update({storage(tensor): node for tensor in written})
        self.writes = self.writes or bool(written)
        return result

    def append(self, target: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> Node:
        """A node for one call, and one for each tensor in its result if that is not itself a tensor."""
        node = self._node(target, args, kwargs)
        if isinstance(result, Tensor):
            self._bind(result, node, clone=True)
            if target in _UNINITIALISED:
                node.meta["value"] = None
            return node
        node.meta["value"] = None
        for position, leaf in enumerate(pytree.tree_leaves(result)):
            if isinstance(leaf, Tensor):
                self._bind(leaf, self._node(operator.getitem, (node, position)), clone=True)
        return node

    def returned(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note the call of a module that has just run."""
        if isinstance(module, torch.jit.ScriptModule):
            self.append(opaque, self.reference(args), {}, output)
        if id(module) in self.paths:
            call = ModuleCall(*map(self.reference, (args, kwargs, output)))
            self.calls[self.stack[-1]].append(call)

    def reference(self, value: Any) -> Any:
        """The value with every tensor in it replaced by the node that made it, or last wrote to it."""
        if isinstance(value, Tensor):
            node = self._nodes.get(id(value))
            if node is not None and not self._is_stale(value):
                return node
            # made where no function was seen (by an extension, say), or written to through another view of its storage
            sources = () if node is None else filter(None, (node, self._writers.get(storage(value))))
            node, is_new = self._node(opaque if node is None else written, tuple(sources)), node is None
            if is_new and not is_mapped(value):
                node.meta["held"] = value
            if (writer := self._writers.get(storage(value))) is not None:
                # where the statement is that wrote
                node.meta.update({key: writer.meta[key] for key in ("module", "location")})
            self._bind(value, node, clone=True)
            return node
        if value is None or value is ... or isinstance(value, fx.node.base_types):
            return value
        if isinstance(value, tuple | list):
            return tuple(self.reference(item) for item in value)
        if isinstance(value, dict):
            return {str(key): self.reference(item) for key, item in value.items()}
        held = [tensor for _, tensor in tensors_of(value)]
        if len(held) == 1:
            # what wraps one tensor, as escnn's do, stands for it
            return self.reference(held[0])
        if isinstance(value, slice):
            return slice(*map(self.reference, (value.start, value.stop, value.step)))
        return Unkept(type(value))

    def _node(self, target: Callable[..., Any], args: Any, kwargs: Any = None) -> Node:
        node = self.graph.call_function(target, args, kwargs)
        place = "" if self.outline else location()
        node.meta.update(module=self.stack[-1] if self.stack else "", location=place, parameters=())
        return node

    def forget_written(self) -> None:
        """Take away the values that are no longer what they were."""
        for tensor in self._alive:
            self._forget_if_stale(tensor)

    def _forget_if_stale(self, tensor: Any) -> None:
        if self._is_stale(tensor):
            self._nodes[id(tensor)].meta.update(value=None, seen=None)

    def _is_stale(self, tensor: Any) -> bool:
        """Whether a tensor has been written to since its node was made. Views of one storage share their version."""
        return id(tensor) in self._versions and version(tensor) != self._versions[id(tensor)]

    def _bind(self, tensor: Tensor, node: Node, *, clone: bool) -> None:
        if not self.copies:
            self._forget_if_stale(tensor)
        self._alive.append(tensor)
        self._nodes[id(tensor)] = node
        self._versions[id(tensor)] = version(tensor)
        # of what torch.func maps over, what runs is a batch, which transforms in no way of the tensor's own
        seen = plain(tensor.detach()) if self.keep(tensor) and not is_mapped(tensor) else None
        if seen is not None and seen.is_complex():
            seen, node.meta["complex"] = as_real(seen), True
        node.meta["seen"] = None if seen is None else tuple(seen.shape)
        is_wanted = self.wanted is None or len(self.graph.nodes) - 1 in self.wanted
        kept = seen if is_wanted else None
        # an operation in place may change it later
        node.meta["value"] = kept.clone() if clone and self.copies and kept is not None else kept
        if kept is not None and not self.outline and 0 in kept.stride():
            node.meta["expanded"] = expanded_axes(kept)
        node.meta.setdefault("parameters", ())
        node.meta.setdefault("module", "")
        node.meta.setdefault("location", "")


_UNINITIALISED = frozenset(
    {torch.empty, torch.empty_like, torch.empty_strided, torch.empty_permuted, Tensor.new_empty, Tensor.new_empty_strided}
)
"""What they make may hold anything, and something else in each run."""


_FROM_DATA = frozenset({torch.tensor, torch.as_tensor, torch.from_numpy})
"""What they make is made of no tensor that was seen."""


class Unkept(str):
    """Stands in a graph for an argument of a type that it cannot hold."""


def opaque(*args: Any) -> None:
    """Stands in a graph for what ran out of sight: TorchScript, an extension."""


def written(*args: Any) -> None:
    """Stands in a graph for a tensor after an operation in place has written to its storage through another view."""


@contextmanager
def _calls_seen_by(recorder: _Recorder) -> Iterator[None]:
    """Follow which module is running; give a TorchScript module's call, whose inside cannot be seen, a node of its own."""

    def enter(module: nn.Module, args: Any) -> None:
        recorder.stack.append(recorder.paths.get(id(module), recorder.stack[-1] if recorder.stack else ""))

    def leave(module: nn.Module, args: Any, *kwargs_and_output: Any) -> None:
        # after a forward that failed, PyTorch passes no keywords
        if len(kwargs_and_output) == 2:
            with _UNSEEN():
                recorder.returned(module, args, *kwargs_and_output)
        recorder.stack.pop()

    handles = [
        module_hooks.register_module_forward_pre_hook(enter),
        module_hooks.register_module_forward_hook(leave, with_kwargs=True, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _as_tree(output: Any) -> Any:
    """An output's tensors in containers that fx knows."""
    if isinstance(output, Tensor):
        return output
    return tuple(tensor for _, tensor in tensors_of(output))


_UNSEEN = torch._C.DisableTorchFunction
"""Within, what is asked of tensors is no operation."""
_UNINTERESTING = {Tensor.shape.__get__, Tensor.device.__get__, Tensor.dtype.__get__, Tensor.requires_grad.__get__}  # type: ignore[attr-defined]
