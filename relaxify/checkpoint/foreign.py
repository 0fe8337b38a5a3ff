"""What in a checkpoint only code could make again: paths, dates, namespaces, objects of the user's classes.

It is left out by name, for no code is run, and the rest is kept. A place in a list stays, empty; of a dictionary or list of
a class of its own stays the plain one, of a tensor with a class or attributes of its own the tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from relaxify.checkpoint.pickles import Call, Global
from relaxify.checkpoint.pickling import MAX_DEPTH
from relaxify.checkpoint.storages import Meanings, makes_plain_values
from relaxify.checkpoint.tree import FROM_TYPE, PARAMETER, Where, name_of, tensor_of
from relaxify.record import CheckpointError

_LEFT_OUT = object()
_CONTAINERS = (dict, list, tuple, set, frozenset, Call)


def without_foreign(content: Any, meanings: Meanings) -> tuple[Any, tuple[str, ...]]:
    """A pickle's content without all that is not plain, and the names of that. CheckpointError if nothing stays."""
    if meanings.is_plain:
        return content, ()
    alive, foreign = _find_foreign(content)
    rest = _Rest(foreign)
    kept = rest.of(content, ())
    if kept is _LEFT_OUT:
        raise _nothing_stays(content, has_terms=any(map(_is_of_terms, alive)))
    # an object that is gone leaves its id to another
    del alive
    return kept, tuple(rest.left_out)


def _find_foreign(content: Any) -> tuple[list[Any], set[int]]:
    """All that is in a value, and the ids of what has a name in it that makes nothing plain, however deep."""
    alive, parents, seen = [content], defaultdict[int, list[int]](list), {id(content)}
    pending = [id(content)] if isinstance(content, Global) and not makes_plain_values(content) else []
    for item in alive:
        for part in _parts(item):
            if isinstance(part, Global) and not makes_plain_values(part):
                pending.append(id(item))
            elif isinstance(part, _CONTAINERS) and part:
                parents[id(part)].append(id(item))
                if id(part) not in seen:
                    seen.add(id(part))
                    alive.append(part)
    foreign: set[int] = set()
    while pending:
        if (found := pending.pop()) not in foreign:
            foreign.add(found)
            pending += parents[found]
    return alive, foreign


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Call):
        yield from (value.function, value.arguments, value.items, value.appended, value.state)
    elif isinstance(value, dict):
        yield from (*value, *value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value


@dataclass(frozen=True)
class _Rest:
    """What stays of each value, with the names of what does not; what was one value stays one."""

    foreign: set[int]
    left_out: list[str] = field(default_factory=list)
    found: dict[int, Any] = field(default_factory=dict)

    def of(self, value: Any, where: Where) -> Any:
        if not self._is_foreign(value):
            return value
        if len(where) > MAX_DEPTH:
            raise CheckpointError(f"it is nested in more than {MAX_DEPTH} levels; save the model's state_dict alone.")
        if id(value) not in self.found:
            self.found[id(value)] = self._of(value, where)
        stays = self.found[id(value)]
        if stays is _LEFT_OUT:
            self.left_out.append(name_of(where))
        return stays

    def _is_foreign(self, value: Any) -> bool:
        """Whether something in a value is not plain."""
        return id(value) in self.foreign if isinstance(value, _CONTAINERS) else not _is_plain(value)

    def _of(self, value: Any, where: Where) -> Any:
        if isinstance(value, dict):
            return self._entries(value, where)
        if isinstance(value, list):
            return self._elements(value, where)
        if isinstance(value, tuple):
            return tuple(self._elements(list(value), where))
        return self._call(value, where) if isinstance(value, Call) else _LEFT_OUT

    def _entries(self, entries: dict[Any, Any], where: Where) -> dict[Any, Any]:
        # it may contain itself
        self.found[id(entries)] = entries
        for key, value in list(entries.items()):
            here = (*where, key)
            stays = self.of(value, here)
            if self._is_foreign(key) and stays is not _LEFT_OUT:
                stays = _LEFT_OUT
                self.left_out.append(name_of(here))
            if stays is _LEFT_OUT:
                del entries[key]
            else:
                entries[key] = stays
        return entries

    def _elements(self, elements: list[Any], where: Where) -> list[Any]:
        self.found[id(elements)] = elements
        for index, value in enumerate(elements):
            stays = self.of(value, (*where, index))
            elements[index] = None if stays is _LEFT_OUT else stays
        return elements

    def _call(self, call: Call, where: Where) -> Any:
        if not any(map(self._is_foreign, (call.function, call.arguments, call.state))):
            self.found[id(call)] = call
            self._entries(call.items, where)
            self._elements(call.appended, where)
            return call
        if (tensor := _plain_tensor(call)) is not None:
            self.left_out.append(f"{name_of(where)} (but for its tensor)")
            return tensor
        stays: Any = call.items or call.appended
        if not stays:
            return _LEFT_OUT
        self.left_out.append(f"{name_of(where)} (its class {call})")
        self.found[id(call)] = stays
        # the plain dictionary or list of one of a class of its own
        return self._entries(stays, where) if isinstance(stays, dict) else self._elements(stays, where)


def _plain_tensor(call: Call) -> Any:
    """The plain tensor, of one with a class or attributes of its own."""
    if call.function == FROM_TYPE:
        return tensor_of(call)
    return None if tensor_of(call) is None else Call(PARAMETER, call.arguments[:3])


def _is_plain(value: Any) -> bool:
    return not isinstance(value, Global) or makes_plain_values(value)


def _is_of_terms(value: Any) -> bool:
    """Whether relaxify made it of one of its own classes."""
    return isinstance(value, Call) and any(
        isinstance(part, Global) and part.module.partition(".")[0] == "relaxify"
        for part in (value.function, *value.arguments)
    )


def _nothing_stays(content: Any, *, has_terms: bool) -> CheckpointError:
    state = content.state[0] if isinstance(content, Call) and content.state else None
    if isinstance(state, dict) and {"_modules", "_parameters"} <= state.keys():
        return CheckpointError(
            f"it is a whole pickled model ({content}), which only its code can read; load it where that is installed, and "
            f"save {'relaxify.project(model)' if has_terms else 'its state_dict (it has no terms)'}."
        )
    return CheckpointError(
        f"reading it would run code ({content}), which convert never does; save the model's state_dict alone."
    )
