"""What a kind of checkpoint file offers: its state dicts, and its clean contents, whole or tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import torch
from torch import Tensor

from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.state import StateDict
from relaxify.record import CheckpointError

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


@runtime_checkable
class Checkpoint(Protocol):
    """An open file. Once planned for, its clean contents are had in one of two forms, each with names of what it lacks."""

    @property
    def states(self) -> Sequence[StateDict]:
        """The state dicts that may hold terms."""
        ...

    def whole(self, plans: Sequence[StatePlan]) -> tuple[Any, tuple[str, ...]]:
        """All that the file held, in memory, state dicts nested as they were."""
        ...

    def pieces(self, plans: Sequence[StatePlan]) -> tuple[Sequence[Piece], dict[str, str] | None, tuple[str, ...]]:
        """The one state dict tensor by tensor, and metadata. CheckpointError if there are several."""
        ...


@runtime_checkable
class Container(Protocol):
    """A kind of file. `nested` says whether it can hold state dicts inside of other things."""

    suffixes: tuple[str, ...]
    nested: bool

    def opened(self, path: Path) -> AbstractContextManager[Checkpoint]:
        """The file, open until the context ends. CheckpointError if it is not valid."""
        ...

    def written(
        self, checkpoint: Checkpoint, plans: Sequence[StatePlan]
    ) -> tuple[Callable[[BinaryIO], None], tuple[str, ...]]:
        """What writes the clean checkpoint to a file of this kind, and the names of what that will lack."""
        ...

    def read(self, path: Path) -> Any:
        """All contents, in memory. CheckpointError if it is not valid."""
        ...


def _bytes(tensor: Tensor) -> Iterator[memoryview]:
    yield tensor.detach().cpu().resolve_neg().contiguous().flatten().view(torch.uint8).numpy().data
