"""Where a model breaks its symmetry: the first operation from which on its output no longer transforms."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import fx

from relaxify.evidence.evidence import Evidence
from relaxify.evidence.full_size import FullSize
from relaxify.evidence.generators import is_isometric
from relaxify.graph.contractions import function_name
from relaxify.graph.recording import written
from relaxify.verdicts.candidates import turns

EXACT = 1e-10
"""Of a value's size: what a constant dominates varies by little more."""

RECOVERED = 1e-9
"""Of a value's size: what was wrong and is no more is right up to rounding; a small fault only becomes smaller."""

_PARTS = frozenset(
    ["__getitem__", "getitem", "chunk", "split", "unbind", "narrow", "select", "index_select", "gather", "take_along_dim"]
)
"""Functions that return a part of a value."""


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
    evidence: Evidence,
    known: Callable[[fx.Node], bool | None] = lambda node: None,
    full_size: FullSize | None = None,
) -> Break | None:
    """The operation that breaks the symmetry, or None if every output of the model transforms linearly (or is undecided).

    A value may transform in no linear way for a while (a product of components, before it is summed): what counts is that
    nothing downstream of the break recovers. `known` says of a node whether it transforms as a layer's type promises, if
    there is such a promise. `full_size`: runs of a model whose output is known not to transform; then what the fits cannot
    tell is held to these.
    """
    fits = _Fits(evidence, known, is_broken=full_size is not None)
    if full_size is None:
        first = _first(evidence, fits.is_sound, fits.breaks, whole=False)
    else:
        runs, exact = (_Runs(fits, each) for each in (full_size, replace(full_size, tolerance=EXACT)))
        first = (
            _first(evidence, runs.is_sound, runs.breaks)
            or _first(evidence, runs.is_named, runs.is_unnamed)
            or _first(evidence, exact.is_named, exact.is_unnamed)
        )
    return None if first is None else Break(first, first.meta.get("module", ""), where(first), op_name(first))


def _first(
    evidence: Evidence, is_sound: Callable[[fx.Node], bool], breaks: Callable[[fx.Node], bool], *, whole: bool = True
) -> fx.Node | None:
    """The first that `breaks` among the outputs that do, or all (`whole`), and what they are made of that is not sound.

    But for what the model recovers from elsewhere: coordinates in a frame of each edge's own, before they are turned back.
    """
    order = {node: i for i, node in enumerate(evidence.nodes)}
    outputs = evidence.nodes[-1].all_input_nodes
    waiting = [node for node in outputs if breaks(node)] or [node for node in outputs if whole and not is_sound(node)]
    suspects: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        suspects.add(node)
        sources = node.all_input_nodes or _out_of_sight(evidence, node)
        waiting += [source for source in sources if source not in suspects and not is_sound(source)]
    broken = sorted(filter(breaks, suspects), key=order.__getitem__)
    recovered: set[fx.Node] = set()
    lasting = []
    for node in broken:
        if _is_recovered_from(evidence, node, is_sound):
            recovered.add(node)
        elif _is_passed_on(node, recovered, is_sound):
            lasting.append(node)
        else:
            return node
    return next(iter(lasting or broken), None)


def _is_recovered_from(evidence: Evidence, node: fx.Node, is_sound: Callable[[fx.Node], bool]) -> bool:
    """Whether something that moves as it should is made of a value, with nothing between them that does."""
    waiting, seen = [node], {node}
    while waiting:
        for user in (user for user in waiting.pop().users if user not in seen and user.op == "call_function"):
            seen.add(user)
            if not is_sound(user):
                waiting.append(user)
            elif _recovers(evidence, user):
                return True
    return False


def _is_passed_on(node: fx.Node, recovered: Collection[fx.Node], is_sound: Callable[[fx.Node], bool]) -> bool:
    """Whether all that is wrong with a value is that of others from which the model recovers elsewhere."""
    wrong = [source for source in node.all_input_nodes if not is_sound(source)]
    return bool(wrong) and all(source in recovered for source in wrong)


def _recovers(evidence: Evidence, node: fx.Node) -> bool:
    """Whether a value moves as a representation does, up to rounding.

    What is invariant says nothing, as a length does not of a sign that was lost; nor does a part of a value, which may have
    been none of what is wrong with the others.
    """
    found = evidence.of(node)
    return found.kind == "linear" and found.residual < RECOVERED and function_name(node.target) not in _PARTS


def _out_of_sight(evidence: Evidence, node: fx.Node) -> list[fx.Node]:
    """What a value may have been made of where nothing was seen (numpy, an extension): what came before and is not read."""
    if "held" not in node.meta or node in evidence.constants:
        return []
    before = itertools.takewhile(lambda each: each is not node, evidence.nodes)
    return [each for each in before if each.op == "call_function" and not each.users and evidence.is_seen(each)]


@dataclass(frozen=True)
class _Fits:
    """What a layer's promise says of a value, or else the fits."""

    evidence: Evidence
    known: Callable[[fx.Node], bool | None]
    is_broken: bool

    def is_sound(self, node: fx.Node) -> bool:
        return node.op != "call_function" or bool(self.known(node)) or self._transforms(node)

    def breaks(self, node: fx.Node) -> bool:
        if self.known(node) is not None:
            # what transforms otherwise than promised, with another parity say, breaks only what it is combined with
            return not self.is_sound(node)
        return self.evidence.of(node).kind == "none" or self._is_odd(node)

    def _transforms(self, node: fx.Node) -> bool:
        return self.evidence.of(node).is_sound and not self._is_odd(node)

    def _is_odd(self, node: fx.Node) -> bool:
        return _is_deformed(self.evidence, node) or (self.is_broken and _has_lost_a_sign(self.evidence, node))


@dataclass(frozen=True)
class _Runs:
    """What runs on full-size elements say besides."""

    fits: _Fits
    full_size: FullSize

    def is_sound(self, node: fx.Node) -> bool:
        return self.is_named(node) or (self.fits.is_sound(node) and not self.full_size.changes_length(node))

    def breaks(self, node: fx.Node) -> bool:
        """By the fits, or because its length changes, and because it moves in no way that is known."""
        runs = self.full_size
        against = self.fits.breaks(node) or runs.changes_length(node) or runs.is_beyond_fits(node)
        return against and not self.is_named(node)

    def is_named(self, node: fx.Node) -> bool:
        if node.op != "call_function" or self.fits.known(node) is not None:
            return node.op != "call_function" or bool(self.fits.known(node))
        found = self.full_size.moves_in_a_known_way(node)
        return self.fits.is_sound(node) if found is None else found

    def is_unnamed(self, node: fx.Node) -> bool:
        return not self.is_named(node) and self.full_size.values(node) is not None


def _is_deformed(evidence: Evidence, node: fx.Node) -> bool:
    """Whether a value transforms by W M(g) W^-1, as what is stretched or mixed with a fixed matrix does.

    It still transforms, but not as what it is combined with later.
    """
    actions = evidence.of(node).actions
    return evidence.group.compact and actions is not None and not is_isometric(evidence.group, actions)


def _has_lost_a_sign(evidence: Evidence, node: fx.Node) -> bool:
    """Whether turns take a value to its negative; see `has_lost_a_sign` of verdicts."""
    group, actions = evidence.group, evidence.of(node).actions
    if actions is None:
        return False
    minus = -torch.eye(actions.shape[-1], dtype=actions.dtype)
    return any(torch.allclose(actions[len(group.generators) + turn], minus, atol=1e-6) for turn in turns(group))


def op_name(node: fx.Node) -> str:
    """The name of the function that a node calls, or that returned the tuple of which it is one item."""
    if node.target is operator.getitem and node.all_input_nodes and node.all_input_nodes[0].meta.get("value") is None:
        node = node.all_input_nodes[0]
    if node.target is written and node.all_input_nodes:
        return op_name(node.all_input_nodes[-1])
    name = function_name(node.target)
    # of x.real, the attribute that is read
    return str(getattr(node.target, "__self__").__name__) if name == "__get__" else name  # noqa: B009


def where(node: fx.Node) -> str:
    """file:line of the statement that ran a node."""
    return str(node.meta.get("location") or node.name)
