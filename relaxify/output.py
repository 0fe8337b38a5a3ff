"""The one way in which files are written: whole or not at all, never over an input, no less private than their sources.

A file is made without a name where the system can (O_TMPFILE), so that a kill leaves nothing behind, and is linked to
its place once it is complete. Elsewhere it has a temporary name, by which the next writer finds and removes what is left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from relaxify.record import CheckpointError

_TEMPORARY = re.compile(r"\.relaxify-[0-9a-f]{16}(\.\w+)?")


class TargetExistsError(CheckpointError):
    """Something is at the path `target` already, and was not to be overwritten."""

    def __init__(self, target: Path) -> None:
        self.target = target
        super().__init__(f"{target} exists; choose another name, or pass force=True to overwrite it.")


def check_target(target: Path, *, inputs: Sequence[Path] = (), force: bool) -> None:
    """CheckpointError unless `target` may be written: its folder exists, it does not, and it is none of the `inputs`."""
    try:
        _check_place(target, inputs)
        there = os.path.lexists(target)
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror}; choose another name or folder.") from error
    if there and not force:
        raise TargetExistsError(target)


def _check_place(target: Path, inputs: Sequence[Path]) -> None:
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder; give the name of a file in it.")
    if not target.parent.is_dir():
        raise CheckpointError(f"cannot write {target}: its folder does not exist; create it first.")
    for source in inputs:
        if target.exists() and source.exists() and target.samefile(source):
            raise CheckpointError(f"{target} is the input {source} itself, which is never overwritten; choose another name.")


def write_whole(target: Path, content: bytes, *, inputs: Sequence[Path] = (), force: bool) -> None:
    """Write a small file. CheckpointError as `check_target`; OSError if the system does not let it."""
    with replacing(target, inputs=inputs, force=force) as new:
        new.file.write(content)


@contextlib.contextmanager
def new_folder(target: Path, *, inputs: Sequence[Path] = ()) -> Iterator[NewFolder]:
    """A folder that becomes `target` if the block succeeds, and vanishes if not.

    CheckpointError if there is something already: what is in a folder cannot be replaced at once, so it never is.
    """
    check_new_folder(target)
    _remove_orphans(target.parent)
    new = NewFolder(target, _mode(*inputs))
    try:
        yield new
        new.publish()
    finally:
        new.close()
    _sync_folder(target.parent)


def check_new_folder(target: Path) -> None:
    """CheckpointError unless a folder can be made there."""
    if not target.parent.is_dir():
        raise CheckpointError(f"cannot write {target}: its folder does not exist; create it first.")
    if os.path.lexists(target):
        raise CheckpointError(f"{target} exists, and a folder is never overwritten; choose another name, or remove it.")


class NewFolder:
    """A folder in the making, which has a temporary name until it is complete."""

    def __init__(self, target: Path, mode: int) -> None:
        self.target, self._mode = target, mode
        self.path = target.with_name(f".relaxify-{secrets.token_hex(8)}")
        self.path.mkdir()
        # for as long as it is open, the next writer does not take it for an orphan
        self._descriptor = os.open(self.path, os.O_RDONLY)
        _lock(self._descriptor)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """A new file in it, which is on the disk when the block ends."""
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, self._mode)
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def publish(self) -> None:
        """Give it its place, at once; CheckpointError if something has come there meanwhile."""
        _sync_folder(self.path)
        check_new_folder(self.target)
        self.path.rename(self.target)

    def close(self) -> None:
        # where that fails, the next writer does it
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


@contextlib.contextmanager
def replacing(target: Path, *, inputs: Sequence[Path] = (), force: bool) -> Iterator[NewFile]:
    """A new file that becomes `target` if the block succeeds, and vanishes if not. CheckpointError as `check_target`."""
    check_target(target, inputs=inputs, force=force)
    _remove_orphans(target.parent)
    with contextlib.closing(NewFile(target, _mode(*inputs, target))) as new:
        yield new
        new.file.flush()
        os.fsync(new.file.fileno())
        new.publish(force=force)
    _sync_folder(target.parent)


class NewFile:
    """A file open for writing and reading that has no name yet, or a temporary one."""

    def __init__(self, target: Path, mode: int) -> None:
        self.target = target
        self._temporary: Path | None = None
        descriptor = _open_unnamed(target.parent, mode)
        if descriptor is None:
            descriptor = self._open_named(mode)
        self.file: BinaryIO = os.fdopen(descriptor, "w+b")

    def named(self) -> Path:
        """A path to it, in the folder and with the suffix that it is to have."""
        if self._temporary is None:
            self._temporary = self._new_name()
            _link_unnamed(self.file.fileno(), self._temporary)
        return self._temporary

    def publish(self, *, force: bool) -> None:
        """Give it its place, at once; TargetExistsError if something is there and not `force`."""
        if force:
            self.named().replace(self.target)
            return
        try:
            if self._temporary is None:
                _link_unnamed(self.file.fileno(), self.target)
            else:
                self.target.hardlink_to(self._temporary)
        except FileExistsError as error:
            raise TargetExistsError(self.target) from error
        except OSError as error:
            # some file systems have no hard links
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            check_target(self.target, force=False)
            self.named().replace(self.target)

    def close(self) -> None:
        # where that fails, the next writer does it
        with contextlib.suppress(OSError):
            if self._temporary is not None:
                self._temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.file.close()

    def _new_name(self) -> Path:
        return self.target.with_name(f".relaxify-{secrets.token_hex(8)}{self.target.suffix}")

    def _open_named(self, mode: int) -> int:
        while True:
            self._temporary = self._new_name()
            descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
            _lock(descriptor)
            # whoever looked for orphans between the two may have taken it for one
            if self._temporary.exists():
                return descriptor
            os.close(descriptor)


def _open_unnamed(folder: Path, mode: int) -> int | None:
    if not hasattr(os, "O_TMPFILE"):
        return None
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    except OSError:
        return None
    if not Path(f"/proc/self/fd/{descriptor}").exists():
        os.close(descriptor)
        return None
    _lock(descriptor)
    return descriptor


def _link_unnamed(descriptor: int, path: Path) -> None:
    # with a folder's descriptor, Python calls linkat, which follows the link that /proc shows
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)


def _mode(*paths: Path) -> int:
    """What a new file may be: open to others as far as all of these paths are. The system takes the umask off."""
    shared = 0o066
    for path in paths:
        with contextlib.suppress(OSError):
            shared &= path.stat().st_mode
    return 0o600 | shared


def _remove_orphans(folder: Path) -> None:
    """Remove temporary files and folders of writers that were killed: those of writers that still write are locked."""
    for path in folder.glob(".relaxify-*"):
        with contextlib.suppress(OSError):
            kind = path.lstat().st_mode
            if not _TEMPORARY.fullmatch(path.name) or not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if _lock(descriptor):
                    path.unlink() if stat.S_ISREG(kind) else shutil.rmtree(path)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the file is now this process's alone."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; some file systems cannot, and then the file is whole all the same."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
