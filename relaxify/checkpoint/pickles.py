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


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        name = f"{self.module}.{self.name}"
        return name if name.isprintable() and len(name) <= LONGEST_NAME else f"{name!r:.{LONGEST_NAME}}"

    def __hash__(self) -> int:
        return hash(self.name)


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
        data, operations, at = self.data, _OPERATIONS, self.at
        while (code := data[at]) != STOP:
            operation = operations[code]
            if operation is None:
                raise invalid(f"operation {code:#x} in its pickle")
            at = operation(self, at + 1)
        self.at = at + 1
        return self.stack.pop()

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

    def tuple_(self, count: int) -> None:
        values = tuple(self.stack[-count:])
        if len(values) < count:
            raise IndexError
        del self.stack[-count:]
        self.push(values)

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
        if not call.arguments and call.function == ORDERED:
            return OrderedDict()
        if call.arguments[1:] == ("latin1",) and call.function == ENCODE:
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


_Operation = Callable[[_Machine, int], int]
"""What a code does, given where its argument begins; returns where the next code is."""


def _acting(act: Callable[[_Machine], object]) -> _Operation:
    """An operation without an argument."""

    def operation(machine: _Machine, at: int) -> int:
        act(machine)
        return at

    return operation


def _pushing(value: Any) -> _Operation:
    def operation(machine: _Machine, at: int) -> int:
        machine.stack.append(value)
        return at

    return operation


def _numbered(form: str, act: Callable[[_Machine, Any], object]) -> _Operation:
    """An operation on one number of a fixed size."""
    number = struct.Struct(form)

    def operation(machine: _Machine, at: int) -> int:
        act(machine, number.unpack_from(machine.data, at)[0])
        return at + number.size

    return operation


def _sized(form: str, value: Callable[[bytes | bytearray], Any]) -> _Operation:
    """What pushes a value of as many bytes as a number before them says."""
    number = struct.Struct(form)

    def operation(machine: _Machine, at: int) -> int:
        begin = at + number.size
        end = begin + number.unpack_from(machine.data, at)[0]
        if end > len(machine.data):
            raise IndexError
        machine.stack.append(value(machine.data[begin:end]))
        return end

    return operation


# of most pickles, these four are most of the codes
def _push_byte(machine: _Machine, at: int) -> int:
    machine.stack.append(machine.data[at])
    return at + 1


def _recall_by_byte(machine: _Machine, at: int) -> int:
    machine.stack.append(machine.memo[machine.data[at]])
    return at + 1


def _recall(machine: _Machine, at: int) -> int:
    machine.stack.append(machine.memo[_INDEX(machine.data, at)[0]])
    return at + 4


def _remember(machine: _Machine, at: int) -> int:
    machine.memo[_INDEX(machine.data, at)[0]] = machine.stack[-1]
    return at + 4


_INDEX = struct.Struct("<I").unpack_from


def _memoize(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _pair(machine: _Machine) -> list[Any]:
    value, key = machine.stack.pop(), machine.stack.pop()
    return [key, value]


def _named_on_stack(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.named(module, name)


def _named_in_lines(machine: _Machine, at: int) -> int:
    middle = machine.data.index(b"\n", at)
    end = machine.data.index(b"\n", middle + 1)
    machine.named(machine.data[at:middle].decode(), machine.data[middle + 1 : end].decode())
    return end + 1


def _text(data: bytes | bytearray) -> str:
    return data.decode("utf-8", "surrogatepass")


def _integer(data: bytes | bytearray) -> int:
    if len(data) > MAX_INTEGER_BYTES:
        raise invalid(f"an integer of {len(data)} bytes in its pickle")
    return int.from_bytes(data, "little", signed=True)


def _append_number(machine: _Machine, number: float) -> None:
    machine.stack.append(number)


_BY_CODE: dict[bytes, _Operation] = {
    b"\x80": _numbered("B", lambda m, _: None),
    b"\x95": _numbered("<Q", lambda m, _: None),
    b"(": _acting(lambda m: m.marks.append(len(m.stack))),
    b"}": _acting(lambda m: m.push({})),
    b"]": _acting(lambda m: m.push([])),
    b")": _pushing(()),
    b"\x8f": _acting(lambda m: m.push(set())),
    b"\x91": _acting(_Machine.frozen),
    b"N": _pushing(None),
    b"\x88": _pushing(True),
    b"\x89": _pushing(False),
    b"K": _push_byte,
    b"M": _numbered("<H", _append_number),
    b"J": _numbered("<i", _append_number),
    b"\x8a": _sized("B", _integer),
    b"\x8b": _sized("<I", _integer),
    b"G": _numbered(">d", _append_number),
    b"X": _sized("<I", _text),
    b"\x8c": _sized("B", _text),
    b"\x8d": _sized("<Q", _text),
    b"T": _sized("<I", _text),
    b"U": _sized("B", _text),
    b"B": _sized("<I", bytes),
    b"C": _sized("B", bytes),
    b"\x8e": _sized("<Q", bytes),
    b"\x96": _sized("<Q", bytearray),
    b"q": _numbered("B", _memoize),
    b"r": _remember,
    b"\x94": _acting(lambda m: _memoize(m, len(m.memo))),
    b"h": _recall_by_byte,
    b"j": _recall,
    b"t": _acting(lambda m: m.push(tuple(m.popped()))),
    b"\x85": _acting(lambda m: m.tuple_(1)),
    b"\x86": _acting(lambda m: m.tuple_(2)),
    b"\x87": _acting(lambda m: m.tuple_(3)),
    b"s": _acting(lambda m: m.set_items(_pair(m))),
    b"u": _acting(lambda m: m.set_items(m.popped())),
    b"a": _acting(lambda m: m.append([m.stack.pop()])),
    b"e": _acting(lambda m: m.append(m.popped())),
    b"\x90": _acting(lambda m: m.add(m.popped())),
    b"c": _named_in_lines,
    b"\x93": _acting(_named_on_stack),
    b"R": _acting(lambda m: m.called(new=False)),
    b"\x81": _acting(lambda m: m.called(new=True)),
    b"\x92": _acting(_Machine.called_with_names),
    b"b": _acting(_Machine.build),
    b"Q": _acting(lambda m: m.push(m.meaning.persistent(m.stack.pop()))),
}
_OPERATIONS: list[_Operation | None] = [_BY_CODE.get(bytes([code])) for code in range(256)]
