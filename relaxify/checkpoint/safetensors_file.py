"""safetensors files, read tensor by tensor and written in pieces, so that no more than one tensor is ever in memory.

A file is a little-endian uint64 (the header's length), a JSON header (per key: dtype, shape, where its bytes are) and
the bytes. The library validates what is read; tensors that stay as they are are copied as bytes, whatever their dtype.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from relaxify.checkpoint.state import StateDict
from relaxify.record import CheckpointError

CHUNK = 4 * 1024**2
_DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Piece:
    """One tensor of a file to write: its header entry, its place among the bytes, and its bytes, chunk by chunk."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    rank: int
    chunks: Callable[[], Iterator[bytes | memoryview]]

    @classmethod
    def of_tensor(cls, key: str, tensor: object) -> Piece:
        """A tensor in memory. CheckpointError if the format has no place for it."""
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{key} is a {type(tensor).__name__}; safetensors hold tensors only: write a .pt.")
        if tensor.dtype not in _DTYPES or tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(f"{key} is a tensor ({tensor.dtype}) that safetensors cannot hold; write a .pt.")
        width = tensor.element_size()
        # wide dtypes first, so that every tensor starts at a multiple of its own width
        return cls(key, _DTYPES[tensor.dtype], tuple(tensor.shape), width * tensor.numel(), -width, lambda: _bytes(tensor))

    def of_loaded(self, load: Callable[[], Tensor]) -> Piece:
        """The same entry with the bytes of what `load` returns when its turn comes."""
        return replace(self, chunks=lambda: _bytes(load()))


def write_pieces(file: BinaryIO, pieces: Sequence[Piece], metadata: dict[str, str] | None) -> None:
    """Write a safetensors file with its header in the order of `pieces` and its bytes in the order of their ranks."""
    placed = sorted(pieces, key=lambda piece: piece.rank)
    offsets, end = {}, 0
    for piece in placed:
        offsets[piece.key] = [end, end + piece.size]
        end += piece.size
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    for piece in pieces:
        header[piece.key] = {"dtype": piece.dtype, "shape": piece.shape, "data_offsets": offsets[piece.key]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # the bytes start at a multiple of 8, so that readers can map them
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for piece in placed:
        file.writelines(piece.chunks())


@dataclass(frozen=True)
class SafetensorsFile:
    """An open, validated safetensors file."""

    state: StateDict
    metadata: dict[str, str] | None
    _header: dict[str, dict[str, Any]]
    _file: BinaryIO
    _start: int

    def piece(self, key: str, new_key: str) -> Piece:
        """The tensor under `key`, unchanged, to be written under another name."""
        dtype, (begin, end) = self._header[key]["dtype"], self._header[key]["data_offsets"]
        return Piece(new_key, dtype, self.state.shapes[key], end - begin, begin, lambda: self._read(begin, end))

    def _read(self, begin: int, end: int) -> Iterator[bytes]:
        self._file.seek(self._start + begin)
        for left in range(end - begin, 0, -CHUNK):
            yield self._file.read(min(CHUNK, left))


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[SafetensorsFile]:
    """Open a file for reading tensor by tensor. CheckpointError if the library finds it invalid."""
    with contextlib.ExitStack() as stack:
        try:
            tensors = stack.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            reason = str(error).removeprefix("Error while deserializing header: ")
            raise CheckpointError(f"it is not a complete safetensors file ({reason}); save or copy it again.") from error
        file = stack.enter_context(path.open("rb"))
        length = int(struct.unpack("<Q", file.read(8))[0])
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None)
        shapes = {key: tuple(entry["shape"]) for key, entry in header.items()}
        yield SafetensorsFile(StateDict(shapes, tensors.get_tensor), metadata, header, file, 8 + length)


def _bytes(tensor: Tensor) -> Iterator[memoryview]:
    yield tensor.detach().cpu().resolve_neg().contiguous().flatten().view(torch.uint8).numpy().data
