"""Tensors whose bytes lie in several places: one part after the other, or as blocks of an array."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relaxify.checkpoint.data import Data, Made, View, contiguous_stride
from relaxify.record import CheckpointError

# blocks of one tensor that are compared pair by pair
MOST_BLOCKS = 1024


@dataclass(frozen=True)
class Joined:
    """Data that are the parts of others, one after the other."""

    parts: tuple[Data, ...]
    crc: int | None = None

    @functools.cached_property
    def starts(self) -> list[int]:
        """Where each part begins, and where the last ends."""
        return [0, *itertools.accumulate(part.size for part in self.parts)]

    @property
    def size(self) -> int:
        return self.starts[-1]

    def read(self, begin: int = 0, size: int | None = None) -> bytearray:
        wanted = self if size is None else self.part(begin, size)
        return bytearray().join(part.read() for part in wanted.parts)

    def part(self, begin: int, size: int) -> Joined:
        found, index = [], bisect.bisect_right(self.starts, begin) - 1
        while index < len(self.parts) and self.starts[index] < begin + size:
            part, start = self.parts[index], self.starts[index]
            low, high = max(begin - start, 0), min(begin + size - start, part.size)
            if low < high:
                found.append(part.part(low, high - low))
            index += 1
        return Joined(tuple(found))

    def chunks(self) -> Iterator[bytearray | memoryview]:
        for part in self.parts:
            yield from part.chunks()


def joined(parts: Sequence[Data]) -> Data:
    """The same, or the one part there is."""
    return parts[0] if len(parts) == 1 else Joined(tuple(parts))


@dataclass(frozen=True)
class Block:
    """A block of an array: where it begins and how large it is along each axis, and its entries row by row."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    data: Data


def assembled(shape: tuple[int, ...], dtype: torch.dtype, blocks: Sequence[Block]) -> Data:
    """The array's entries row by row. CheckpointError unless the blocks are all of it, each entry once."""
    blocks = sorted((block for block in blocks if math.prod(block.sizes)), key=lambda block: block.offsets)
    _check(shape, blocks)
    size = math.prod(shape) * dtype.itemsize
    if _are_rows(shape, blocks):
        return joined([block.data for block in blocks])

    def make() -> Tensor:
        whole = torch.empty(shape, dtype=dtype)
        for block in blocks:
            place = tuple(slice(begin, begin + count) for begin, count in zip(block.offsets, block.sizes, strict=True))
            whole[place] = View(dtype, block.sizes, contiguous_stride(block.sizes)).load(block.data)
        return whole

    return Made(size, make)


def _check(shape: tuple[int, ...], blocks: Sequence[Block]) -> None:
    for block in blocks:
        if len(block.offsets) != len(shape) or len(block.sizes) != len(shape):
            raise _misfit(shape)
        if any(begin + count > size for begin, count, size in zip(block.offsets, block.sizes, shape, strict=True)):
            raise _misfit(shape)
    if sum(math.prod(block.sizes) for block in blocks) != math.prod(shape):
        raise _misfit(shape)
    if _are_rows(shape, blocks):
        return
    if len(blocks) > MOST_BLOCKS or any(map(_overlap, *zip(*itertools.combinations(blocks, 2), strict=True))):
        raise _misfit(shape)


def _are_rows(shape: tuple[int, ...], blocks: Sequence[Block]) -> bool:
    """Whether each block has whole rows, and begins where the one before it ends."""
    ends = [0, *(block.offsets[0] + block.sizes[0] for block in blocks if shape)]
    return not shape or all(
        block.offsets[0] == end and block.sizes[1:] == shape[1:] for block, end in zip(blocks, ends, strict=False)
    )


def _overlap(first: Block, second: Block) -> bool:
    axes = zip(first.offsets, first.sizes, second.offsets, second.sizes, strict=True)
    return all(a < b + width and b < a + size for a, size, b, width in axes)


def _misfit(shape: tuple[int, ...]) -> CheckpointError:
    return CheckpointError(f"its parts are not a tensor of shape {shape}, each entry once; save it again.")
