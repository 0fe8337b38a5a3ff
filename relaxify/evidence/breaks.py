"""Where a model breaks its symmetry: the first operation from which on its output no longer transforms."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from relaxify.evidence.evidence import Evidence
from relaxify.evidence.fitting import is_isometric
from relaxify.evidence.known_ways import changes_length, moves_in_a_known_way


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
    there is such a promise. If the output `is_broken`, what the fits cannot tell is held to less: whether lengths are kept,
    and whether a value moves as vectors or positions do.
    """
    signs = _Signs(evidence, known)
    first = _first(evidence, signs.is_sound, signs.breaks)
    if is_broken:
        first = _first(evidence, signs.is_explained, signs.is_odd, whole=True)
        first = first or _first(evidence, signs.is_explained, signs.is_out_of_sight, whole=True)
        first = first or _first(evidence, signs.is_named, lambda node: not signs.is_named(node), whole=True)
    return None if first is None else Break(first, first.meta.get("module", ""), where(first), op_name(first))


def _first(
    evidence: Evidence, is_sound: Callable[[fx.Node], bool], breaks: Callable[[fx.Node], bool], *, whole: bool = False
) -> fx.Node | None:
    """The first that `breaks` among the outputs that do, or the `whole` output, and the unsound values they are made of."""
    order = {node: i for i, node in enumerate(evidence.nodes)}
    outputs = evidence.nodes[-1].all_input_nodes
    waiting = [node for node in outputs if breaks(node)] or [node for node in outputs if whole and not is_sound(node)]
    suspects: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        suspects.add(node)
        waiting += [source for source in node.all_input_nodes if source not in suspects and not is_sound(source)]
    return min(filter(breaks, suspects), key=order.__getitem__, default=None)


@dataclass(frozen=True)
class _Signs:
    """What speaks for a value, and against it."""

    evidence: Evidence
    known: Callable[[fx.Node], bool | None]

    def is_sound(self, node: fx.Node) -> bool:
        """By its layer's promise, or else by the fits."""
        promised = self.known(node)
        if promised is None:
            promised = self.evidence.of(node).is_sound and not _is_deformed(self.evidence, node)
        return node.op != "call_function" or promised

    def breaks(self, node: fx.Node) -> bool:
        if self.known(node) is not None:
            return not self.known(node)
        return self.evidence.of(node).kind == "none" or _is_deformed(self.evidence, node)

    def is_explained(self, node: fx.Node) -> bool:
        """By the fits, or because it moves as something does that needs none."""
        return self.is_sound(node) or moves_in_a_known_way(self.evidence, node)

    def is_odd(self, node: fx.Node) -> bool:
        few = self.evidence.of(node).kind == "undecided" and self.known(node) is None
        against = self.breaks(node) or (few and changes_length(self.evidence, node))
        return against and not moves_in_a_known_way(self.evidence, node)

    def is_out_of_sight(self, node: fx.Node) -> bool:
        """Whole numbers and the like, made of what is explained."""
        return node.meta.get("value") is None and all(map(self.is_explained, node.all_input_nodes))

    def is_named(self, node: fx.Node) -> bool:
        """Because it moves as something does that needs no fit."""
        return node.op != "call_function" or bool(self.known(node)) or moves_in_a_known_way(self.evidence, node)


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
