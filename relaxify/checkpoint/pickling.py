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
        if kind in _UNSHARED:
            _WRITERS[kind](self, value)
            return
        index = self.memo.get(value if kind in _BY_VALUE else id(value))
        if index is not None:
            self.out += b"h%c" % index if index < 256 else b"j" + struct.pack("<I", index)
            return
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CheckpointError(f"it is nested in more than {MAX_DEPTH} levels; save the model's state_dict alone.")
        write = _WRITERS.get(kind)
        if write is None:
            self.write(self.form(value))
            self.remember(value)
        else:
            write(self, value)
        self.depth -= 1

    def remember(self, value: Any) -> None:
        """Note that this value is what lies on the stack."""
        index = len(self.memo)
        self.memo[value if type(value) in _BY_VALUE else id(value)] = index
        # so that no other value gets this one's id
        self.kept.append(value)
        self.out += b"q%c" % index if index < 256 else b"r" + struct.pack("<I", index)

    def text(self, value: str) -> None:
        data = value.encode("utf-8", "surrogatepass")
        self.out += b"X" + struct.pack("<I", len(data)) + data
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
        if len(value) > 3:
            self.out += b"("
        for part in value:
            self.write(part)
        self.out += (b"\x85", b"\x86", b"\x87")[len(value) - 1] if len(value) <= 3 else b"t"
        self.remember(value)

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
        self.write(value.arguments)
        self.out += b"\x81" if value.new else b"R"
        self.remember(value)
        self.append(value.appended)
        self.items(value.items)
        if value.state:
            self.write(value.state[0])
            self.out += b"b"

    def persistent(self, value: Persistent) -> None:
        self.write(tuple(value))
        self.out += b"Q"

    def called(self, function: Global, *arguments: Any) -> None:
        """A plain value that protocol 2 has no operation for."""
        self.write(function)
        self.write(arguments)
        self.out += b"R"


_BY_VALUE = frozenset({str, Global})
_UNSHARED = frozenset({type(None), bool, int, float})
_WRITERS: dict[type, Callable[[_Writer, Any], None]] = {
    type(None): lambda writer, _: writer.out.extend(b"N"),
    bool: lambda writer, value: writer.out.extend(b"\x88" if value else b"\x89"),
    int: _Writer.number,
    float: lambda writer, value: writer.out.extend(b"G" + struct.pack(">d", value)),
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
