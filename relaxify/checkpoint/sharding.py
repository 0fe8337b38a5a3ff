"""Writing a checkpoint to a folder, in files of at most a given size, as transformers and Accelerate write and load it.

One file is model.safetensors; several are model-00001-of-00003.safetensors and so on, with an index that says which tensor
is in which.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from relaxify.checkpoint.container import Checkpoint, Piece
from relaxify.checkpoint.copying import Copy
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.safetensors_file import write_pieces
from relaxify.checkpoint.shards import INDEX
from relaxify.record import CheckpointError

DEFAULT_SIZE = 5 * 10**9
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) ?([KMGT]?)(i?)B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Part:
    """A file to write: its name, what writes it, and about how many bytes it will have, 0 if that is not known."""

    name: str
    write: Callable[[Copy], object]
    size: int = 0


def bytes_in(size: int | str) -> int:
    """A size in bytes, or in words. CheckpointError if it is none.

    >>> bytes_in("5GB"), bytes_in("1.5 MiB"), bytes_in(300)
    (5000000000, 1572864, 300)
    """
    match = _SIZE.fullmatch(str(size).strip())
    found = 0 if match is None else int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].upper()])
    if found <= 0:
        raise CheckpointError(f"the size {size!r} is none; give a number of bytes, or such as '5GB' or '200MB'.")
    return found


def sharded(checkpoint: Checkpoint, plans: Sequence[StatePlan], largest: int) -> tuple[Sequence[Part], tuple[str, ...]]:
    """What is to be written to a folder, and the names of what that will lack."""
    pieces, metadata, lost = checkpoint.pieces(plans)
    noted = {"format": "pt"} | (metadata or {})
    shards = list(_shards(pieces, largest))
    if len(shards) == 1:
        return [_part("model.safetensors", pieces, noted)], lost
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    owners = {piece.key: name for name, shard in zip(names, shards, strict=True) for piece in shard}
    index = {"metadata": {"total_size": sum(piece.data.size for piece in pieces)}, "weight_map": owners}
    text = json.dumps(index, indent=2, sort_keys=True).encode() + b"\n"
    parts = [_part(name, shard, noted) for name, shard in zip(names, shards, strict=True)]
    return [*parts, Part(f"model{INDEX}", lambda copy: copy.write(text), len(text))], lost


def _part(name: str, pieces: Sequence[Piece], metadata: dict[str, str]) -> Part:
    return Part(name, lambda copy: write_pieces(copy, pieces, metadata), sum(piece.data.size for piece in pieces))


def _shards(pieces: Sequence[Piece], largest: int) -> Iterator[list[Piece]]:
    """The pieces in their order; one that is larger than a shard may be has its own."""
    shard: list[Piece] = []
    size = 0
    for piece in pieces:
        if shard and size + piece.data.size > largest:
            yield shard
            shard, size = [], 0
        shard.append(piece)
        size += piece.data.size
    yield shard
