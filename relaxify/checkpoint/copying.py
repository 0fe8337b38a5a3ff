"""Filling a new file, in order, and comparing all of it afterwards with what was to be written."""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from relaxify.checkpoint.data import Data
from relaxify.checkpoint.source import CHUNK, Range, damaged
from relaxify.record import CheckpointError

# below this, asking the system to copy costs more than copying
SMALL = 256 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[int], None]


class Copy:
    """A file in the making. What it must hold is remembered as checksums, or as the bytes of a source."""

    def __init__(self, file: BinaryIO, progress: Progress | None = None) -> None:
        self.size = 0
        self._file = file
        self._buffer = bytearray()
        self._expected: list[tuple[int, int | Range]] = []
        self._progress = progress or (lambda count: None)

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
        self._note(data.size, found)
        return found

    def finish(self) -> None:
        """Hand all to the disk, and read it back meanwhile. CheckpointError if it is not what was to be written."""
        self._flush()
        self._file.flush()
        with ThreadPoolExecutor(1) as pool:
            synced = None
            # where no thread can be started, the file is handed to the disk when it gets its place
            with contextlib.suppress(RuntimeError):
                synced = pool.submit(os.fsync, self._file.fileno())
            self._verify()
            if synced is not None:
                synced.result()

    def _flush(self) -> None:
        if self._buffer:
            self._file.write(self._buffer)
            self._progress(len(self._buffer))
            self._expected.append((len(self._buffer), zlib.crc32(self._buffer)))
            self._buffer = bytearray()

    def _note(self, size: int, expected: int | Range) -> None:
        self.size += size
        self._expected.append((size, expected))

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

    def _verify(self) -> None:
        if os.fstat(self._file.fileno()).st_size != self.size:
            raise _not_as_written()
        self._file.seek(0)
        for size, expected in self._expected:
            found, reference = 0, expected.chunks() if isinstance(expected, Range) else None
            for done in range(0, size, CHUNK):
                chunk = self._file.read(min(CHUNK, size - done))
                if reference is None:
                    found = zlib.crc32(chunk, found)
                elif next(reference) != chunk:
                    raise _not_as_written()
                self._progress(len(chunk))
            if reference is None and found != expected:
                raise damaged()


def _not_as_written() -> CheckpointError:
    return CheckpointError("the file that was written differs from what was to be in it; check the disk, and try again.")
