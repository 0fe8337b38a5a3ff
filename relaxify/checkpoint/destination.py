"""Where a clean checkpoint goes: one file, or a new folder of several. Either is there whole in the end, or not at all."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from relaxify.checkpoint.container import Checkpoint, Container
from relaxify.checkpoint.copying import Copy, Progress
from relaxify.checkpoint.formats import container_of
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.sharding import DEFAULT_SIZE, Part, bytes_in, sharded
from relaxify.checkpoint.shards import INDEX, TORCH_INDEX
from relaxify.output import check_new_folder, check_target, new_folder, replacing
from relaxify.record import CheckpointError

# what save_pretrained writes beside weights
TEXTS = (".json", ".txt", ".jinja", ".md")
LONGEST_TEXT = 64 * 1024**2


@runtime_checkable
class Destination(Protocol):
    """A place that can be checked before anything is read, and filled once it is known with what."""

    def check(self, inputs: Sequence[Path]) -> None:
        """CheckpointError unless it may be written, and is none of the inputs."""
        ...

    def parts(self, checkpoint: Checkpoint, plans: Sequence[StatePlan]) -> tuple[Sequence[Part], tuple[str, ...]]:
        """What is to be written, file by file, and the names of what that lacks."""
        ...

    def filled(
        self, parts: Sequence[Part], inputs: Sequence[Path], progress: Progress | None
    ) -> contextlib.AbstractContextManager[Callable[[], Path]]:
        """A context in which all is written, at a path that can be asked for; it has its place when the context ends."""
        ...


@dataclass(frozen=True)
class OneFile:
    """A file of a kind that its suffix tells; one that exists is replaced only if `force`."""

    target: Path
    container: Container
    force: bool

    def check(self, inputs: Sequence[Path]) -> None:
        check_target(self.target, inputs=inputs, force=self.force)

    def parts(self, checkpoint: Checkpoint, plans: Sequence[StatePlan]) -> tuple[Sequence[Part], tuple[str, ...]]:
        write, lost = self.container.written(checkpoint, plans)
        return [Part(self.target.name, write)], lost

    @contextlib.contextmanager
    def filled(
        self, parts: Sequence[Part], inputs: Sequence[Path], progress: Progress | None
    ) -> Iterator[Callable[[], Path]]:
        with replacing(self.target, inputs=inputs, force=self.force) as new:
            (part,) = parts
            with Copy(new.file, progress) as copy:
                part.write(copy)
                copy.finish()
            yield new.named


@dataclass(frozen=True)
class Folder:
    """A new folder of safetensors files of at most `largest` bytes each, with their index, and texts of another folder."""

    target: Path
    largest: int
    texts: Path | None

    def check(self, inputs: Sequence[Path]) -> None:
        check_new_folder(self.target)

    def parts(self, checkpoint: Checkpoint, plans: Sequence[StatePlan]) -> tuple[Sequence[Part], tuple[str, ...]]:
        parts, lost = sharded(checkpoint, plans, self.largest)
        if self.texts is None:
            return parts, lost
        read = {source.path for source in checkpoint.sources}
        others = [path for path in sorted(self.texts.iterdir()) if path.is_file() and path not in read]
        texts = [path for path in others if _is_text(path)]
        parts = [*parts, *(Part(path.name, functools.partial(_copy_text, path), path.stat().st_size) for path in texts)]
        return parts, (*lost, *(path.name for path in others if path not in texts))

    @contextlib.contextmanager
    def filled(
        self, parts: Sequence[Part], inputs: Sequence[Path], progress: Progress | None
    ) -> Iterator[Callable[[], Path]]:
        with new_folder(self.target, inputs=inputs) as new:
            done, total = 0, sum(part.size for part in parts)
            for part in parts:
                with new.file(part.name) as file, Copy(file, _later(progress, done, total)) as copy:
                    part.write(copy)
                    copy.finish()
                    done += copy.size
            yield lambda: new.path


def _is_text(path: Path) -> bool:
    """Whether a file beside a checkpoint is a model's settings or words, and not another checkpoint's index."""
    known = path.suffix in TEXTS and not path.name.endswith((INDEX, TORCH_INDEX))
    return known and path.stat().st_size <= LONGEST_TEXT


def _copy_text(path: Path, copy: Copy) -> None:
    copy.write(path.read_bytes())


def _later(progress: Progress | None, before: int, total: int) -> Progress | None:
    """What is told of one of several files, so that it adds up."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, max(total, before + done))


def destination_of(target: Path, max_shard_size: int | str | None, texts: Path | None, *, force: bool) -> Destination:
    """A folder if the name has no suffix. CheckpointError if the suffix tells no format, or shards are to go to a file."""
    if not target.suffix:
        largest = DEFAULT_SIZE if max_shard_size is None else bytes_in(max_shard_size)
        return Folder(target, largest, texts)
    if max_shard_size is not None:
        raise CheckpointError(f"{target} is the name of one file; give several the name of a folder, without a suffix.")
    return OneFile(target, container_of(target), force)
