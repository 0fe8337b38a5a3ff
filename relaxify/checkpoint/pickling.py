"""Writing what `read_pickle` reads: plain values, names and calls, as a pickle of protocol 2, without importing any."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from relaxify.checkpoint.pickles import ENCODE, ORDERED, Call, Global
from relaxify.record import CheckpointError

MAX_DEPTH = 100
BATCH = 1000
# tuples up to these lengths are not noted in case that they occur again
MAX_SIZES, MAX_UNNOTED = 4, 8


class Persistent(tuple[Any, ...]):
    """The key of something that is kept outside of the pickle."""

    __slots__ = ()


Form = Callable[[Any], Any]
"""What stands for a value in the pickle: itself, a `Call`, or a `Persistent` key."""


def write_pickle(value: Any, form: Form) -> bytearray:
    """The pickle of a value. What occurs twice is written once. CheckpointError if it is nested too deeply."""
    writer = _Writer(form)
    writer.write(value)
    return writer.out + b"."


class _Writer:
    def __init__(self, form: Form) -> None:
        self.out = bytearray(b"\x80\x02")
        self.form = form
        self.memo: dict[Any, int] = {}
        self.kept: list[Any] = []
        self.depth = 0

    def write(self, value: Any) -> None:
        kind = type(value)
        if (plain := _UNSHARED.get(kind)) is not None:
            plain(self, value)
            return
        if kind is tuple and len(value) <= MAX_SIZES and {*map(type, value)} == _INTEGERS:
            # a tensor's sizes take hardly more than what recalls them
            self.parts(value)
            return
        index = self.memo.get(value if kind in _BY_VALUE else id(value))
        if index is not None:
            self.out += b"h%c" % index if index < 256 else _INDEXED(b"j", index)
            return
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CheckpointError(f"it is nested in more than {MAX_DEPTH} levels; save the model's state_dict alone.")
        write = _WRITERS.get(kind)
        if write is None:
            self.formed(value)
        else:
            write(self, value)
        self.depth -= 1

    def formed(self, value: Any) -> None:
        """What something else stands for; one that is noted itself need not be noted twice."""
        form = self.form(value)
        self.write(form)
        if (index := self.memo.get(id(form))) is None:
            self.remember(value)
        else:
            self.memo[id(value)] = index
            self.kept.append(value)

    def remember(self, value: Any) -> None:
        """Note that this value is what lies on the stack."""
        index = len(self.kept)
        self.memo[value if type(value) in _BY_VALUE else id(value)] = index
        # so that no other value gets this one's id
        self.kept.append(value)
        self.out += b"q%c" % index if index < 256 else _INDEXED(b"r", index)

    def text(self, value: str) -> None:
        data = value.encode("utf-8", "surrogatepass")
        self.out += _INDEXED(b"X", len(data)) + data
        self.remember(value)

    def number(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K%c" % value
        elif -(2**31) <= value < 2**31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a%c" % len(data) + data

    def sequence(self, value: tuple[Any, ...]) -> None:
        """A tuple; one that is in itself by way of a list ends at the greatest depth."""
        if not value:
            self.out += b")"
            return
        self.parts(value)
        self.remember(value)

    def parts(self, value: tuple[Any, ...]) -> None:
        if len(value) > 3:
            self.out += b"("
        for part in value:
            self.write(part)
        self.out += _TUPLES[min(len(value), 4)]

    def elements(self, value: list[Any]) -> None:
        self.out += b"]"
        self.remember(value)
        self.append(value)

    def append(self, values: list[Any]) -> None:
        for begin in range(0, len(values), BATCH):
            self.out += b"("
            for part in values[begin : begin + BATCH]:
                self.write(part)
            self.out += b"e"

    def mapping(self, value: dict[Any, Any]) -> None:
        self.out += b"}"
        self.remember(value)
        self.items(value)

    def ordered(self, value: OrderedDict[Any, Any]) -> None:
        self.write(ORDERED)
        self.out += b")R"
        self.remember(value)
        self.items(value)
        if hasattr(value, "_metadata"):
            self.write({"_metadata": value._metadata})
            self.out += b"b"

    def items(self, value: dict[Any, Any]) -> None:
        if not value:
            return
        pairs = list(value.items())
        for begin in range(0, len(pairs), BATCH):
            self.out += b"("
            for key, part in pairs[begin : begin + BATCH]:
                self.write(key)
                self.write(part)
            self.out += b"u"

    def named(self, value: Global) -> None:
        self.out += f"c{value.module}\n{value.name}\n".encode()
        self.remember(value)

    def call(self, value: Call) -> None:
        self.write(value.function)
        if 0 < len(value.arguments) <= MAX_UNNOTED:
            self.parts(value.arguments)
        else:
            self.write(value.arguments)
        self.out += b"\x81" if value.new else b"R"
        self.remember(value)
        if value.appended:
            self.append(value.appended)
        self.items(value.items)
        if value.state:
            self.write(value.state[0])
            self.out += b"b"

    def persistent(self, value: Persistent) -> None:
        self.parts(value)
        self.out += b"Q"

    def called(self, function: Global, *arguments: Any) -> None:
        """A plain value that protocol 2 has no operation for."""
        self.write(function)
        self.write(arguments)
        self.out += b"R"


_INDEXED = struct.Struct("<cI").pack
_TUPLES = (b"", b"\x85", b"\x86", b"\x87", b"t")
_BY_VALUE = frozenset({str, Global})
_INTEGERS = {int}
_UNSHARED: dict[type, Callable[[_Writer, Any], None]] = {
    type(None): lambda writer, _: writer.out.extend(b"N"),
    bool: lambda writer, value: writer.out.extend(b"\x88" if value else b"\x89"),
    int: _Writer.number,
    float: lambda writer, value: writer.out.extend(b"G" + struct.pack(">d", value)),
}
_WRITERS: dict[type, Callable[[_Writer, Any], None]] = {
    str: _Writer.text,
    bytes: lambda writer, value: writer.called(ENCODE, value.decode("latin1"), "latin1"),
    bytearray: lambda writer, value: writer.called(Global("builtins", "bytearray"), bytes(value)),
    set: lambda writer, value: writer.called(Global("builtins", "set"), list(value)),
    frozenset: lambda writer, value: writer.called(Global("builtins", "frozenset"), list(value)),
    tuple: _Writer.sequence,
    list: _Writer.elements,
    dict: _Writer.mapping,
    OrderedDict: _Writer.ordered,
    Global: _Writer.named,
    Call: _Writer.call,
    Persistent: _Writer.persistent,
}
