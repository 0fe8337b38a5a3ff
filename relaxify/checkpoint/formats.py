"""The kinds of checkpoint files that there are, told by their suffix. A new one is a file of its own and its name here."""

from __future__ import annotations

from pathlib import Path

from relaxify.checkpoint.container import Container
from relaxify.checkpoint.safetensors_file import SafetensorsContainer
from relaxify.checkpoint.torch_file import TorchContainer
from relaxify.record import CheckpointError

CONTAINERS: tuple[Container, ...] = (SafetensorsContainer(), TorchContainer())


def container_of(path: Path) -> Container:
    """The kind of file that a path names. CheckpointError if its suffix tells none."""
    for container in CONTAINERS:
        if path.suffix.lower() in container.suffixes:
            return container
    known = ", ".join(suffix for container in CONTAINERS for suffix in container.suffixes)
    raise CheckpointError(f"{path} has the suffix {path.suffix!r}, which tells no format; use one of {known}.")
