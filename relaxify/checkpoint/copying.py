"""Filling a new file, in order; each portion is read back once it is written, and compared with what was to be there."""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO

from relaxify.checkpoint.data import Data
from relaxify.checkpoint.source import CHUNK, PORTION, damaged, read_at
from relaxify.record import CheckpointError

# below this, tensors are gathered before they are written
SMALL = 256 * 1024
# the disk need not wait for the last byte
HANDED = 32 * 1024**2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all), each once it is written and compared."""


class Copy:
    """A file in the making: a context that ends once the disk has what it was handed meanwhile."""

    def __init__(self, file: BinaryIO, progress: Progress | None = None) -> None:
        self.size = 0
        self._descriptor = file.fileno()
        self._buffer = bytearray()
        self._found = bytearray(PORTION)
        self._pool = ThreadPoolExecutor(1)
        self._syncs: list[Future[None]] = []
        self._written, self._handed, self._total = 0, 0, 0
        self._told = progress

    def __enter__(self) -> Copy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def expect(self, size: int) -> None:
        """Say how large the file will be, about."""
        self._total = size

    def write(self, data: bytes | bytearray) -> int:
        """Append what is in memory; returns its CRC-32."""
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= CHUNK:
            self._flush()
        return zlib.crc32(data)

    def copy(self, data: Data) -> None:
        """Append what is in a file, or is made now."""
        self._append(data, checksum=False)

    def copy_with_checksum(self, data: Data) -> int:
        """The same; returns the CRC-32 of what it appends."""
        return self._append(data, checksum=True)

    def _append(self, data: Data, *, checksum: bool) -> int:
        if data.size <= SMALL:
            return self.write(data.read())
        self._flush()
        found = 0
        for chunk in data.chunks():
            found = zlib.crc32(chunk, found) if checksum or data.crc is not None else 0
            self._put(memoryview(chunk))
        self.size += data.size
        if data.crc not in (None, found):
            raise damaged()
        return found

    def finish(self) -> None:
        """Hand all to the disk. CheckpointError if what is there now is not what was to be written."""
        self._flush()
        for sync in self._syncs:
            sync.result()
        os.fsync(self._descriptor)
        if os.fstat(self._descriptor).st_size != self.size or self._written != self.size:
            raise _not_as_written()

    def _flush(self) -> None:
        if self._buffer:
            self._put(memoryview(self._buffer))
            self._buffer = bytearray()

    def _put(self, data: memoryview) -> None:
        """Append to the file itself. What is read back is still in the processor's cache."""
        for begin in range(0, len(data), PORTION):
            portion = data[begin : begin + PORTION]
            _write_at(self._descriptor, self._written, portion)
            self._compare(portion)
            self._written += len(portion)
            if self._told is not None:
                self._told(self._written, max(self._written, self._total))
        if self._written - self._handed >= HANDED and all(sync.done() for sync in self._syncs[-1:]):
            self._handed = self._written
            self._hand_over()

    def _compare(self, portion: memoryview) -> None:
        count = len(portion)
        read = read_at(self._descriptor, self._written, memoryview(self._found)[:count])
        # arrays of bytes compare as memory, views of them entry by entry
        found = self._found if count == len(self._found) else self._found[:count]
        if read < count or found != portion:
            raise _not_as_written()

    def _hand_over(self) -> None:
        """Let the disk have what there is while more is copied; where no thread can be started, it has it at the end."""
        with contextlib.suppress(RuntimeError):
            self._syncs.append(self._pool.submit(getattr(os, "fdatasync", os.fsync), self._descriptor))


def _write_at(descriptor: int, begin: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], begin + done)


def _not_as_written() -> CheckpointError:
    return CheckpointError("the file that was written differs from what was to be in it; check the disk, and try again.")
