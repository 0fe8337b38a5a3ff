"""The symbolic graph: what torch.fx traces without inputs, the whole model or the islands of it that can be traced.

Adapters' layers, TorchScript and message-passing modules are leaves. Where tracing stops, the statement is named.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import fx, nn

from relaxify.graph.contractions import MIXING
from relaxify.graph.source_lines import is_own_code


@dataclass(frozen=True)
class Island:
    """A submodule that torch.fx can trace without inputs."""

    path: str
    graph: fx.Graph = field(repr=False)

    @property
    def operations(self) -> int:
        return sum(node.op.startswith("call_") for node in self.graph.nodes)


@dataclass(frozen=True)
class Obstacle:
    """A module that torch.fx cannot trace without inputs: the first statement (file:line) at which it fails, and why."""

    path: str
    location: str
    reason: str


@dataclass(frozen=True)
class FunctionalOp:
    """A linear function applied to a Parameter in somebody's forward: the parameter's path, the function, file:line."""

    path: str
    op: str
    location: str


@dataclass(frozen=True)
class Tracing:
    """How far symbolic tracing gets in a model: the whole is one island, or there are islands and obstacles."""

    islands: tuple[Island, ...]
    obstacles: tuple[Obstacle, ...]


class _Tracer(fx.Tracer):
    def __init__(self, leaves: Collection[int]) -> None:
        super().__init__()
        self.leaves = leaves
        self.record_stack_traces = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self.leaves or _is_opaque(m) or super().is_leaf_module(m, module_qualified_name)


def _is_opaque(module: nn.Module) -> bool:
    # torch_geometric's message passing writes its own code; the engine does not import it to say so
    names = {base.__name__ for base in type(module).__mro__}
    return isinstance(module, torch.jit.ScriptModule) or "MessagePassing" in names


def trace(model: nn.Module, leaves: Collection[nn.Module]) -> Tracing:
    """Trace the model, or where that fails its submodules, with `leaves` left whole. The model is not changed.

    >>> trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), []).islands
    (Island(path=''),)
    """
    shared = (*model.parameters(), *model.buffers(), *(leaf for leaf in leaves if leaf is not model))
    memo: dict[int, Any] = {id(item): item for item in shared}
    try:
        # forward may leave proxies in the module's attributes
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        return Tracing((), (Obstacle("", "", f"it cannot be copied: {_sentence(error)}"),))
    ids = {id(leaf) for leaf in leaves if leaf is not model}
    islands: list[Island] = []
    obstacles: list[Obstacle] = []
    with torch.random.fork_rng(devices=[]):
        _descend("", twin, _Tracer(ids), islands, obstacles, set())
    return Tracing(tuple(islands), tuple(obstacles))


def _descend(
    path: str, module: nn.Module, tracer: _Tracer, islands: list[Island], obstacles: list[Obstacle], seen: set[int]
) -> None:
    holds = isinstance(module, nn.ModuleList | nn.ModuleDict)
    is_leaf = not holds and tracer.is_leaf_module(module, path)
    if id(module) in seen or is_leaf or not any(True for _ in module.parameters()):
        return
    seen.add(id(module))
    if not holds:
        try:
            islands.append(Island(path, tracer.trace(module)))
            return
        except Exception as error:
            obstacles.append(Obstacle(path, _where(error.__traceback__), _sentence(error)))
    for name, child in module.named_children():
        _descend(f"{path}.{name}".lstrip("."), child, tracer, islands, obstacles, seen)


def functional_ops(tracing: Tracing) -> Iterator[FunctionalOp]:
    """The linear functions that the islands apply to Parameters."""
    for island in tracing.islands:
        for node in island.graph.nodes:
            weights = [source for source in node.all_input_nodes if source.op == "get_attr"]
            if weights and _function(node) in MIXING:
                path = f"{island.path}.{weights[0].target}".lstrip(".")
                yield FunctionalOp(path, _function(node).split(".")[-1], _statement(node))


def _function(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))


def _statement(node: fx.Node) -> str:
    frames = re.findall(r'File "(.+?)", line (\d+)', node.stack_trace or "")
    return next((f"{file}:{line}" for file, line in reversed(frames) if is_own_code(file)), "")


def _where(traceback: TracebackType | None) -> str:
    """file:line of the innermost frame that is neither PyTorch's nor ours."""
    found = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if is_own_code(file):
            found = f"{file}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def _sentence(error: Exception) -> str:
    """The first sentence of what torch.fx says."""
    return re.split(r"(?<=[a-z])\. |\n", str(error) or type(error).__name__)[0].strip()
