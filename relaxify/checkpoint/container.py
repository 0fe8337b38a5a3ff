"""What a kind of checkpoint file offers: its state dicts, and its clean contents, whole or tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from relaxify.checkpoint.copying import Copy
from relaxify.checkpoint.data import Data
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.source import Source
from relaxify.checkpoint.state import StateDict
from relaxify.record import CheckpointError


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a file to write, row by row: its dtype (as safetensors name it), its bytes, its place among these."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    data: Data
    rank: int


@dataclass(frozen=True)
class Description:
    """What kind of file it is, in words, and what it holds besides tensors in state dicts, by name."""

    kind: str
    rest: tuple[tuple[str, str], ...]


@runtime_checkable
class Checkpoint(Protocol):
    """An open file. Once planned for, its clean contents are had in one of two forms, each with names of what it lacks."""

    @property
    def sources(self) -> Sequence[Source]:
        """The files that are read; none may change before the output is in its place."""
        ...

    @property
    def states(self) -> Sequence[StateDict]:
        """The state dicts that may hold terms."""
        ...

    def weights(self) -> Iterator[StateDict]:
        """Every mapping from names to tensors alone, outermost first."""
        ...

    def chosen(self, key: str) -> Checkpoint:
        """The same, as if it held the state dict at or below `key` alone. CheckpointError unless there is one."""
        ...

    def described(self) -> Description:
        """What it is, for people."""
        ...

    def whole(self, plans: Sequence[StatePlan]) -> tuple[Any, tuple[str, ...]]:
        """All that the file held, state dicts nested as they were, with tensors that are `TorchTensor`s."""
        ...

    def pieces(self, plans: Sequence[StatePlan]) -> tuple[Sequence[Piece], dict[str, str] | None, tuple[str, ...]]:
        """The one state dict tensor by tensor, and metadata. CheckpointError if there are several."""
        ...


def state_dicts(checkpoint: Checkpoint) -> list[StateDict]:
    """Every state dict, with terms or without, outermost first."""
    found = {state.where: state for state in (*checkpoint.weights(), *checkpoint.states)}
    return sorted(found.values(), key=lambda state: len(state.where))


@runtime_checkable
class Container(Protocol):
    """A kind of file. `nested` says whether it can hold state dicts inside of other things."""

    suffixes: tuple[str, ...]
    nested: bool

    def opened(self, path: Path) -> AbstractContextManager[Checkpoint]:
        """The file, open until the context ends. CheckpointError if it is not valid, or has changed by then."""
        ...

    def written(self, checkpoint: Checkpoint, plans: Sequence[StatePlan]) -> tuple[Callable[[Copy], None], tuple[str, ...]]:
        """What writes the clean checkpoint to a file of this kind, and the names of what that will lack."""
        ...


def not_nested(key: str) -> CheckpointError:
    """What is said to one who asks for a state dict by its key where there is one alone."""
    return CheckpointError(
        f"the key {key!r} is given, but it holds one state dict alone; leave the key out, or give {key + '.'!r} as a prefix."
    )
