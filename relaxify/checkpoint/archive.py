"""The archives that torch.save writes: zip files whose members are a pickle and, one each, the storages of its tensors.

Members are read wherever they lie, compressed or not, once the directory has been found to agree with them. They are
written uncompressed, each at a multiple of 64 bytes, so that readers can map them.
"""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from relaxify.checkpoint.copying import Copy
from relaxify.checkpoint.data import Data
from relaxify.checkpoint.source import CHUNK, Source, damaged
from relaxify.record import CheckpointError

ALIGNMENT = 64
# weights hardly shrink: what unpacks to more was made to
MAX_RATIO = 100
_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
_END64, _LOCATOR = struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_LARGE, _MANY = 0xFFFFFFFF, 0xFFFF
# 1 January 1980, the earliest that a zip file can say
_DATE = 0x21
_DESCRIPTOR, _UTF8 = 0x08, 0x800


@dataclass(frozen=True)
class Inflated:
    """The bytes of a compressed member."""

    archive: zipfile.ZipFile
    member: zipfile.ZipInfo

    @property
    def size(self) -> int:
        return self.member.file_size

    @property
    def crc(self) -> int | None:
        return self.member.CRC

    def read(self, begin: int = 0, size: int | None = None) -> bytearray:
        whole = bytearray().join(self.chunks())
        return whole if size is None else whole[begin : begin + size]

    def part(self, begin: int, size: int) -> Data:
        return Part(self, begin, size)

    def chunks(self) -> Iterator[bytearray]:
        try:
            with self.archive.open(self.member) as file:
                for done in range(0, self.size, CHUNK):
                    chunk = bytearray(file.read(min(CHUNK, self.size - done)))
                    if len(chunk) < min(CHUNK, self.size - done):
                        raise damaged()
                    yield chunk
        # of a damaged stream, zipfile and zlib say it in many ways
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise damaged() from error


@dataclass(frozen=True)
class Part:
    """A slice of data that can only be read as a whole."""

    whole: Data
    begin: int
    size: int
    crc: int | None = None

    def read(self, begin: int = 0, size: int | None = None) -> bytearray:
        return self.whole.read(self.begin + begin, self.size if size is None else size)

    def part(self, begin: int, size: int) -> Data:
        return Part(self.whole, self.begin + begin, size)

    def chunks(self) -> Iterator[bytearray]:
        yield self.read()


def is_archive(source: Source) -> bool:
    """Whether it begins as a zip file does."""
    return source.length >= 4 and bytes(source.fetch(0, 4)) == b"PK\x03\x04"


def read_members(source: Source) -> dict[str, Data]:
    """The members of an archive by their names in its one folder. CheckpointError unless each lies where it says."""
    try:
        archive = zipfile.ZipFile(source)
        entries = archive.infolist()
    except CheckpointError:
        raise
    # of a damaged directory, zipfile says it in many ways
    except Exception as error:
        raise _broken(str(error) or type(error).__name__) from error
    members: dict[str, Data] = {}
    for entry, end in zip(entries, _ends(entries, archive.start_dir), strict=True):
        name = entry.filename.partition("/")[2]
        if name in members:
            raise _broken(f"two members are called {name!r}")
        members[name] = _member(source, archive, entry, end)
    return members


def _ends(entries: list[zipfile.ZipInfo], directory: int) -> list[int]:
    """Where each member must have ended: where the next begins, or the directory does."""
    order = sorted(range(len(entries)), key=lambda index: entries[index].header_offset)
    starts = [*(entries[index].header_offset for index in order), directory]
    ends = dict(zip(order, starts[1:], strict=True))
    return [ends[index] for index in range(len(entries))]


def _member(source: Source, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, end: int) -> Data:
    # the parser is told sizes by the file; all that it gets is compared with where things are
    name = entry.filename
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _broken(f"{name!r} is encrypted, or compressed in a way that is not read")
    if entry.header_offset < 0 or entry.header_offset + _LOCAL.size > end:
        raise _broken(f"{name!r} overlaps with another member")
    encoded = entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437")
    front = source.fetch(entry.header_offset, _LOCAL.size + len(encoded))
    header = _LOCAL.unpack(front[: _LOCAL.size])
    begin = entry.header_offset + _LOCAL.size + header[-2] + header[-1]
    if header[0] != b"PK\x03\x04" or front[_LOCAL.size :] != encoded or begin + entry.compress_size > end:
        raise _broken(f"{name!r} is not where the directory says, or overlaps with another member")
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        if entry.file_size > MAX_RATIO * entry.compress_size + CHUNK:
            raise _broken(f"{name!r} says that it unpacks to {entry.file_size:,} bytes")
        return Inflated(archive, entry)
    if entry.file_size != entry.compress_size:
        raise _broken(f"{name!r} has {entry.compress_size} bytes and says {entry.file_size}")
    # where torch is asked not to compute checksums, it writes 0
    return source.range(begin, entry.file_size, entry.CRC or None)


def _broken(why: str) -> CheckpointError:
    why = why.removesuffix(".")
    return CheckpointError(f"it is not a complete torch checkpoint ({why}); save or copy it again.")


@contextlib.contextmanager
def writing_members(copy: Copy) -> Iterator[Members]:
    """An archive to which members are added; its directory is written at the end."""
    members = Members(copy, [])
    yield members
    members.finish()


@dataclass(frozen=True)
class Members:
    """What has been written of an archive: (name, flags, CRC-32, size, offset) of each member."""

    copy: Copy
    entries: list[tuple[bytes, int, int, int, int]]

    def add(self, name: str, data: Data | bytes | bytearray) -> None:
        """Write a member, whose checksum comes behind it if it is known only then."""
        encoded, begin = f"archive/{name}".encode(), self.copy.size
        size, known = (len(data), zlib.crc32(data)) if isinstance(data, bytes | bytearray) else (data.size, data.crc)
        self._header(encoded, known, size, begin)
        found = self.copy.write(data) if isinstance(data, bytes | bytearray) else self.copy.copy_with_checksum(data)
        if known is None:
            self.copy.write(struct.pack("<4sIQQ" if size >= _LARGE else "<4sIII", b"PK\x07\x08", found, size, size))
        elif known != found:
            raise damaged()
        self.entries.append((encoded, 0 if known is not None else _DESCRIPTOR, found, size, begin))

    def _header(self, name: bytes, crc: int | None, size: int, begin: int) -> None:
        large = size >= _LARGE
        extra = struct.pack("<HHQQ", 1, 16, size, size) if large else b""
        unpadded = begin + _LOCAL.size + len(name) + len(extra) + 4
        padding = -unpadded % ALIGNMENT
        extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        shown = (0, 0, 0) if crc is None else (crc, size, size)
        if large:
            shown = (crc or 0, _LARGE, _LARGE)
        version, flags = (45 if large else 20), (_DESCRIPTOR if crc is None else 0)
        header = _LOCAL.pack(b"PK\x03\x04", version, flags, 0, 0, _DATE, *shown, len(name), len(extra))
        self.copy.write(header + name + extra)

    def finish(self) -> None:
        begin = self.copy.size
        for entry in self.entries:
            self.copy.write(_directory_entry(*entry))
        end, count = self.copy.size, len(self.entries)
        if end > _LARGE or count >= _MANY:
            self.copy.write(_END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, count, count, end - begin, begin))
            self.copy.write(_LOCATOR.pack(b"PK\x06\x07", 0, end, 1))
        few = min(count, _MANY)
        sizes = min(end - begin, _LARGE), min(begin, _LARGE)
        self.copy.write(_END.pack(b"PK\x05\x06", 0, 0, few, few, *sizes, 0))


def _directory_entry(name: bytes, flags: int, crc: int, size: int, begin: int) -> bytes:
    large = [size, size] if size >= _LARGE else []
    far = [begin] if begin >= _LARGE else []
    values = [*large, *far]
    extra = struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""
    shown = min(size, _LARGE)
    fields = (45 if values else 20, flags, 0, 0, _DATE, crc, shown, shown, len(name), len(extra), 0, 0, 0, 0)
    version, *others = fields
    return _CENTRAL.pack(b"PK\x01\x02", version, version, *others, min(begin, _LARGE)) + name + extra
