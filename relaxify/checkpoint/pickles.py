"""Pickles read as data: what they would call is noted and never called, and what they may cost is bounded.

A pickle is a program for a stack machine. This machine knows the operations of protocols 2 to 5 that make plain values;
where pickle would import or call something it makes a `Global` or a `Call`, which `write_pickle` can write again.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from relaxify.record import CheckpointError

MAX_INTEGER_BYTES = 64
LONGEST_NAME = 100
OBJECTS_PER_CALL = 8
STOP = ord(".")


class TruncatedError(CheckpointError):
    """A pickle that ends before it is complete."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        name = f"{self.module}.{self.name}"
        return name if name.isprintable() and len(name) <= LONGEST_NAME else f"{name!r:.{LONGEST_NAME}}"


@dataclass(eq=False, slots=True)
class Call:
    """What a pickle would call: `function(*arguments)`, or the class's __new__; and what it would do to the result."""

    function: Global | Call
    arguments: tuple[Any, ...]
    new: bool = False
    state: tuple[Any, ...] = ()
    items: dict[Any, Any] = field(default_factory=dict)
    appended: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        """What is called, or what that is made by."""
        function = self.function
        while isinstance(function, Call):
            function = function.function
        return str(function)


@runtime_checkable
class Meaning(Protocol):
    """What is made of the parts of a pickle that are not plain values."""

    def named(self, name: Global) -> Any:
        """What a name stands for. CheckpointError if the pickle may not use it."""
        ...

    def called(self, call: Call) -> Any:
        """What a call stands for."""
        ...

    def persistent(self, key: Any) -> Any:
        """What the pickle says is kept outside of it, under this key."""
        ...


def read_pickle(data: bytes | bytearray, meaning: Meaning, *, begin: int = 0, most: int) -> tuple[Any, int]:
    """The value of the pickle that begins there, and where it ends. CheckpointError if it needs more than `most` objects."""
    machine = _Machine(data, meaning, begin, most)
    try:
        return machine.run(), machine.at
    except (IndexError, struct.error) as error:
        raise TruncatedError(
            "it is not a complete torch checkpoint (its pickle ends early); save or copy it again."
        ) from error
    except (KeyError, ValueError, TypeError, AttributeError, UnicodeDecodeError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise invalid(f"{type(error).__name__} in its pickle") from error


def invalid(why: str) -> CheckpointError:
    """What is said of a pickle that torch.save did not write."""
    return CheckpointError(f"it is not a complete torch checkpoint ({why}); save or copy it again.")


class _Machine:
    def __init__(self, data: bytes | bytearray, meaning: Meaning, begin: int, most: int) -> None:
        self.data, self.meaning, self.at, self.left = data, meaning, begin, most
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        data, operations = self.data, _OPERATIONS
        while True:
            code = data[self.at]
            self.at += 1
            if code == STOP:
                return self.stack.pop()
            operation = operations[code]
            if operation is None:
                raise invalid(f"operation {code:#x} in its pickle")
            operation(self)

    def take(self, count: int) -> bytes | bytearray:
        """The next bytes."""
        begin, self.at = self.at, self.at + count
        if count < 0 or self.at > len(self.data):
            raise IndexError
        return self.data[begin : self.at]

    def number(self, size: int) -> int:
        """The next bytes as an unsigned integer."""
        return int.from_bytes(self.take(size), "little")

    def byte(self) -> int:
        """The next byte."""
        self.at += 1
        return self.data[self.at - 1]

    def push(self, value: Any) -> None:
        """A new object, which counts."""
        self.left -= 1
        if self.left < 0:
            raise invalid("more objects in its pickle than its size allows for")
        self.stack.append(value)

    def popped(self) -> list[Any]:
        """What lies above the last mark, taken off."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def text(self, size: int) -> None:
        self.stack.append(self.take(size).decode("utf-8", "surrogatepass"))

    def bytes_(self, size: int) -> None:
        self.stack.append(bytes(self.take(size)))

    def integer(self, size: int) -> None:
        if size > MAX_INTEGER_BYTES:
            raise invalid(f"an integer of {size} bytes in its pickle")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def tuple_(self, count: int) -> None:
        values = tuple(self.stack[-count:])
        if len(values) < count:
            raise IndexError
        del self.stack[-count:]
        self.push(values)

    def line(self) -> str:
        end = self.data.index(b"\n", self.at)
        text = self.data[self.at : end].decode()
        self.at = end + 1
        return text

    def named(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise invalid("a name that is no text in its pickle")
        self.stack.append(self.meaning.named(Global(module, name)))

    def called(self, *, new: bool) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global | Call) or not isinstance(arguments, tuple):
            raise invalid("a call of what is no function in its pickle")
        result = self._called(Call(function, arguments, new))
        # with what may be done to its result, and what is noted of it
        self.left -= OBJECTS_PER_CALL if isinstance(result, Call) else 0
        self.push(result)

    def called_with_names(self) -> None:
        """A call of __new__ with named arguments, too."""
        named = self.stack.pop()
        self.stack[-1] = (*self.stack[-1], named)
        self.called(new=True)

    def _called(self, call: Call) -> Any:
        if call.function == ORDERED and not call.arguments:
            return OrderedDict()
        if call.function == ENCODE and call.arguments[1:] == ("latin1",):
            return call.arguments[0].encode("latin1")
        return self.meaning.called(call)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        mapping = target.items if isinstance(target, Call) else target
        if not isinstance(mapping, dict):
            raise invalid("items of what is no dictionary in its pickle")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            mapping[_key(key)] = value

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        elements = target.appended if isinstance(target, Call) else target
        if not isinstance(elements, list):
            raise invalid("elements of what is no list in its pickle")
        elements.extend(values)

    def add(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise invalid("elements of what is no set in its pickle")
        target.update(map(_key, values))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Call):
            target.state = (state,)
        elif isinstance(target, OrderedDict) and isinstance(state, dict) and state.keys() == {"_metadata"}:
            # the modules' versions, which state_dict() notes there
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]
        else:
            raise invalid("attributes of a plain value in its pickle")

    def frozen(self) -> None:
        self.push(frozenset(map(_key, self.popped())))


ORDERED = Global("collections", "OrderedDict")
ENCODE = Global("_codecs", "encode")
_SIMPLE = (str, int, float, bytes, type(None), Global, Call)


def _key(key: Any) -> Any:
    """Hashing a tuple of tuples can take for ever, so that keys are plain."""
    if not isinstance(key, _SIMPLE) and not (isinstance(key, tuple) and all(isinstance(part, _SIMPLE) for part in key)):
        raise invalid(f"a {type(key).__name__} as a key in its pickle")
    return key


def _pair(machine: _Machine) -> list[Any]:
    value, key = machine.stack.pop(), machine.stack.pop()
    return [key, value]


def _named_on_stack(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.named(module, name)


def _skip(machine: _Machine, count: int) -> None:
    machine.take(count)


def _float(machine: _Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


_BY_CODE: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda m: _skip(m, 1),
    b"\x95": lambda m: _skip(m, 8),
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.stack.append(()),
    b"\x8f": lambda m: m.push(set()),
    b"\x91": _Machine.frozen,
    b"N": lambda m: m.stack.append(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"K": lambda m: m.stack.append(m.byte()),
    b"M": lambda m: m.stack.append(m.number(2)),
    b"J": lambda m: m.integer(4),
    b"\x8a": lambda m: m.integer(m.byte()),
    b"\x8b": lambda m: m.integer(m.number(4)),
    b"G": _float,
    b"X": lambda m: m.text(m.number(4)),
    b"\x8c": lambda m: m.text(m.byte()),
    b"\x8d": lambda m: m.text(m.number(8)),
    b"T": lambda m: m.text(m.number(4)),
    b"U": lambda m: m.text(m.byte()),
    b"B": lambda m: m.bytes_(m.number(4)),
    b"C": lambda m: m.bytes_(m.byte()),
    b"\x8e": lambda m: m.bytes_(m.number(8)),
    b"\x96": lambda m: m.stack.append(bytearray(m.take(m.number(8)))),
    b"q": lambda m: m.remember(m.byte()),
    b"r": lambda m: m.remember(m.number(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.stack.append(m.memo[m.byte()]),
    b"j": lambda m: m.stack.append(m.memo[m.number(4)]),
    b"t": lambda m: m.push(tuple(m.popped())),
    b"\x85": lambda m: m.tuple_(1),
    b"\x86": lambda m: m.tuple_(2),
    b"\x87": lambda m: m.tuple_(3),
    b"s": lambda m: m.set_items(_pair(m)),
    b"u": lambda m: m.set_items(m.popped()),
    b"a": lambda m: m.append([m.stack.pop()]),
    b"e": lambda m: m.append(m.popped()),
    b"\x90": lambda m: m.add(m.popped()),
    b"c": lambda m: m.named(m.line(), m.line()),
    b"\x93": _named_on_stack,
    b"R": lambda m: m.called(new=False),
    b"\x81": lambda m: m.called(new=True),
    b"\x92": _Machine.called_with_names,
    b"b": _Machine.build,
    b"Q": lambda m: m.push(m.meaning.persistent(m.stack.pop())),
}
_OPERATIONS: list[Callable[[_Machine], None] | None] = [_BY_CODE.get(bytes([code])) for code in range(256)]
