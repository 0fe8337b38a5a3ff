"""The header of a safetensors file, with every rule of the format checked before any tensor is read."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import torch

from relaxify.checkpoint.source import Source, other_kind
from relaxify.record import CheckpointError

METADATA = "__metadata__"
# the library's own bound
LARGEST = 100_000_000
BYTES_PER_OBJECT = 12
# the format's name, torch's name, and bits of one entry
DTYPES: dict[str, tuple[str, int]] = {
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F6_E2M3": ("", 6),
    "F6_E3M2": ("", 6),
    "F4": ("float4_e2m1fn_x2", 4),
    "C64": ("complex64", 64),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
}
NAMES = {getattr(torch, name): ours for ours, (name, _) in DTYPES.items() if name and hasattr(torch, name)}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: its dtype, its shape, and its first byte in the file and the one after its last."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(source: Source) -> tuple[dict[str, Entry], dict[str, str] | None]:
    """All tensors, in order, and the metadata. CheckpointError if a safetensors reader would not take the file."""
    if source.length < 8:
        raise _invalid("it has fewer than 8 bytes")
    if (other := other_kind(source)) is not None:
        raise _invalid(other)
    (size,) = struct.unpack("<Q", source.fetch(0, 8))
    if size > min(LARGEST, source.length - 8):
        raise _invalid(f"its header has {size:,} bytes")
    text = source.fetch(8, size)
    # an empty object takes two bytes here, and thirty times as many in memory
    if text.count(b"{") + text.count(b"[") > size // BYTES_PER_OBJECT + 1:
        raise _invalid("its header has more objects than its size allows for")
    document = _document(text)
    metadata = document.pop(METADATA, None)
    if metadata is not None and not _is_text(metadata):
        raise _invalid("its metadata are not texts")
    entries = {check_key(key): _entry(key, value, 8 + size) for key, value in document.items()}
    _check_places(entries, 8 + size, source.length)
    return entries, metadata


def in_torch(key: str, name: str, shape: tuple[int, ...]) -> tuple[torch.dtype, tuple[int, ...]]:
    """The dtype and shape to compute with. CheckpointError if this version of torch has none.

    torch counts numbers of 4 bits in pairs along the last axis.
    """
    found, bits = getattr(torch, DTYPES[name][0], None), DTYPES[name][1]
    if not isinstance(found, torch.dtype) or (bits < 8 and (not shape or shape[-1] % 2)):
        raise CheckpointError(f"{key} has the dtype {name}, which a .pt file cannot hold; write a .safetensors.")
    return found, shape if bits >= 8 else (*shape[:-1], shape[-1] // 2)


def in_safetensors(key: str, dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The same the other way. CheckpointError if safetensors have no such dtype."""
    name = NAMES.get(dtype)
    if name is None or (DTYPES[name][1] < 8 and not shape):
        raise CheckpointError(f"{key} is a tensor ({dtype}) that safetensors cannot hold; write a .pt.")
    return name, shape if DTYPES[name][1] >= 8 else (*shape[:-1], 2 * shape[-1])


def check_key(key: object) -> str:
    """CheckpointError if safetensors cannot hold a tensor of that name."""
    if not isinstance(key, str):
        raise CheckpointError(f"it has the key {key!r:.80}; safetensors hold names only: rename it, or write a .pt.")
    if key == METADATA:
        raise CheckpointError(f"a tensor is called {METADATA}, which has another meaning in safetensors; write a .pt.")
    if not _is_unicode(key):
        raise CheckpointError(f"the key {key!r:.80} is no valid Unicode, which safetensors need; rename it, or write a .pt.")
    return key


def _document(text: bytearray) -> dict[str, Any]:
    try:
        document = json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid("its header is not JSON with every key once") from error
    if not isinstance(document, dict):
        raise _invalid("its header is no JSON object")
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _entry(key: str, value: Any, start: int) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _invalid(f"{key!r:.80} has not the fields dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _invalid(f"{key!r:.80} has the unknown dtype {dtype!r:.40}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _invalid(f"{key!r:.80} has no shape or no place")
    bits, (begin, end) = DTYPES[dtype][1] * math.prod(shape), offsets
    if bits % 8 or bits // 8 != end - begin:
        raise _invalid(f"{key!r:.80} has {end - begin} bytes, which do not fit its shape")
    return Entry(dtype, tuple(shape), start + begin, start + end)


def _check_places(entries: dict[str, Entry], start: int, length: int) -> None:
    """The tensors lie one after the other, without gaps or overlaps, and end with the file."""
    at = start
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise _invalid(f"{key!r:.80} does not begin where the tensor before it ends")
        at = entry.end
    if at != length:
        raise _invalid(f"its tensors end at byte {at:,} and it has {length:,}")


def _are_sizes(value: Any) -> bool:
    # math.prod of long lists of large numbers takes long
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**60 for size in value)
    )


def _is_text(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(
        isinstance(value, str) and _is_unicode(key) and _is_unicode(value) for key, value in metadata.items()
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _invalid(why: str) -> CheckpointError:
    return CheckpointError(f"it is not a complete safetensors file ({why}); save or copy it again.")
