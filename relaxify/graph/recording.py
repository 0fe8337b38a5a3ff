"""The recorded graph: one eager run of a model under a TorchFunctionMode, every operation appended to an fx.Graph.

It is never executed, so control flow, kNN, scatter, radius graphs and autograd inside forward are no obstacle: it works
wherever the model runs.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from relaxify.graph.inputs import tensors_of

_LIBRARIES = tuple(str(Path(path).parent) for path in (torch.__file__, jaxtyping.__file__, __file__))


@dataclass(frozen=True)
class Recording:
    """A run of a model as a graph.

    Each node's `meta` holds `value` (a snapshot of the tensor it produced, or None), `module` (the path of the innermost
    module running), `location` (file:line of the statement) and `parameters` (names of the parameters it reads directly).
    """

    graph: fx.Graph
    output: Any

    @property
    def nodes(self) -> list[fx.Node]:
        return list(self.graph.nodes)


def record(
    model: nn.Module, inputs: tuple[Any, ...], *, keep: Callable[[Tensor], bool] = torch.is_floating_point
) -> Recording:
    """Run the model once on the inputs and record every operation. `keep` says which values to snapshot."""
    recorder = _Recorder(model, inputs, keep)
    with _calls_seen_by(recorder), recorder:
        output = model(*inputs)
    last = recorder.graph.output(recorder.reference(_as_tree(output)))
    last.meta.update(value=None, module="", location="", parameters=())
    return Recording(recorder.graph, output)


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, inputs: tuple[Any, ...], keep: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.keep = keep
        self.stack: list[str] = []
        self.paths = {id(module): path for path, module in reversed(list(model.named_modules(remove_duplicate=False)))}
        self.names = {id(p): name for name, p in model.named_parameters(remove_duplicate=True)}
        # a tensor's identity is its id only while it lives
        self._alive: list[Any] = [model, inputs]
        self._nodes: dict[int, fx.Node] = {}
        for name, tensor in tensors_of(inputs):
            self._bind(tensor, self.graph.placeholder(name.replace(".", "_")), clone=True)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._bind(tensor, self.graph.get_attr(name), clone=False)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _UNINTERESTING or not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            return result
        self.append(func, args, kwargs or {}, result)
        return result

    def append(self, target: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        """A node for one call, and one for each tensor in its result if this is no tensor itself."""
        node = self.graph.call_function(target, self.reference(tuple(args)), self.reference(dict(kwargs)))
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        node.meta["parameters"] = tuple(self.names[id(leaf)] for leaf in leaves if id(leaf) in self.names)
        self._describe(node)
        if isinstance(result, Tensor):
            self._bind(result, node, clone=True)
            return
        node.meta["value"] = None
        for position, leaf in enumerate(pytree.tree_leaves(result)):
            if isinstance(leaf, Tensor):
                part = self.graph.call_function(operator.getitem, (node, position))
                part.meta["parameters"] = ()
                self._describe(part)
                self._bind(leaf, part, clone=True)

    def reference(self, value: Any) -> Any:
        """The value with every tensor in it replaced by the node that made it."""
        if isinstance(value, Tensor):
            return self._nodes.get(id(value)) or self._unseen(value)
        if isinstance(value, tuple | list):
            return tuple(self.reference(item) for item in value)
        if isinstance(value, dict):
            return {str(key): self.reference(item) for key, item in value.items()}
        return value if isinstance(value, fx.node.base_types) or value is None else repr(type(value))

    def _unseen(self, tensor: Tensor) -> fx.Node:
        """A tensor made where no function was seen (by an extension, say): a constant of unknown origin."""
        node = self.graph.call_function(opaque, ())
        node.meta["parameters"] = ()
        self._describe(node)
        self._bind(tensor, node, clone=True)
        return node

    def _describe(self, node: fx.Node) -> None:
        node.meta["module"] = self.stack[-1] if self.stack else ""
        node.meta["location"] = _location()

    def _bind(self, tensor: Tensor, node: fx.Node, *, clone: bool) -> None:
        self._alive.append(tensor)
        self._nodes[id(tensor)] = node
        with torch._C.DisableTorchFunction():
            # an operation in place may change it later
            node.meta["value"] = (tensor.detach().clone() if clone else tensor.detach()) if self.keep(tensor) else None
        node.meta.setdefault("parameters", ())
        node.meta.setdefault("module", "")
        node.meta.setdefault("location", "")


def opaque(*args: Any) -> None:
    """Stands in a graph for what ran out of sight: TorchScript, an extension."""


@contextmanager
def _calls_seen_by(recorder: _Recorder) -> Iterator[None]:
    """Follow which module is running; give a TorchScript module's call, whose inside cannot be seen, a node of its own."""

    def enter(module: nn.Module, args: Any) -> None:
        recorder.stack.append(recorder.paths.get(id(module), recorder.stack[-1] if recorder.stack else ""))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            recorder.append(opaque, args, {}, output)
        recorder.stack.pop()

    handles = [
        module_hooks.register_module_forward_pre_hook(enter),
        module_hooks.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _location() -> str:
    """file:line of the innermost statement that is neither PyTorch's nor ours."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if not filename.startswith(_LIBRARIES) and not filename.startswith("<"):
            return f"{filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _as_tree(output: Any) -> Any:
    """An output's tensors in containers that fx knows."""
    if isinstance(output, Tensor):
        return output
    return tuple(tensor for _, tensor in tensors_of(output))


_UNINTERESTING = {Tensor.shape.__get__, Tensor.device.__get__, Tensor.dtype.__get__, Tensor.requires_grad.__get__}  # type: ignore[attr-defined]
