"""A note in a checkpoint: what else of it has to change, where a framework's training module has been relaxed.

Such a module saves more than a state dict: by what class it is made again, with which arguments, and averages of its
parameters that are numbered and not named. Only its code knows where these are, so it writes that down where it saves; here
it is read as data, for what converts the checkpoint runs nobody's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.tree import others, tensor_of
from relaxify.record import CheckpointError

KEY = "relaxify"
FORMAT = "relaxify/note/1"
Where = tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """What becomes of the rest of a checkpoint when its terms go.

    - `state_dict`: where the module's state dict is; `parameters` names its parameters in it, in order.
    - `averages`: what the keys of the parameters' averages begin with, in the same state dict, before their numbers.
    - `replaced`: entries, by the keys that lead to them, and what stands there in the plain module's checkpoint.
    - `removed`: entries that the plain module's checkpoint has not.

    >>> note = Note(("state_dict",), ("net.weight",), None, (), (("hyper_parameters", "relaxation"),))
    >>> Note.read({"relaxify": note.written()}) == note
    True
    """

    state_dict: Where
    parameters: tuple[str, ...]
    averages: str | None
    replaced: tuple[tuple[Where, str], ...]
    removed: tuple[Where, ...]

    def written(self) -> dict[str, Any]:
        """As plain data, to stand in a checkpoint under `KEY`."""
        return {
            "format": FORMAT,
            "state_dict": list(self.state_dict),
            "parameters": list(self.parameters),
            "averages": self.averages,
            "replaced": [[list(where), value] for where, value in self.replaced],
            "removed": [list(where) for where in self.removed],
        }

    @classmethod
    def read(cls, content: object) -> Note | None:
        """The note of a checkpoint, or None if it has none. CheckpointError if it is not valid."""
        found = content.get(KEY) if isinstance(content, dict) else None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            return None
        try:
            return cls(
                _where(found["state_dict"]),
                _where(found["parameters"]),
                None if found["averages"] is None else _text(found["averages"]),
                tuple((_where(where), _text(value)) for where, value in found["replaced"]),
                tuple(map(_where, found["removed"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"what it notes under {KEY!r} is not valid; save the relaxed model again.") from error

    @property
    def averages_at(self) -> Where:
        """Where the averages are, by a name of their own."""
        return (*self.state_dict, (self.averages or "").partition(".")[0])

    def averaged(self, content: Any) -> dict[Any, Any] | None:
        """The state dict with the parameters' averages in their places, or None if it holds none."""
        mapping = _at(content, self.state_dict)
        if self.averages is None or not isinstance(mapping, dict):
            return None
        values = dict(zip(self.parameters, map(mapping.get, self.numbered(len(self.parameters))), strict=True))
        if any(tensor_of(value) is None or name not in mapping for name, value in values.items()):
            raise CheckpointError(
                f"it has no average {self.averages}N of each of its {len(values)} parameters; save the relaxed model again."
            )
        return self.without_averages(mapping) | values

    def without_averages(self, mapping: Mapping[Any, Any]) -> dict[Any, Any]:
        """The entries of a state dict that are the model's own."""
        begin = None if self.averages is None else f"{self.averages_at[-1]}."
        return {key: value for key, value in mapping.items() if begin is None or not str(key).startswith(begin)}

    def parameters_in(self, mapping: Mapping[Any, Any]) -> dict[Any, Any]:
        """The parameters alone, in order."""
        return {name: mapping[name] for name in self.parameters if name in mapping}

    def numbered(self, count: int) -> list[str]:
        """The keys of so many averages."""
        return [f"{self.averages}{number}" for number in range(count)]


@dataclass(frozen=True)
class Noted:
    """A note, and the averages that it tells of: the state dict with these in the parameters' places."""

    note: Note
    averaged: dict[Any, Any] | None

    @property
    def averages(self) -> Sequence[tuple[dict[Any, Any], Where]]:
        """The state dict of the averages and its place, if there are any."""
        return () if self.averaged is None else ((self.averaged, self.note.averages_at),)

    def others(self, content: Any, where: tuple[Any, ...]) -> Iterator[str]:
        """The names of everything in the checkpoint except the state dict at `where`."""
        own = {self.note.state_dict, *(at for _, at in self.averages)}
        yield from others(content, self.note.state_dict if where in own else where)
        yield from (".".join(at) for at in sorted(own - {where}) if where in own)

    def settle(self, content: Any, plans: Sequence[StatePlan]) -> None:
        """Change the rest of a checkpoint of whose state dicts the terms have been taken."""
        mapping = _at(content, self.note.state_dict)
        if self.averaged is not None and isinstance(mapping, dict):
            names = next((plan.renamed() for plan in plans if plan.state.where == self.note.averages_at), {})
            kept = [self.averaged[names[name]] for name in self.note.parameters if name in names]
            new = dict(zip(self.note.numbered(len(kept)), kept, strict=True))
            for key in self.note.numbered(len(self.note.parameters)):
                mapping.pop(key) if key not in new else mapping.update({key: new[key]})
        for where, value in self.note.replaced:
            if isinstance(parent := _at(content, where[:-1]), dict) and where[-1] in parent:
                parent[where[-1]] = value
        for where in (*self.note.removed, (KEY,)):
            if isinstance(parent := _at(content, where[:-1]), dict):
                parent.pop(where[-1], None)


def noted_in(content: Any) -> Noted | None:
    """What a checkpoint holds by its note, or None if it has none. CheckpointError if this is not valid."""
    note = Note.read(content)
    return None if note is None else Noted(note, note.averaged(content))


def _at(content: Any, where: Where) -> Any:
    for key in where:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _where(value: Any) -> Where:
    return tuple(_text(key) for key in _list(value))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
