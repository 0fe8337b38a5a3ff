"""Where a model breaks its symmetry: the first operation from which on its output no longer transforms."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from relaxify.evidence.evidence import Evidence
from relaxify.evidence.fitting import is_isometric


@dataclass(frozen=True)
class Break:
    """The first operation from which on a model's output no longer transforms linearly: where, and what it is."""

    node: fx.Node
    module: str
    location: str
    op: str

    def __str__(self) -> str:
        return f"{self.op} in {self.module or 'the model'} at {self.location}"


def first_break(
    evidence: Evidence, known: Callable[[fx.Node], bool | None] = lambda node: None, *, is_broken: bool = False
) -> Break | None:
    """The operation that breaks the symmetry, or None if every output of the model transforms linearly (or is undecided).

    A value may transform in no linear way for a while (a product of components, before it is summed): what counts is that
    nothing downstream of the break recovers. `known` says of a node whether it transforms as a layer's type promises, if
    there is such a promise. If the output `is_broken`, what is too little to tell by itself is looked behind too.
    """

    def is_sound(node: fx.Node) -> bool:
        promised = known(node)
        if promised is None:
            promised = evidence.of(node).is_sound and not _is_deformed(evidence, node)
        return node.op != "call_function" or promised

    def breaks(node: fx.Node) -> bool:
        return known(node) is False or evidence.of(node).kind == "none" or _is_deformed(evidence, node)

    order = {node: i for i, node in enumerate(evidence.nodes)}
    outputs = evidence.nodes[-1].all_input_nodes
    waiting = [node for node in outputs if known(node) is False or evidence.of(node).kind == "none"]
    if is_broken and not waiting:
        waiting = [node for node in outputs if not is_sound(node)]
    suspects: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        suspects.add(node)
        waiting += [source for source in node.all_input_nodes if source not in suspects and not is_sound(source)]
    first = min(filter(breaks, suspects), key=order.__getitem__, default=None)
    if first is None:
        return None
    return Break(first, first.meta.get("module", ""), where(first), op_name(first))


def _is_deformed(evidence: Evidence, node: fx.Node) -> bool:
    """Whether a value transforms by W M(g) W^-1, as what is stretched or mixed with a fixed matrix does.

    It still transforms, but not as what it is combined with later.
    """
    actions = evidence.of(node).actions
    return evidence.group.compact and actions is not None and not is_isometric(evidence.group, actions)


def op_name(node: fx.Node) -> str:
    """The name of the function that a node calls, or that returned the tuple of which it is one item."""
    if node.target is operator.getitem and node.all_input_nodes and node.all_input_nodes[0].meta.get("value") is None:
        node = node.all_input_nodes[0]
    return str(getattr(node.target, "__name__", node.target))


def where(node: fx.Node) -> str:
    """file:line of the statement that ran a node."""
    return str(node.meta.get("location") or node.name)
