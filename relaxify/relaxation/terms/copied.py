"""Copies of a relaxed model that a loop makes averages of its weights: their theta is the model's, whatever the loop wrote.

A copy is known as an average by this: its weights have changed since it was made or loaded, though it was not trained
itself, and nobody has set its theta. All other copies keep the theta that they have.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from relaxify.modules.sharding import is_dtensor
from relaxify.relaxation.sketch import Sketch


@runtime_checkable
class Copied(Protocol):
    """What of a term has to be known here."""

    theta: Tensor
    sketch: Sketch
    finished: bool

    @property
    def weight_keys(self) -> tuple[str, ...]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


class Copy:
    """The terms of one copy of a model, with those that they are copies of, and what their weights were."""

    def __init__(self) -> None:
        self.sources: weakref.WeakKeyDictionary[Copied, weakref.ref[Copied]] = weakref.WeakKeyDictionary()
        self.before: weakref.WeakKeyDictionary[Copied, tuple[Tensor, int]] = weakref.WeakKeyDictionary()

    @property
    def is_average(self) -> bool:
        terms = list(self.sources)
        if any(term.finished or term.sketch.updates != self.before[term][1] for term in terms):
            return False
        return any(not torch.equal(_sums(term), self.before[term][0]) for term in terms)


_COPIES: weakref.WeakKeyDictionary[Copied, Copy] = weakref.WeakKeyDictionary()


def note_copy(twin: Copied, source: Copied, memo: dict[Any, Any]) -> None:
    """That `twin` is a copy of `source`, in the copying that `memo` belongs to."""
    if any(is_dtensor(weight) or weight.is_meta for weight in twin.parameters()):
        return
    copy: Copy = memo.setdefault(Copy, Copy())
    copy.sources[twin] = weakref.ref(source)
    _COPIES[twin] = copy
    note_load(twin)


def note_load(term: Copied) -> None:
    """That what a term has now is what was put there on purpose."""
    if (copy := _COPIES.get(term)) is not None:
        copy.before[term] = (_sums(term), term.sketch.updates)


def note_set(term: Copied) -> None:
    """That somebody has set theta of a copy's term: it is the copy's own."""
    if (copy := _COPIES.pop(term, None)) is not None:
        copy.sources.pop(term, None)


@torch.no_grad()
def follow(terms: Iterable[Copied]) -> None:
    """Give the terms of averages the theta of what they are averages of."""
    copies = {id(copy): copy for term in terms if (copy := _COPIES.get(term)) is not None}
    for copy in copies.values():
        if not copy.is_average:
            continue
        for term, of in copy.sources.items():
            if (source := of()) is not None:
                term.theta.copy_(source.theta)


def _sums(term: Copied) -> Tensor:
    """A number of each weight that differs once the weight does."""
    return torch.stack([getattr(term, key).detach().double().sum().cpu() for key in term.weight_keys])
