"""The kinds of checkpoint files, told by suffix or by how they begin. A new one is a file of its own and its name here."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Iterator
from pathlib import Path

from relaxify.checkpoint.container import Checkpoint, Container
from relaxify.checkpoint.deepspeed_folder import FIRST, MODEL, DeepSpeedContainer, tagged
from relaxify.checkpoint.distributed_folder import METADATA, DistributedContainer
from relaxify.checkpoint.safetensors_file import SafetensorsContainer
from relaxify.checkpoint.shards import INDEX, TORCH_INDEX, ShardsContainer, TorchShardsContainer
from relaxify.checkpoint.source import check_source
from relaxify.checkpoint.torch_file import BEGINNINGS, TorchContainer
from relaxify.record import CheckpointError

CONTAINERS: tuple[Container, ...] = (
    SafetensorsContainer(),
    DeepSpeedContainer(),
    TorchContainer(),
    ShardsContainer(),
    TorchShardsContainer(),
    DistributedContainer(),
)
INDICES = (INDEX, TORCH_INDEX, METADATA, MODEL)
_PART = re.compile(r"(.+)-\d{5}-of-\d{5}(\.safetensors|\.bin)")
_IN_FOLDERS = (METADATA, *FIRST, f"*{INDEX}", f"*{TORCH_INDEX}", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt")


def container_of(path: Path) -> Container:
    """The kind of file that a path names. CheckpointError if its suffix tells none."""
    if (container := _by_suffix(path)) is None:
        raise CheckpointError(f"{path} has the suffix {path.suffix!r}, which tells no format; use one of {_known()}.")
    return container


def container_at(path: Path) -> Container:
    """The kind of a file that is there, whatever its name. CheckpointError if neither suffix nor content tells it."""
    container = _by_suffix(path) or _by_content(path)
    if container is None:
        raise CheckpointError(
            f"{path} has the suffix {path.suffix!r}, which tells no format, and begins as no checkpoint does; give one of "
            f"{_known()}."
        )
    return container


def _by_suffix(path: Path) -> Container | None:
    return next((container for container in CONTAINERS if path.name.lower().endswith(container.suffixes)), None)


def _by_content(path: Path) -> Container | None:
    with path.open("rb") as file:
        begin = file.read(9)
    if begin.startswith(BEGINNINGS):
        return TorchContainer()
    # the length of its header, and the header, which is JSON
    return SafetensorsContainer() if begin[8:] == b"{" else None


def _known() -> str:
    return ", ".join(suffix for container in CONTAINERS for suffix in container.suffixes if suffix not in INDICES)


def checkpoint_at(path: Path) -> Path:
    """The checkpoint file in a folder, as save_pretrained and Accelerate's save_model write one; a file is itself.

    CheckpointError if the folder has none, or several of a kind, or if the file is a part of a checkpoint.
    """
    if not _is_folder(path):
        if (part := _PART.fullmatch(path.name)) and (index := path.with_name(f"{part[1]}{part[2]}.index.json")).exists():
            raise CheckpointError(f"{path} is one of several files of a checkpoint; give their index, {index.name}.")
        return path
    path = tagged(path)
    for pattern in _IN_FOLDERS:
        found = sorted(path.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(f"{path} has {len(found)} checkpoints, such as {found[0].name}; give one of them.")
    raise CheckpointError(f"{path} is a folder without a checkpoint in it; give the file.")


def _is_folder(path: Path) -> bool:
    # what the system cannot tell is told when the file is opened
    try:
        return path.is_dir()
    except OSError:
        return False


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the search for circles, which would look at each of a million small objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Path, Checkpoint]]:
    """A checkpoint, open until the context ends, and its file, of which errors then speak."""
    try:
        path = checkpoint_at(path)
        check_source(path)
        container = container_at(path)
    except CheckpointError as error:
        error.path = str(path)
        raise
    with speaking_of(path), uncollected(), container.opened(path) as checkpoint:
        yield path, checkpoint


@contextlib.contextmanager
def speaking_of(path: Path) -> Iterator[None]:
    """Errors that name no file yet name this one."""
    try:
        yield
    except CheckpointError as error:
        if error.path:
            raise
        named = type(error)(f"{path}: {error}")
        named.path = str(path)
        raise named from error
