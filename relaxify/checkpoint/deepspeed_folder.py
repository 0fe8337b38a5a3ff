"""Folders that DeepSpeed writes: with ZeRO, every process has a part of the flattened weights in float32.

One `..._model_states.pt` says which parameters there are, of which shape, in which groups; each process's
`..._optim_states.pt` has its part of each group. In stages 1 and 2 the parts of a group are one vector, of which each
parameter is a piece; in stage 3 each process has its part of each parameter, the last ones padded.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from relaxify.checkpoint.container import Checkpoint
from relaxify.checkpoint.copying import Copy
from relaxify.checkpoint.data import Data
from relaxify.checkpoint.foreign import without_foreign
from relaxify.checkpoint.joined import Joined, joined
from relaxify.checkpoint.pickles import Call, Global
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.source import Source
from relaxify.checkpoint.storages import Meanings, TorchTensor, tensor_like
from relaxify.checkpoint.torch_file import TorchContainer, TorchFile, read_torch
from relaxify.checkpoint.tree import tensor_of, walk
from relaxify.modules.hanging import key_of
from relaxify.record import CheckpointError

MODEL, LATEST = "_model_states.pt", "latest"
LONGEST_TAG = 255
# the first files with and without weights in parts
FIRST = (f"mp_rank_00{MODEL}", f"zero_pp_rank_0_mp_rank_00{MODEL}")
_OPTIMIZER = "_optim_states.pt"
_WHOLE_MODEL = re.compile(rf"(zero_pp_rank_\d+_)?mp_rank_00{re.escape(MODEL)}")
# what is about the parts alone
_ABOUT_PARTS = (
    "optimizer",
    "buffer_names",
    "param_shapes",
    "frozen_param_shapes",
    "frozen_param_fragments",
    "shared_params",
)
Shape = tuple[int, ...]


def tagged(folder: Path) -> Path:
    """The folder of the latest checkpoint in a folder that DeepSpeed writes to; any other is itself."""
    latest = folder / LATEST
    if not latest.is_file() or latest.stat().st_size > LONGEST_TAG:
        return folder
    tag = latest.read_text(errors="replace").strip()
    if Path(tag).name != tag or not (folder / tag).is_dir():
        raise CheckpointError(f"{folder} says that its latest checkpoint is {tag!r}, which it lacks; give another folder.")
    return folder / tag


class DeepSpeedContainer:
    """What is in the first model states, the state dict under `module` put together; read only."""

    suffixes: tuple[str, ...] = (MODEL,)
    nested: bool = True

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[TorchFile]:
        with contextlib.ExitStack() as stack:
            models, parts = _files(path, MODEL), _files(path, _OPTIMIZER)
            if parts and (others := [file for file in models if not _WHOLE_MODEL.fullmatch(file.name)]):
                raise CheckpointError(
                    f"it is of a model in parallel parts or of experts ({others[0].name}), which is not read; save it whole."
                )
            sources = [stack.enter_context(Source(file)) for file in (*models, *parts)]
            meanings = Meanings(lambda _: None)
            contents = [_read(source, meanings) for source in sources]
            content, lost = contents[models.index(path)], tuple[str, ...]()
            if parts:
                states = [each.get("optimizer_state_dict") for each in contents[len(models) :]]
                content, lost = _whole(content, contents[: len(models)], states)
            content, left_out = without_foreign(content, meanings)
            yield TorchFile(content, walk(content), tuple(sources), (*left_out, *lost))

    def written(self, checkpoint: Checkpoint, plans: Sequence[StatePlan]) -> tuple[Callable[[Copy], None], tuple[str, ...]]:
        return TorchContainer().written(checkpoint, plans)


def _files(path: Path, suffix: str) -> list[Path]:
    """The files beside of one kind, by the numbers in their names."""
    found = path.parent.glob(f"*{suffix}")
    return sorted(found, key=lambda file: [int(part) for part in re.findall(r"\d+", file.name)])


def _read(source: Source, meanings: Meanings) -> dict[Any, Any]:
    content, found = read_torch(source)
    meanings.is_plain &= found.is_plain
    if not isinstance(content, dict):
        raise _invalid(f"{source.path.name} holds no dictionary")
    return content


def _whole(
    first: dict[Any, Any], model_states: Sequence[Mapping[Any, Any]], states: Sequence[Any]
) -> tuple[dict[Any, Any], tuple[str, ...]]:
    """The model states with all weights in them, and the names of those that are nowhere."""
    module, groups = first.get("module"), first.get("param_shapes")
    if not isinstance(module, dict) or not isinstance(groups, list) or not all(isinstance(state, dict) for state in states):
        raise _invalid("it lacks the module or the shapes of its parameters")
    shapes = [{name: _shape(size) for name, size in _mapping(group).items()} for group in groups]
    world = states[0].get("partition_count")
    world = max(world, default=0) if isinstance(world, list) else world
    if world != len(states):
        raise CheckpointError(f"it is of {world} processes, and has the files of {len(states)}; copy all of them.")
    if (stage := _stage(states[0])) == 3:
        weights = _of_parts(shapes, [_flat(state, "fp32_flat_groups") for state in states])
        frozen = [_mapping(state.get("frozen_param_fragments") or {}) for state in model_states]
        weights |= _frozen(_mapping(first.get("frozen_param_shapes") or {}), frozen)
    else:
        weights = _of_vectors(shapes, [_flat(state, "single_partition_of_fp32_groups") for state in states], states[0])
    buffers = first.get("buffer_names")
    names = buffers if isinstance(buffers, list) else []
    lost = _fill(module, weights, _mapping(first.get("shared_params") or {}), {*names} if stage == 3 else {*module})
    rest = {key: value for key, value in first.items() if key not in _ABOUT_PARTS}
    return rest, ("optimizer_state_dict", *(f"module.{key}" for key in lost))


def _mapping(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _invalid("what should be names and values is none")
    return value


def _shape(value: Any) -> Shape:
    if isinstance(value, Call) and value.function == Global("torch", "Size"):
        value = value.arguments[0] if value.arguments else ()
    if not isinstance(value, tuple | list) or not all(type(size) is int and 0 <= size < 2**60 for size in value):
        raise _invalid("the shape of a parameter is none")
    return tuple(value)


def _stage(state: Mapping[Any, Any]) -> int:
    stage = state.get("zero_stage")
    if isinstance(stage, Call) and stage.arguments:
        (stage, *_) = stage.arguments
    if stage not in (1, 2, 3):
        raise _invalid(f"it is of the ZeRO stage {stage!r:.40}, which is not read")
    return int(stage)


def _flat(state: Mapping[Any, Any], key: str) -> list[TorchTensor]:
    """One process's part of each group."""
    found = state.get(key)
    tensors = [tensor_of(value) for value in found] if isinstance(found, list | tuple) else []
    flat = [tensor for tensor in tensors if tensor is not None and len(tensor.view.shape) == 1]
    if not flat or len(flat) < len(tensors) or any(tensor.view.size > tensor.storage.read.size for tensor in flat):
        raise _invalid(f"its {key} are no vectors")
    return flat


def _data(tensor: TorchTensor) -> Data:
    return tensor.view.row_by_row(tensor.storage.read)


def _piece(name: str, data: Data, begin: int, shape: Shape, like: TorchTensor) -> TorchTensor:
    """A parameter that is a piece of a vector, from this entry on."""
    width = like.view.dtype.itemsize
    found = data.part(begin * width, math.prod(shape) * width)
    if found.size != math.prod(shape) * width:
        raise _invalid(f"{name!r:.80} is beyond what its files have")
    return tensor_like(found, like.view.dtype, shape, name)


def _of_vectors(
    shapes: Sequence[Mapping[str, Shape]], ranks: Sequence[Sequence[TorchTensor]], state: Mapping[Any, Any]
) -> dict[str, TorchTensor]:
    """Stages 1 and 2: the parts of a group one after the other are all of its parameters one after the other."""
    paddings = state.get("param_alignment_paddings") or [[0] * len(group) for group in shapes]
    if any(len(flat) != len(shapes) for flat in ranks) or not _fit(paddings, shapes):
        raise _invalid("its groups are not those of its files")
    found = {}
    for index, group in enumerate(shapes):
        parts = [flat[index] for flat in ranks]
        vector, begin = Joined(tuple(map(_data, parts))), 0
        for padding, (name, shape) in zip(paddings[index], group.items(), strict=True):
            found[name] = _piece(name, vector, begin, shape, parts[0])
            begin += math.prod(shape) + padding
        _check_used(begin, vector.size // parts[0].view.dtype.itemsize, 2 * len(ranks))
    return found


def _fit(paddings: Any, shapes: Sequence[Mapping[str, Shape]]) -> bool:
    return (
        isinstance(paddings, list)
        and len(paddings) == len(shapes)
        and all(isinstance(of, list) and len(of) == len(group) for of, group in zip(paddings, shapes, strict=True))
        and all(type(value) is int and 0 <= value < 2**60 for of in paddings for value in of)
    )


def _of_parts(shapes: Sequence[Mapping[str, Shape]], ranks: Sequence[Sequence[TorchTensor]]) -> dict[str, TorchTensor]:
    """Stage 3: each process's vector is its part of each parameter, one after the other."""
    vectors = [joined([_data(tensor) for tensor in flat]) for flat in ranks]
    like, begin = ranks[0][0], 0
    width, found = like.view.dtype.itemsize, {}
    for name, shape in [item for group in shapes for item in group.items()]:
        size = -(-math.prod(shape) // len(ranks))
        parts = Joined(tuple(vector.part(begin * width, size * width) for vector in vectors))
        found[name] = _piece(name, parts, 0, shape, like)
        begin += size
    for vector in vectors:
        _check_used(begin, vector.size // width, 1)
    return found


def _check_used(used: int, there: int, aligned: int) -> None:
    """Nothing is left over but what makes the parts even."""
    if -(-used // aligned) != -(-there // aligned):
        raise _invalid(f"its parameters have {used:,} entries, and its files {there:,}")


def _frozen(shapes: Mapping[str, Any], ranks: Sequence[Mapping[str, Any]]) -> dict[str, TorchTensor]:
    """What is not trained has a part in each process's model states."""
    found = {}
    for name, size in shapes.items():
        parts = [tensor_of(fragments.get(name)) for fragments in ranks]
        tensors = [part for part in parts if part is not None]
        if len(tensors) < len(parts) or any(part.view.size > part.storage.read.size for part in tensors):
            raise _invalid(f"it lacks a part of {name!r:.80}")
        found[name] = _piece(name, Joined(tuple(map(_data, tensors))), 0, _shape(size), tensors[0])
    return found


def _fill(
    module: dict[Any, Any], weights: Mapping[str, TorchTensor], shared: Mapping[Any, Any], whole: set[Any]
) -> list[str]:
    """Put the weights in their places, under all of their names; which are nowhere. `whole` are names of what is there."""
    same = {**_of_one_layer(module, weights), **_of_one_memory(module, weights), **shared}
    lost = []
    for key, value in list(module.items()):
        name = key if key in weights else same.get(key, "")
        if name in weights:
            module[key] = weights[name]
        elif key not in whole and _is_placeholder(value):
            lost.append(key)
            del module[key]
    return lost


def _of_one_memory(module: Mapping[Any, Any], weights: Mapping[str, TorchTensor]) -> dict[Any, str]:
    """Other names of parameters that share their memory, which has one name among the parts."""
    places = {tensor.identity: key for key in weights if (tensor := tensor_of(module.get(key))) and tensor.view.size}
    tensors = {key: tensor for key, value in module.items() if key not in weights and (tensor := tensor_of(value))}
    return {key: places[tensor.identity] for key, tensor in tensors.items() if tensor.identity in places}


def _of_one_layer(module: Mapping[Any, Any], weights: Mapping[str, TorchTensor]) -> dict[Any, str]:
    """Other names of parameters of a layer with several names, which has one record under all of them."""
    own, first, found = key_of("", "_extra_state"), dict[bytes, str](), {}
    for key, value in module.items():
        tensor = tensor_of(value) if isinstance(key, str) and f".{key}".endswith(f".{own}") else None
        if tensor is None or tensor.view.size > tensor.storage.read.size:
            continue
        prefix = key.removesuffix(own)
        known = first.setdefault(bytes(_data(tensor).read()), prefix)
        for name in [name for name in module if known != prefix and isinstance(name, str) and name.startswith(prefix)]:
            if name not in weights and _is_placeholder(module[name]):
                found[name] = known + name.removeprefix(prefix)
    return found


def _is_placeholder(value: Any) -> bool:
    """Whether a tensor is empty, as those are whose entries are in parts."""
    tensor = tensor_of(value)
    return tensor is not None and not tensor.view.size


def _invalid(why: str) -> CheckpointError:
    return CheckpointError(f"the files of DeepSpeed do not fit together: {why}; save it again.")
