"""Writing a file whole or not at all: next to its final place, then renamed into it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from relaxify.record import CheckpointError


class TargetExistsError(CheckpointError):
    """Something is at the path `target` already, and was not to be overwritten."""

    def __init__(self, target: Path) -> None:
        self.target = target
        super().__init__(f"{target} exists; choose another name, or pass force=True to overwrite it.")


def check_source(source: Path) -> None:
    """CheckpointError unless `source` is a file that may be read."""
    if source.is_dir():
        raise CheckpointError(f"{source} is a folder; give the checkpoint file in it.")
    # opening a pipe would wait for whoever writes to it
    if source.exists() and not source.is_file():
        raise CheckpointError(f"{source} is not a regular file; give a checkpoint on disk.")
    try:
        with source.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror}; give an existing, readable file.") from error
    if empty:
        raise CheckpointError(f"{source} is empty; save or copy the checkpoint again.")


def check_target(target: Path, *, source: Path | None = None, force: bool) -> None:
    """CheckpointError unless `target` may be written: its folder exists, it does not, and it is not `source`."""
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder; give the name of a file in it.")
    if not target.parent.is_dir():
        raise CheckpointError(f"cannot write {target}: its folder does not exist; create it first.")
    if source is not None and target.exists() and target.samefile(source):
        raise CheckpointError(f"{target} is the input {source} itself, which is never overwritten; choose another name.")
    _check_free(target, force=force)


def _check_free(target: Path, *, force: bool) -> None:
    """TargetExistsError if something is at `target`, be it a dangling link, unless `force`."""
    if os.path.lexists(target) and not force:
        raise TargetExistsError(target)


@contextlib.contextmanager
def replacing(target: Path, *, force: bool) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file next to `target`, and its path: it becomes `target` if the block succeeds, and vanishes if not."""
    temporary = target.with_name(f".relaxify-{secrets.token_hex(8)}{target.suffix}")
    try:
        with temporary.open("xb") as file:
            yield file, temporary
            file.flush()
            os.fsync(file.fileno())
        _check_free(target, force=force)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename durable; some file systems cannot, and then the file is whole all the same."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
