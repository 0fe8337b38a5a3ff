"""Executed operations that read parameters, as adapters are offered them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from relaxify.graph.recording import Recording
from relaxify.graph.weighted_calls import shape_of
from relaxify.groups import Group
from relaxify.registry import Operation, OperationAdapter, adapters
from relaxify.sites import Rejected, Site


def known_operations(model: nn.Module, group: Group, recording: Recording) -> Iterator[Site | Rejected]:
    """What adapters claim of the operations that read parameters, each path once."""
    experts = [adapter for adapter in adapters() if isinstance(adapter, OperationAdapter)]
    claimed: set[str] = set()
    for node in recording.nodes if experts else []:
        if node.op == "call_function" and node.meta["parameters"]:
            path, shapes = node.meta["module"], tuple(map(shape_of, (*node.all_input_nodes, node)))
            operation = Operation(node, path, model.get_submodule(path), node.meta["parameters"], shapes)
            claims = [entry for expert in experts for entry in expert.operations(operation, group)]
            yield from (entry for entry in claims if entry.path not in claimed)
            claimed |= {entry.path for entry in claims}
