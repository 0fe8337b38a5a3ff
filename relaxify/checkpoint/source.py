"""The file that is read: every read is complete, and the file must stay as it was found until all is done.

It is never mapped into memory: a mapped file that somebody cuts short kills the process.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from relaxify.record import CheckpointError

CHUNK = 4 * 1024**2
# what is copied and compared at once stays in the processor's cache
PORTION = 256 * 1024


class SourceChangedError(CheckpointError):
    """A file that something else wrote to while it was read."""


def check_source(source: Path) -> None:
    """CheckpointError unless `source` is a file that may be read."""
    try:
        if source.is_dir():
            raise CheckpointError(f"{source} is a folder; give the checkpoint file in it.")
        # opening a pipe would wait for whoever writes to it
        if source.exists() and not source.is_file():
            raise CheckpointError(f"{source} is not a regular file; give a checkpoint on disk.")
        with source.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror}; give an existing, readable file.") from error
    if empty:
        raise CheckpointError(f"{source} is empty; save or copy the checkpoint again.")


# what is often found in the place of a checkpoint, by what it begins with
_OTHERS = {
    b"version https://git-lfs": "it is a pointer of Git LFS, in whose place `git lfs pull` puts the file",
    b"\x1f\x8b": "it is compressed by gzip, which `gunzip` undoes",
    b"<!DOCTYPE": "it is a page of the web",
    b"<html": "it is a page of the web",
}


def other_kind(source: Source) -> str | None:
    """What a file is that is no checkpoint, where that can be told."""
    begin = bytes(source.fetch(0, min(source.length, max(map(len, _OTHERS)))))
    return next((what for start, what in _OTHERS.items() if begin.startswith(start)), None)


class Source(io.RawIOBase):
    """A file on disk, open for reading: a context that ends with an error if the file has changed meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = io.FileIO(path)
        self._before = self._state()
        self.length = os.fstat(self._file.fileno()).st_size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # what else went wrong then has this cause
            if kind is None or issubclass(kind, Exception):
                self.check_unchanged()
        finally:
            self.close()

    def check_unchanged(self) -> None:
        """SourceChangedError if the file is not what it was when it was opened."""
        if self._state() != self._before:
            raise SourceChangedError(
                "it changed while it was read, so nothing was written; convert it once whatever saves it has finished."
            )

    def fetch(self, begin: int, size: int) -> bytearray:
        """These bytes, all of them. CheckpointError if the file ends before or cannot be read."""
        if not 0 <= begin <= begin + size <= self.length:
            raise CheckpointError(f"it ends before byte {begin + size}, which it says it has; save or copy it again.")
        data = bytearray(size)
        self.fill(begin, memoryview(data))
        return data

    def fill(self, begin: int, buffer: memoryview) -> None:
        """The same, into memory that there is already; threads may do so at once."""
        try:
            count = read_at(self.fileno(), begin, buffer)
        except OSError as error:
            raise unreadable(error) from error
        if count < len(buffer):
            raise SourceChangedError("it was cut short while it was read; convert it once it has been saved.")

    def range(self, begin: int, size: int, crc: int | None = None) -> Range:
        """These of its bytes."""
        return Range(self, begin, size, crc)

    def fileno(self) -> int:
        return self._file.fileno()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            return self._file.readinto(buffer)
        except OSError as error:
            raise unreadable(error) from error

    def close(self) -> None:
        self._file.close()
        super().close()

    def _state(self) -> tuple[int, ...]:
        found = os.fstat(self._file.fileno())
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Slice(Source):
    """A part of a file that is a file itself; its ranges are the whole file's."""

    def __init__(self, whole: Source, begin: int, length: int) -> None:
        if not 0 <= begin <= begin + length <= whole.length:
            raise CheckpointError(f"{whole.path.name} ends before byte {begin + length}; save or copy it again.")
        self.path, self.length = whole.path, length
        self._whole, self._begin, self._at = whole, begin, 0

    def fill(self, begin: int, buffer: memoryview) -> None:
        self._whole.fill(self._begin + begin, buffer)

    def range(self, begin: int, size: int, crc: int | None = None) -> Range:
        return self._whole.range(self._begin + begin, size, crc)

    def check_unchanged(self) -> None:
        self._whole.check_unchanged()

    def fileno(self) -> int:
        return self._whole.fileno()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.length}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), max(0, self.length - self._at))
        self.fill(self._at, memoryview(buffer)[:size])
        self._at += size
        return size

    def close(self) -> None:
        """Whoever opened the whole file closes it."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of a source, with their CRC-32 if the source says it."""

    source: Source
    begin: int
    size: int
    crc: int | None = None

    def read(self, begin: int = 0, size: int | None = None) -> bytearray:
        """These of its bytes, in memory; all of them are compared with the checksum."""
        data = self.source.fetch(self.begin + begin, self.size if size is None else size)
        if self.crc is not None and len(data) == self.size and zlib.crc32(data) != self.crc:
            raise damaged()
        return data

    def part(self, begin: int, size: int) -> Range:
        return self if size == self.size else Range(self.source, self.begin + begin, size)

    def fill(self, begin: int, buffer: memoryview) -> None:
        """As many of its bytes as there is room for."""
        self.source.fill(self.begin + begin, buffer)

    def chunks(self) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(self.size, PORTION)))
        for done in range(0, self.size, PORTION):
            portion = buffer[: min(PORTION, self.size - done)]
            self.fill(done, portion)
            yield portion


def read_at(descriptor: int, begin: int, buffer: memoryview) -> int:
    """Read until the buffer is full or the file ends; how many bytes there were."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], begin + done)
        if not count:
            break
        done += count
    return done


def unreadable(error: OSError) -> CheckpointError:
    """What is said of a file that the system cannot read."""
    return CheckpointError(f"it cannot be read ({error.strerror}); check the disk, or copy it again.")


def damaged() -> CheckpointError:
    """What is said of bytes that do not have their checksum."""
    return CheckpointError("its bytes do not match its own checksum, so it is damaged; save or copy it again.")
