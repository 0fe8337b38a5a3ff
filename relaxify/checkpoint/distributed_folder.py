"""Folders that torch.distributed.checkpoint writes (FSDP, Lightning, Accelerate): many processes' parts of one state dict.

`.metadata` is a pickle that says which file has which part of which tensor, and where; each part is a file of torch.save's
by itself. A state dict of state dicts is kept flat there, with the way to each entry. Lightning puts what else it knows
in `meta.pt`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaxify.checkpoint.container import Checkpoint
from relaxify.checkpoint.copying import Copy
from relaxify.checkpoint.foreign import without_foreign
from relaxify.checkpoint.joined import Block, assembled
from relaxify.checkpoint.pickles import Call, Global, read_pickle
from relaxify.checkpoint.pickling import MAX_DEPTH
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.source import Slice, Source
from relaxify.checkpoint.storages import Meanings, TorchTensor, tensor_like
from relaxify.checkpoint.torch_file import FREE_OBJECTS, LARGEST_PICKLE, TorchFile, read_torch
from relaxify.checkpoint.tree import Where, tensor_of, walk
from relaxify.record import CheckpointError

METADATA, EXTRA = ".metadata", "meta.pt"
LIGHTNING = "pytorch-lightning_version"
# of a list, beyond one for each entry
FREE_PLACES = 1000
# as densely as torch.distributed.checkpoint writes them
BYTES_PER_OBJECT = 4
_OPTIMIZER = "optimizer_"
_SIZE = Global("torch", "Size")


@dataclass(frozen=True)
class Part:
    """Where a part of an entry lies: its file, and the first byte and the number of bytes in it."""

    file: str
    begin: int
    length: int


@dataclass(frozen=True)
class Layout:
    """What `.metadata` says: the tensors' shapes and their blocks' sizes by offsets, the way to each entry, the parts."""

    tensors: dict[str, tuple[tuple[int, ...], dict[tuple[int, ...], tuple[int, ...]]]]
    ways: dict[str, Where]
    parts: dict[str, dict[tuple[int, ...], Part]]


class _Sizes(Meanings):
    """Sizes are what most of the calls in a folder's metadata make."""

    def called(self, call: Call) -> Any:
        is_size = call.function == _SIZE and len(call.arguments) == 1 and isinstance(call.arguments[0], tuple)
        return call.arguments[0] if is_size else super().called(call)


class DistributedContainer:
    """State dicts nested in others; read only."""

    suffixes: tuple[str, ...] = (METADATA,)
    nested: bool = True

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[TorchFile]:
        with contextlib.ExitStack() as stack:
            index = stack.enter_context(Source(path))
            layout = _layout(index)
            names = sorted({part.file for parts in layout.parts.values() for part in parts.values()})
            files = {name: stack.enter_context(Source(_beside(path, name))) for name in names}
            _check_disjoint(layout)
            meanings = Meanings(lambda _: None)
            content = _nested({layout.ways[name]: _entry(name, layout, files, meanings) for name in layout.ways})
            sources = [index, *files.values()]
            if (extra := path.with_name(EXTRA)).is_file():
                sources.append(stack.enter_context(Source(extra)))
                content = _with_extra(content, sources[-1], meanings)
            content, left_out = without_foreign(content, meanings)
            yield TorchFile(content, walk(content), tuple(sources), left_out)

    def written(self, checkpoint: Checkpoint, plans: Sequence[StatePlan]) -> tuple[Callable[[Copy], None], tuple[str, ...]]:
        raise CheckpointError("no such folder is written; give the output a name such as model.safetensors or model.pt.")


def _layout(index: Source) -> Layout:
    if index.length > LARGEST_PICKLE:
        raise _invalid(f"it has {index.length:,} bytes")
    most = FREE_OBJECTS + index.length // BYTES_PER_OBJECT
    found, _ = read_pickle(index.fetch(0, index.length), _Sizes(lambda _: None), most=most)
    try:
        return _layout_of(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _invalid("it is not as torch.distributed.checkpoint writes it") from error


def _layout_of(found: Any) -> Layout:
    fields = _fields(found, "Metadata")
    tensors, ways = {}, dict(fields.get("planner_data") or {})
    described: dict[str, Any] = fields["state_dict_metadata"]
    for name, entry in described.items():
        if entry.function.name == "TensorStorageMetadata":
            of = _fields(entry, "TensorStorageMetadata")
            chunks = [_fields(chunk, "ChunkStorageMetadata") for chunk in of["chunks"]]
            blocks = {_sizes(chunk["offsets"]): _sizes(chunk["sizes"]) for chunk in chunks}
            tensors[name] = _sizes(of["size"]), blocks
    parts: defaultdict[str, dict[tuple[int, ...], Part]] = defaultdict(dict)
    for key, entry in fields["storage_data"].items():
        of = _fields(key, "MetadataIndex")
        parts[of["fqn"]][_sizes(of.get("offset") or ())] = _part(_fields(entry, "_StorageInfo"))
    if any(not isinstance(way, tuple) or not 0 < len(way) <= MAX_DEPTH for way in ways.values()):
        raise _invalid("the way to an entry in it is none")
    wanted = {name: ways.get(name, (name,)) for name in [*ways, *described] if name in described}
    return Layout(tensors, {name: tuple(map(_step, way)) for name, way in wanted.items()}, dict(parts))


def _fields(call: Any, name: str) -> dict[str, Any]:
    """The attributes of an object of a class by that name, in whichever module it was then."""
    if not isinstance(call, Call) or not isinstance(call.function, Global) or call.function.name != name:
        raise _invalid(f"what should be {name} in it is none")
    (fields,) = call.state
    if not isinstance(fields, dict):
        raise _invalid(f"a {name} in it has no fields")
    return fields


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or not all(map(_is_size, value)):
        raise _invalid("a size in it is none")
    return tuple(value)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**60


def _step(key: Any) -> str | int:
    if not isinstance(key, str | int):
        raise _invalid("the way to an entry in it is none")
    return key


def _part(fields: Mapping[str, Any]) -> Part:
    if fields.get("transform_descriptors"):
        raise CheckpointError("its parts are compressed or encrypted, which is not read; save it without extensions.")
    if not isinstance(fields["relative_path"], str) or not _is_size(fields["offset"]) or not _is_size(fields["length"]):
        raise _invalid("the place of a part in it is none")
    return Part(fields["relative_path"], fields["offset"], fields["length"])


def _beside(index: Path, name: str) -> Path:
    """A file in the folder, and in no other."""
    if Path(name).name != name or not name.endswith(".distcp"):
        raise _invalid(f"it names {name!r}, which is no file beside it")
    path = index.with_name(name)
    if not path.is_file():
        raise CheckpointError(f"its file {name} is missing; copy all of the checkpoint's files.")
    return path


def _check_disjoint(layout: Layout) -> None:
    """One part of a file that is many entries would make much of little."""
    places = sorted((part.file, part.begin, part.length) for parts in layout.parts.values() for part in parts.values())
    for (first, begin, length), (second, start, _) in itertools.pairwise(places):
        if first == second and start < begin + length:
            raise _invalid(f"two parts in {first} overlap")


def _entry(name: str, layout: Layout, files: Mapping[str, Source], meanings: Meanings) -> Any:
    parts = layout.parts.get(name)
    if not parts:
        raise _invalid(f"it does not say where {name!r:.80} is")
    if name not in layout.tensors:
        return _read(next(iter(parts.values())), files, meanings)
    shape, blocks = layout.tensors[name]
    if parts.keys() == {()}:
        parts = {tuple(0 for _ in shape): parts[()]}
    if parts.keys() != blocks.keys():
        raise _invalid(f"it does not say where all of {name!r:.80} is")
    found = {offsets: tensor_of(_read(part, files, meanings)) for offsets, part in parts.items()}
    if any(tensor is None or tensor.view.shape != blocks[offsets] for offsets, tensor in found.items()):
        raise _invalid(f"what is where {name!r:.80} should be is no tensor of its shape")
    return _whole(name, shape, {offsets: tensor for offsets, tensor in found.items() if tensor is not None})


def _whole(name: str, shape: tuple[int, ...], tensors: Mapping[tuple[int, ...], TorchTensor]) -> TorchTensor:
    dtypes = {tensor.view.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or any(tensor.view.size > tensor.storage.read.size for tensor in tensors.values()):
        raise _invalid(f"the parts of {name!r:.80} are not whole, or of several dtypes")
    (dtype,) = dtypes
    blocks = [
        Block(offsets, tensor.view.shape, tensor.view.row_by_row(tensor.storage.read)) for offsets, tensor in tensors.items()
    ]
    return tensor_like(assembled(shape, dtype, blocks), dtype, shape, name)


def _read(part: Part, files: Mapping[str, Source], meanings: Meanings) -> Any:
    content, found = read_torch(Slice(files[part.file], part.begin, part.length))
    meanings.is_plain &= found.is_plain
    return content


class _Listed(dict[Any, Any]):
    """A list in the making, by index."""


def _nested(entries: Mapping[Where, Any]) -> Any:
    """The dictionaries and lists that lead to the entries. Places of a list that nothing leads to are empty."""
    root: dict[Any, Any] = {}
    for way, value in entries.items():
        at = root
        for step, below in itertools.pairwise(way):
            at = at.setdefault(step, _Listed() if isinstance(below, int) else {})
            if not isinstance(at, dict) or isinstance(at, _Listed) != isinstance(below, int):
                raise _invalid(f"two ways in it do not agree at {step!r:.80}")
        at[way[-1]] = value
    return _with_lists(root, len(entries))


def _with_lists(value: Any, most: int) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _with_lists(part, most) for key, part in value.items()}
    if not isinstance(value, _Listed):
        return inner
    if max(inner) > most + FREE_PLACES:
        raise _invalid("a list in it has more places than entries")
    return [inner.get(index) for index in range(max(inner) + 1)]


def _with_extra(content: dict[Any, Any], extra: Source, meanings: Meanings) -> dict[Any, Any]:
    """With what Lightning keeps apart, as it would be in one file."""
    more, found = read_torch(extra)
    if not isinstance(more, dict):
        raise CheckpointError(f"its file {EXTRA} holds no dictionary; save it again.")
    meanings.is_plain &= found.is_plain
    if LIGHTNING in more:
        if "model" in content:
            content = {"state_dict": content.pop("model"), **content}
        optimizers = [key for key in content if isinstance(key, str) and key.startswith(_OPTIMIZER)]
        more["optimizer_states"] = [content.pop(key) for key in sorted(optimizers, key=lambda key: (len(key), key))]
    return content | more


def _invalid(why: str) -> CheckpointError:
    return CheckpointError(f"its {METADATA} is invalid: {why}; save it again.")
