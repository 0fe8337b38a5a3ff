"""What tensors' bytes are before they are written: a range of a file, or what is computed when its turn comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Data(Protocol):
    """Bytes of a known size that are read or made in chunks, and their CRC-32 if it is known."""

    @property
    def size(self) -> int: ...

    @property
    def crc(self) -> int | None: ...

    def read(self, begin: int = 0, size: int | None = None) -> bytearray:
        """These bytes, in memory."""
        ...

    def part(self, begin: int, size: int) -> Data:
        """A slice of them."""
        ...

    def chunks(self) -> Iterator[bytearray | memoryview]:
        """All of them, in order; each chunk is valid until the next is asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Made:
    """The bytes of a tensor that `make` returns, each time it is asked."""

    size: int
    make: Callable[[], Tensor]
    crc: int | None = None

    def read(self, begin: int = 0, size: int | None = None) -> bytearray:
        return bytearray(bytes_of(self.make())[begin : None if size is None else begin + size])

    def part(self, begin: int, size: int) -> Data:
        return Made(size, lambda: torch.frombuffer(self.read(begin, size), dtype=torch.uint8))

    def chunks(self) -> Iterator[bytearray | memoryview]:
        yield bytes_of(self.make())


def bytes_of(tensor: Tensor) -> memoryview:
    """The entries of a tensor, row by row."""
    return tensor.detach().cpu().resolve_neg().contiguous().flatten().view(torch.uint8).numpy().data


@dataclass(frozen=True, slots=True)
class View:
    """How a tensor sees its data: entry i of it lies at `offset` + sum_d i_d `stride`_d, counted in entries."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        """How many bytes its entries take, each for itself."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def span(self) -> tuple[int, int]:
        """The first byte of the data that it sees, and the one after the last."""
        if not math.prod(self.shape):
            return 0, 0
        width, last = self.dtype.itemsize, self.offset
        for size, stride in zip(self.shape, self.stride, strict=True):
            last += (size - 1) * stride
        return self.offset * width, (last + 1) * width

    @property
    def is_contiguous(self) -> bool:
        begin, end = self.span
        wanted = contiguous_stride(self.shape)
        steps = zip(self.shape, self.stride, wanted, strict=True)
        return end - begin == self.size and all(size == 1 or stride == step for size, stride, step in steps)

    def load(self, data: Data) -> Tensor:
        """The tensor, in memory of its own; entries that are one in the file are one in it too."""
        begin, end = self.span
        if begin == end:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(data.read(begin, end - begin), dtype=self.dtype).as_strided(self.shape, self.stride)

    def row_by_row(self, data: Data) -> Data:
        """Its entries in order, as bytes: a part of the data where they lie so."""
        if self.is_contiguous:
            return data.part(self.span[0], self.size)
        return Made(self.size, lambda: self.load(data))


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor whose entries lie row by row."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
