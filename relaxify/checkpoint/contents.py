"""What is in a checkpoint file, as data: tensors and their sizes, terms and their theta, and the rest.

Of the tensors nothing is read but the records and the thetas.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaxify.checkpoint.container import state_dicts
from relaxify.checkpoint.formats import opened
from relaxify.checkpoint.state import StateDict, StoredTerm
from relaxify.checkpoint.terms import find_terms, is_term_key
from relaxify.modules.hanging import key_of
from relaxify.record import CheckpointError

FORMAT = "relaxify-contents/1"


@dataclass(frozen=True)
class TensorContents:
    """One tensor; `size` in bytes. `same_as` is an earlier key of the same memory, `of_term` whether it is a term's."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    same_as: str | None = None
    of_term: bool = False


@dataclass(frozen=True)
class TermContents:
    """One term, at a `path` in the file, of the layer at `site` in the model that was relaxed.

    `rank` is None of a dense W; `unfoldable` says why its layer can take over nothing of it, if so.
    """

    path: str
    site: str
    theta: float
    group: str
    adapter: str
    op: str
    rep_in: str
    rep_out: str
    parameters: int
    rank: int | None
    unfoldable: str | None
    format: str


@dataclass(frozen=True)
class StateContents:
    """One state dict, and the keys that lead to it. `problem` says why its terms could not be read, if so."""

    where: tuple[Any, ...]
    tensors: tuple[TensorContents, ...]
    terms: tuple[TermContents, ...]
    problem: str | None = None

    @property
    def name(self) -> str:
        return ".".join(map(str, self.where))

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(term.group for term in self.terms))

    @property
    def formats(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(term.format for term in self.terms))

    def totals(self, *, of_terms: bool | None = None) -> Totals:
        """Of all its tensors, or of those that are terms' or that are not."""
        return Totals.of(each for each in self.tensors if of_terms is None or each.of_term is of_terms)


@dataclass(frozen=True)
class Totals:
    """How many tensors, entries and bytes, in all and by dtype; what shares memory counts once."""

    tensors: int
    entries: int
    size: int
    by_dtype: dict[str, int]

    @classmethod
    def of(cls, tensors: Iterable[TensorContents]) -> Totals:
        found = list(tensors)
        once = [each for each in found if each.same_as is None]
        by_dtype: Counter[str] = Counter()
        for each in once:
            by_dtype[each.dtype] += each.size
        entries = sum(math.prod(each.shape) for each in once)
        return cls(len(found), entries, sum(by_dtype.values()), dict(by_dtype.most_common()))


@dataclass(frozen=True)
class Contents:
    """What `contents` found: `kind` is the kind of file in words, `size` its bytes, `rest` what else it holds, by name."""

    path: Path
    kind: str
    size: int
    states: tuple[StateContents, ...]
    rest: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data under the key `format`: "relaxify-contents/1"."""
        states = [
            {**dataclasses.asdict(state), "where": list(map(str, state.where)), "totals": dataclasses.asdict(state.totals())}
            for state in self.states
        ]
        plain = {"path": str(self.path), "kind": self.kind, "size": self.size, "rest": dict(self.rest)}
        return {"format": FORMAT, **plain, "states": states}


def contents(path: Path | str) -> Contents:
    """What is in a checkpoint. CheckpointError if it cannot be read."""
    with opened(Path(path)) as (found, checkpoint):
        states = tuple(map(_state, state_dicts(checkpoint)))
        described = checkpoint.described()
        size = sum(source.length for source in checkpoint.sources)
        return Contents(found, described.kind, size, states, described.rest)


def _state(state: StateDict) -> StateContents:
    try:
        terms, problem = find_terms(state), None
    except CheckpointError as error:
        terms, problem = (), str(error)
    keys = {key for term in terms for key in term.own_keys()}
    return StateContents(state.where, _tensors(state, keys), tuple(map(_term, terms)), problem)


def _tensors(state: StateDict, of_terms: set[str]) -> tuple[TensorContents, ...]:
    return tuple(_tensor(state, key, of_term=key in of_terms or (not of_terms and is_term_key(key))) for key in state.shapes)


def _tensor(state: StateDict, key: str, *, of_term: bool) -> TensorContents:
    stored, first = state.stored(key), state.same_as.get(key, key)
    return TensorContents(
        key, stored.dtype, tuple(state.shapes[key]), stored.data.size, None if first == key else first, of_term
    )


def _term(term: StoredTerm) -> TermContents:
    record, shapes = term.record, [term.state.shapes[key] for key in term.weight_keys]
    return TermContents(
        path=term.path,
        site=record.path,
        theta=term.theta(),
        group=record.group,
        adapter=record.adapter,
        op=record.op,
        rep_in="+".join(map(str, record.rep_in)),
        rep_out="+".join(map(str, record.rep_out)),
        parameters=sum(map(math.prod, shapes)),
        rank=shapes[0][1] if len(shapes) > 1 else None,
        unfoldable=None if record.is_foldable else record.unfoldable or "its layer's parameters express none of it",
        format=_format(term),
    )


def _format(term: StoredTerm) -> str:
    """What the record says, of which `find_terms` has found that it is one."""
    tensor = term.state.load(key_of(term.prefix, "_extra_state"))
    return str(json.loads(tensor.numpy().tobytes())["format"])
