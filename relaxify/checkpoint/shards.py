"""A checkpoint in several files and an index that says which tensor is in which, as transformers and Accelerate write it.

The files are safetensors, or torch.save's (pytorch_model.bin.index.json).
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from relaxify.checkpoint.container import Checkpoint, Description, Piece, not_nested
from relaxify.checkpoint.copying import Copy
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.safetensors_file import SafetensorsContainer, SafetensorsFile, made_piece
from relaxify.checkpoint.source import Source
from relaxify.checkpoint.state import StateDict
from relaxify.checkpoint.storages import TorchTensor, made_tensor
from relaxify.checkpoint.torch_file import TorchContainer, TorchFile
from relaxify.checkpoint.tree import walk
from relaxify.record import CheckpointError

INDEX, TORCH_INDEX = ".safetensors.index.json", ".bin.index.json"
# of the index, in bytes
LARGEST = 100_000_000


@dataclass(frozen=True)
class Shards:
    """The open files, and which of them has which tensor."""

    index: Source
    files: Sequence[SafetensorsFile]
    owners: Mapping[str, SafetensorsFile]

    @property
    def sources(self) -> Sequence[Source]:
        return (self.index, *(file.source for file in self.files))

    @property
    def states(self) -> Sequence[StateDict]:
        states = {id(file): file.states[0] for file in self.files}
        of = {key: states[id(file)] for key, file in self.owners.items()}
        shapes = {key: state.shapes[key] for key, state in of.items()}

        def load(key: str) -> Tensor:
            return of[key].load(key)

        size = sum(state.file_size for state in states.values())
        return (StateDict(shapes, load, lambda key: self.owners[key].stored(key), file_size=size),)

    def weights(self) -> Iterator[StateDict]:
        yield from self.states

    def chosen(self, key: str) -> Checkpoint:
        raise not_nested(key)

    def described(self) -> Description:
        return Description(f"{len(self.files)} safetensors files and their index", ())

    def whole(self, plans: Sequence[StatePlan]) -> tuple[OrderedDict[str, TorchTensor], tuple[str, ...]]:
        (plan,) = plans
        kept = {new: self.owners[key].tensor(plan, key) for key, new in plan.renamed().items()}
        return OrderedDict(plan.with_added(kept, made_tensor)), ()

    def pieces(self, plans: Sequence[StatePlan]) -> tuple[Sequence[Piece], dict[str, str] | None, tuple[str, ...]]:
        (plan,) = plans
        kept = {new: self.owners[key].piece(plan, key, new) for key, new in plan.renamed().items()}
        return list(plan.with_added(kept, made_piece).values()), {"format": "pt"}, ()


class ShardsContainer:
    """One state dict; written by `sharding.py`, with what else is in its folder."""

    suffixes: tuple[str, ...] = (INDEX,)
    nested: bool = False

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[Shards]:
        with contextlib.ExitStack() as stack:
            index = stack.enter_context(Source(path))
            named = _weight_map(index)
            paths = {name: _beside(path, name, ".safetensors") for name in sorted({*named.values()})}
            files = {name: stack.enter_context(SafetensorsContainer().opened(shard)) for name, shard in paths.items()}
            _check_owners(named, {name: file.entries for name, file in files.items()})
            yield Shards(index, tuple(files.values()), {key: files[name] for key, name in named.items()})

    def written(self, checkpoint: Checkpoint, plans: Sequence[StatePlan]) -> tuple[Callable[[Copy], None], tuple[str, ...]]:
        raise _goes_to_a_folder()


class TorchShardsContainer:
    """One state dict, whose tensors are in several of torch.save's files."""

    suffixes: tuple[str, ...] = (TORCH_INDEX,)
    nested: bool = True

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[TorchFile]:
        with contextlib.ExitStack() as stack:
            index = stack.enter_context(Source(path))
            named = _weight_map(index)
            paths = {name: _beside(path, name, TorchContainer.suffixes) for name in sorted({*named.values()})}
            files = {name: stack.enter_context(TorchContainer().opened(shard)) for name, shard in paths.items()}
            _check_owners(named, {name: _entries(name, file) for name, file in files.items()})
            content = OrderedDict((key, files[name].content[key]) for key, name in named.items())
            left_out = tuple(name for file in files.values() for name in file.left_out)
            yield TorchFile(content, walk(content), (index, *(file.sources[0] for file in files.values())), left_out)

    def written(self, checkpoint: Checkpoint, plans: Sequence[StatePlan]) -> tuple[Callable[[Copy], None], tuple[str, ...]]:
        raise _goes_to_a_folder()


def _entries(name: str, file: TorchFile) -> dict[Any, Any]:
    if not isinstance(file.content, dict):
        raise _invalid(f"{name} holds no state dict")
    return file.content


def _goes_to_a_folder() -> CheckpointError:
    return CheckpointError("an index is written with its files, to a folder; give the output a name without a suffix.")


def _weight_map(index: Source) -> dict[str, str]:
    if index.length > LARGEST:
        raise _invalid(f"it has {index.length:,} bytes")
    try:
        document: Any = json.loads(bytes(index.fetch(0, index.length)))
        named = document["weight_map"]
        if not all(isinstance(text, str) for pair in named.items() for text in pair):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _invalid("it has no weight_map from keys to files") from error
    return dict(named)


def _beside(index: Path, name: str, suffixes: str | tuple[str, ...]) -> Path:
    """A file in the index's folder, and in no other."""
    if Path(name).name != name or not name.endswith(suffixes):
        raise _invalid(f"it names {name!r}, which is no file of its kind beside it")
    path = index.with_name(name)
    if not path.is_file():
        raise CheckpointError(f"its file {name} is missing; copy all of the checkpoint's files.")
    return path


def _check_owners(named: Mapping[str, str], files: Mapping[str, Mapping[str, Any]]) -> None:
    """CheckpointError unless every file has just the keys that the index says."""
    for name, keys in files.items():
        if strays := [key for key in keys if named.get(key) != name]:
            raise _invalid(f"{name} has {strays[0]!r}, of which it does not say so")
    if missing := [key for key, name in named.items() if key not in files[name]]:
        raise _invalid(f"{missing[0]!r} is not in {named[missing[0]]}")


def _invalid(why: str) -> CheckpointError:
    return CheckpointError(f"the index of its files is invalid: {why}; save the model again.")
