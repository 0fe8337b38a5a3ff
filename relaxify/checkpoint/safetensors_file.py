"""safetensors files, read tensor by tensor and written in pieces, so that no more than one tensor is ever in memory.

A file is a little-endian uint64 (the header's length), a JSON header (per key: dtype, shape, where its bytes are) and
the bytes. The library validates what is read; tensors that stay as they are are copied as bytes, whatever their dtype.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from relaxify.checkpoint.container import Checkpoint, Piece
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.state import StateDict
from relaxify.record import CheckpointError

CHUNK = 4 * 1024**2


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

    @property
    def states(self) -> Sequence[StateDict]:
        return (self.state,)

    def whole(self, plans: Sequence[StatePlan]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        (plan,) = plans
        # anything but the format would be lost
        lost = () if self.metadata in (None, {"format": "pt"}) else ("__metadata__",)
        return OrderedDict((new, plan.load(key)) for key, new in plan.renamed().items()), lost

    def pieces(self, plans: Sequence[StatePlan]) -> tuple[Sequence[Piece], dict[str, str] | None, tuple[str, ...]]:
        (plan,) = plans
        return [self._piece(plan, key, new) for key, new in plan.renamed().items()], self.metadata, ()

    def _piece(self, plan: StatePlan, key: str, new_key: str) -> Piece:
        """An unchanged tensor is copied as it is, a folded one computed when its turn comes."""
        dtype, (begin, end) = self._header[key]["dtype"], self._header[key]["data_offsets"]
        piece = Piece(new_key, dtype, self.state.shapes[key], end - begin, begin, lambda: self._read(begin, end))
        return piece.of_loaded(lambda: plan.load(key)) if key in plan.targets else piece

    def _read(self, begin: int, end: int) -> Iterator[bytes]:
        self._file.seek(self._start + begin)
        for left in range(end - begin, 0, -CHUNK):
            yield self._file.read(min(CHUNK, left))


class SafetensorsContainer:
    """One state dict, which may have metadata."""

    suffixes: tuple[str, ...] = (".safetensors",)
    nested: bool = False

    def opened(self, path: Path) -> contextlib.AbstractContextManager[SafetensorsFile]:
        return open_safetensors(path)

    def written(
        self, checkpoint: Checkpoint, plans: Sequence[StatePlan]
    ) -> tuple[Callable[[BinaryIO], None], tuple[str, ...]]:
        pieces, metadata, lost = checkpoint.pieces(plans)
        return lambda file: write_pieces(file, pieces, metadata), lost

    def read(self, path: Path) -> dict[str, Tensor]:
        return load_file(path)


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
