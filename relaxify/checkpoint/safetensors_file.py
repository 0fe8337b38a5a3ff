"""safetensors files, read tensor by tensor and written in pieces, so that no more than one tensor is ever in memory.

A file is a little-endian uint64 (the header's length), a JSON header (per key: dtype, shape, where its bytes are) and
the bytes. Tensors that stay as they are are copied as bytes, whatever their dtype.
"""

from __future__ import annotations

import contextlib
import functools
import json
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from relaxify.checkpoint.container import Checkpoint, Description, Piece, not_nested
from relaxify.checkpoint.copying import Copy
from relaxify.checkpoint.data import Made, View, contiguous_stride
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.safetensors_header import DTYPES, METADATA, Entry, check_key, in_safetensors, in_torch, read_header
from relaxify.checkpoint.source import Range, Source
from relaxify.checkpoint.state import StateDict, Stored
from relaxify.checkpoint.storages import TorchTensor, made_tensor, tensor_like

# among the ranks of a file's pieces
LAST = 2**62


def write_pieces(copy: Copy, pieces: Sequence[Piece], metadata: dict[str, str] | None) -> None:
    """Write a safetensors file with its header in the order of `pieces` and its bytes in the order of their ranks."""
    placed = sorted(pieces, key=lambda piece: piece.rank)
    offsets, end = {}, 0
    for piece in placed:
        offsets[piece.key] = [end, end + piece.data.size]
        end += piece.data.size
    header: dict[str, object] = {} if metadata is None else {METADATA: metadata}
    for piece in pieces:
        check_key(piece.key)
        header[piece.key] = {"dtype": piece.dtype, "shape": piece.shape, "data_offsets": offsets[piece.key]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # the bytes start at a multiple of 8, so that readers can map them
    text += b" " * (-len(text) % 8)
    copy.expect(8 + len(text) + end)
    copy.write(struct.pack("<Q", len(text)) + text)
    for piece in placed:
        copy.copy(piece.data)


def made_piece(key: str, tensor: Tensor) -> Piece:
    """Of a tensor in memory; behind what is copied, wide dtypes first."""
    data = Made(tensor.nbytes, lambda: tensor)
    return Piece(key, *in_safetensors(key, tensor.dtype, tuple(tensor.shape)), data, LAST - tensor.dtype.itemsize)


@dataclass(frozen=True)
class SafetensorsFile:
    """An open, validated safetensors file."""

    source: Source
    entries: dict[str, Entry]
    metadata: dict[str, str] | None

    @property
    def sources(self) -> Sequence[Source]:
        return (self.source,)

    @property
    def states(self) -> Sequence[StateDict]:
        shapes = {key: entry.shape for key, entry in self.entries.items()}
        size = self.source.length
        return (StateDict(shapes, lambda key: self._view(key).load(self._range(key)), self.stored, file_size=size),)

    def stored(self, key: str) -> Stored:
        name = self.entries[key].dtype
        return Stored(DTYPES[name][0] or name, self._range(key))

    def weights(self) -> Iterator[StateDict]:
        yield from self.states

    def chosen(self, key: str) -> Checkpoint:
        raise not_nested(key)

    def described(self) -> Description:
        return Description("safetensors", tuple((f"{METADATA}.{key}", text) for key, text in (self.metadata or {}).items()))

    def whole(self, plans: Sequence[StatePlan]) -> tuple[OrderedDict[str, TorchTensor], tuple[str, ...]]:
        (plan,) = plans
        # anything but the format would be lost
        lost = () if self.metadata in (None, {"format": "pt"}) else (METADATA,)
        kept = {new: self.tensor(plan, key) for key, new in plan.renamed().items()}
        return OrderedDict(plan.with_added(kept, made_tensor)), lost

    def pieces(self, plans: Sequence[StatePlan]) -> tuple[Sequence[Piece], dict[str, str] | None, tuple[str, ...]]:
        (plan,) = plans
        kept = {new: self.piece(plan, key, new) for key, new in plan.renamed().items()}
        return list(plan.with_added(kept, made_piece).values()), self._clean_metadata(plan), ()

    def _clean_metadata(self, plan: StatePlan) -> dict[str, str] | None:
        """Under the new names, without terms: save_model notes there which keys it left out, for which others."""
        if self.metadata is None:
            return None
        removed = {*plan.report.removed, *plan.left_out}
        noted = {key: text for key, text in self.metadata.items() if text in self.entries and key not in self.entries}
        rest = {key: text for key, text in self.metadata.items() if key not in noted}
        kept = {key: text for key, text in noted.items() if text not in removed}
        return rest | {plan.names.of(key) or key: plan.names.of(text) or text for key, text in kept.items()}

    def tensor(self, plan: StatePlan, key: str) -> TorchTensor:
        return tensor_like(self._data(plan, key), *self._in_torch(key), key)

    def piece(self, plan: StatePlan, key: str, new_key: str) -> Piece:
        entry = self.entries[key]
        return Piece(new_key, entry.dtype, entry.shape, self._data(plan, key), entry.begin)

    def _data(self, plan: StatePlan, key: str) -> Range | Made:
        """An unchanged tensor is copied as it is, a folded one computed when its turn comes."""
        found = self._range(key)
        return Made(found.size, functools.partial(plan.load, key)) if key in plan.targets else found

    def _range(self, key: str) -> Range:
        entry = self.entries[key]
        return Range(self.source, entry.begin, entry.end - entry.begin)

    def _view(self, key: str) -> View:
        dtype, shape = self._in_torch(key)
        return View(dtype, shape, contiguous_stride(shape))

    def _in_torch(self, key: str) -> tuple[torch.dtype, tuple[int, ...]]:
        return in_torch(key, self.entries[key].dtype, self.entries[key].shape)


class SafetensorsContainer:
    """One state dict, which may have metadata."""

    suffixes: tuple[str, ...] = (".safetensors",)
    nested: bool = False

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[SafetensorsFile]:
        with Source(path) as source:
            yield SafetensorsFile(source, *read_header(source))

    def written(self, checkpoint: Checkpoint, plans: Sequence[StatePlan]) -> tuple[Callable[[Copy], None], tuple[str, ...]]:
        pieces, metadata, lost = checkpoint.pieces(plans)
        return lambda copy: write_pieces(copy, pieces, metadata), lost
