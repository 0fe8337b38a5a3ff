"""The steps of one run of a model: calls of its leaf modules, and of functions outside of them, that the images reach.

Each keeps what it read and returned, and where in the graph of gradients its outputs stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from relaxify.graph.inputs import Inputs, call, map_tensors, tensors_of
from relaxify.interrupts import under

STRETCHING = ("adaptive", "interpolate", "upsample")


@dataclass(frozen=True)
class Step:
    """One call: `function(*args, **kwargs)`, with the arguments as they were before it.

    `reached` names the tensors among the arguments that depend on the images; `kept` are the places of the tensors returned,
    or written to, that do, with their `outputs` and `edges`.
    """

    path: str
    op: str
    function: Callable[..., Any]
    args: tuple[Any, dict[str, Any]]
    reached: frozenset[str]
    kept: tuple[int, ...]
    outputs: tuple[Tensor, ...]
    edges: tuple[GradientEdge, ...]

    @property
    def stretches(self) -> bool:
        """Whether its output's pixels are spread over the whole of its input, whatever their number."""
        return any(name in self.op.lower() for name in STRETCHING)

    def __call__(self, args: tuple[Any, dict[str, Any]]) -> list[Tensor]:
        """Its outputs for other arguments, which it may write to."""
        positional, keywords = args
        returned = _returned(self.function(*positional, **keywords), args)
        return [returned[place] for place in self.kept]


def run(model: nn.Module, images: Inputs) -> tuple[Any, list[Step]]:
    """The model's output on images that require gradients, and its steps. Its parameters must require none."""
    recorder = _Recorder(model)
    with _calls_seen_by(recorder, model):
        output = under(recorder, call, model, images)
    return output, recorder.steps


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.leaves = {id(module) for module in model.modules() if not any(True for _ in module.children())}
        self.stack: list[str] = []
        self.inside = False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = args, kwargs or {}
        if self.inside or not _reached(given):
            return func(*given[0], **given[1])
        before = frozen(given)
        result = func(*given[0], **given[1])
        name = str(getattr(func, "__name__", func))
        self.add(self.stack[-1] if self.stack else "", name, func, before, given, result)
        return result

    def add(
        self, path: str, op: str, function: Callable[..., Any], before: tuple[Any, Any], given: tuple[Any, Any], result: Any
    ) -> None:
        returned = _returned(result, given)
        kept = tuple(place for place, value in enumerate(returned) if value.requires_grad)
        if kept:
            edges = tuple(get_gradient_edge(returned[place]) for place in kept)
            values = tuple(returned[place].detach().clone() for place in kept)
            self.steps.append(Step(path, op, function, before, _reached(given), kept, values, edges))


def frozen(args: tuple[Any, Any]) -> tuple[Any, Any]:
    """Copies of the arguments, which what is done in place does not reach."""
    copies: tuple[Any, Any] = map_tensors(lambda _, value: value.detach().clone(), args)
    return copies


def _reached(args: tuple[Any, Any]) -> frozenset[str]:
    return frozenset(name for name, value in tensors_of(args) if value.requires_grad)


def _returned(result: Any, args: tuple[Any, Any]) -> list[Tensor]:
    """The tensors that a call returned, or what it wrote to if it returned none."""
    if result is None and args[0] and isinstance(args[0][0], Tensor):
        return [args[0][0]]
    return [value for _, value in tensors_of(result) if value.is_floating_point()]


@contextmanager
def _calls_seen_by(recorder: _Recorder, model: nn.Module) -> Iterator[None]:
    """Make one step of each call of a leaf module, and know in which module functions are called."""
    started: list[tuple[Any, Any]] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        recorder.stack.append(recorder.paths[id(module)])
        if id(module) in recorder.leaves:
            recorder.inside = True
            with torch._C.DisableTorchFunction():
                started.append(frozen((args, kwargs)))

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        path = recorder.stack.pop()
        if id(module) in recorder.leaves:
            with torch._C.DisableTorchFunction():
                recorder.add(path, type(module).__name__, module, started.pop(), (args, kwargs), output)
            recorder.inside = False

    handles: list[RemovableHandle] = []
    for module in model.modules():
        # around what other hooks do, which is part of the layer
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
