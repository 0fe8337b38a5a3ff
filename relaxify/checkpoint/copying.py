"""Filling a new file, in order; what has been written is read back meanwhile, and compared with what was to be written."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO

from relaxify.checkpoint.data import Data
from relaxify.checkpoint.source import CHUNK, PORTION, Range, damaged, read_at
from relaxify.record import CheckpointError

# below this, asking the system to copy costs more than copying
SMALL = 256 * 1024
WORKERS = 3
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all), from any thread: each byte of the output counts twice, once written and once read back."""


class Copy:
    """A file in the making: a context that ends with what is still being compared. Threads read back what is complete."""

    def __init__(self, file: BinaryIO, progress: Progress | None = None) -> None:
        self.size = 0
        self._file = file
        self._buffer = bytearray()
        self._pool = ThreadPoolExecutor(WORKERS)
        self._checks: list[Future[None]] = []
        self._done, self._total = 0, 0
        self._told, self._lock = progress, threading.Lock()

    def __enter__(self) -> Copy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def expect(self, size: int) -> None:
        """Say how large the file will be, about."""
        self._total = 2 * size

    def write(self, data: bytes | bytearray) -> int:
        """Append what is in memory; returns its CRC-32."""
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= CHUNK:
            self._flush()
        return zlib.crc32(data)

    def copy(self, data: Data) -> None:
        """Append what is in a file, or is made now."""
        if data.size <= SMALL:
            self.write(data.read())
        elif isinstance(data, Range):
            self._flush()
            self._copy_range(data)
            self._note(data.size, data if data.crc is None else data.crc)
        else:
            self.copy_with_checksum(data)

    def copy_with_checksum(self, data: Data) -> int:
        """The same; returns the CRC-32 of what it appends, which costs a look at it unless the data say it."""
        if data.size <= SMALL:
            return self.write(data.read())
        if isinstance(data, Range) and data.crc is not None:
            self.copy(data)
            return data.crc
        self._flush()
        found = 0
        for chunk in data.chunks():
            found = zlib.crc32(chunk, found)
            self._file.write(chunk)
            self._progress(len(chunk))
        self._note(data.size, data if isinstance(data, Range) else found)
        return found

    def finish(self) -> None:
        """Hand all to the disk. CheckpointError if what is there now is not what was to be written."""
        self._flush()
        self._later(os.fsync, self._file.fileno())
        if os.fstat(self._file.fileno()).st_size != self.size:
            raise _not_as_written()
        for check in self._checks:
            check.result()

    def _progress(self, count: int) -> None:
        if self._told is not None:
            with self._lock:
                self._done += count
                self._told(self._done, max(self._done, self._total))

    def _flush(self) -> None:
        if self._buffer:
            size, crc = len(self._buffer), zlib.crc32(self._buffer)
            self._file.write(self._buffer)
            self._progress(size)
            self._buffer = bytearray()
            self.size -= size
            self._note(size, crc)

    def _note(self, size: int, expected: int | Range) -> None:
        """What was appended last is complete, and can be compared."""
        self._file.flush()
        self._later(self._check, self.size, size, expected)
        self.size += size

    def _later(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            self._checks.append(self._pool.submit(work, *arguments))
        except RuntimeError:
            # where no thread can be started
            work(*arguments)

    def _copy_range(self, data: Range) -> None:
        self._file.flush()
        done = self._copy_in_the_system(data)
        for chunk in data.part(done, data.size - done).chunks() if done < data.size else ():
            self._file.write(chunk)
            self._progress(len(chunk))

    def _copy_in_the_system(self, data: Range) -> int:
        """How much of it the system copied without our seeing it."""
        if not hasattr(os, "copy_file_range"):
            return 0
        done, source, target, start = 0, data.source.fileno(), self._file.fileno(), self.size
        try:
            while done < data.size:
                size = min(16 * CHUNK, data.size - done)
                count = os.copy_file_range(source, target, size, data.begin + done, start + done)
                if not count:
                    break
                done += count
                self._progress(count)
        except OSError as error:
            # not between these file systems: then by hand
            if error.errno in FULL:
                raise
        self._file.seek(start + done)
        return done

    def _check(self, begin: int, size: int, expected: int | Range) -> None:
        crc = 0
        found, wanted = bytearray(min(size, PORTION)), bytearray(min(size, PORTION))
        for done in range(0, size, PORTION):
            count = min(PORTION, size - done)
            chunk = memoryview(found)[:count]
            if read_at(self._file.fileno(), begin + done, chunk) < count:
                raise _not_as_written()
            if isinstance(expected, int):
                crc = zlib.crc32(chunk, crc)
            else:
                expected.fill(done, memoryview(wanted)[:count])
                _compare(found, wanted, count)
            self._progress(count)
        if isinstance(expected, int) and crc != expected:
            raise damaged()


def _compare(found: bytearray, wanted: bytearray, count: int) -> None:
    # arrays of bytes compare as memory, views of them entry by entry
    same = found == wanted if count == len(found) else found[:count] == wanted[:count]
    if not same:
        raise _not_as_written()


def _not_as_written() -> CheckpointError:
    return CheckpointError("the file that was written differs from what was to be in it; check the disk, and try again.")
