"""Where a model breaks its symmetry: the first operation from which on its output no longer transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from relaxify.graph.evidence import Evidence


@dataclass(frozen=True)
class Break:
    """The first operation from which on a model's output no longer transforms linearly: where, and what it is."""

    node: fx.Node
    module: str
    location: str
    op: str

    def __str__(self) -> str:
        return f"{self.op} in {self.module or 'the model'} at {self.location}"


def first_break(evidence: Evidence, known: Callable[[fx.Node], bool | None] = lambda node: None) -> Break | None:
    """The operation that breaks the symmetry, or None if every output of the model transforms linearly (or is undecided).

    A value may transform in no linear way for a while (a product of components, before it is summed): what counts is that
    nothing downstream of the break recovers. `known` says of a node whether it transforms as a layer's type promises, if
    there is such a promise.
    """

    def is_sound(node: fx.Node) -> bool:
        promised = known(node)
        return node.op != "call_function" or (evidence.of(node).is_sound if promised is None else promised)

    def is_broken(node: fx.Node) -> bool:
        return known(node) is False or evidence.of(node).kind == "none"

    order = {node: i for i, node in enumerate(evidence.nodes)}
    waiting = [node for node in evidence.nodes[-1].all_input_nodes if is_broken(node)]
    suspects: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        suspects.add(node)
        waiting += [source for source in node.all_input_nodes if source not in suspects and not is_sound(source)]
    broken = filter(is_broken, suspects)
    first = min(broken, key=order.__getitem__, default=None)
    if first is None:
        return None
    return Break(first, first.meta.get("module", ""), where(first), op_name(first))


def op_name(node: fx.Node) -> str:
    """The name of the function that a node calls."""
    return str(getattr(node.target, "__name__", node.target))


def where(node: fx.Node) -> str:
    """file:line of the statement that ran a node."""
    return str(node.meta.get("location") or node.name)
