"""torch.save files: loaded without running code, with the state dicts in them found wherever they are nested."""

from __future__ import annotations

import mmap
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from relaxify.checkpoint.container import Checkpoint, Piece
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.state import StateDict
from relaxify.checkpoint.terms import is_term_key
from relaxify.record import CheckpointError

Where = tuple[Any, ...]
# what has been folded into: first byte, byte after the last, the tensor's identity and that of the term's weight
Memory = list[tuple[int, int, object, object]]


class TorchContainer:
    """Whatever torch.save wrote."""

    suffixes: tuple[str, ...] = (".pt", ".pth", ".ckpt", ".bin")
    nested: bool = True

    def opened(self, path: Path) -> AbstractContextManager[TorchFile]:
        content = load_checkpoint(path)
        return nullcontext(TorchFile(content, walk(content)))

    def written(
        self, checkpoint: Checkpoint, plans: Sequence[StatePlan]
    ) -> tuple[Callable[[BinaryIO], None], tuple[str, ...]]:
        content, lost = checkpoint.whole(plans)
        return lambda file: torch.save(content, file), lost

    def read(self, path: Path) -> Any:
        return load_checkpoint(path)


def load_checkpoint(path: Path) -> Any:
    """What torch.save wrote, on the CPU, mapped from the file where its format allows. CheckpointError if it is code."""
    # a private mapping, so that changing a tensor in place never reaches the file
    mapped = zipfile.is_zipfile(path) and torch.serialization.get_default_mmap_options() == mmap.MAP_PRIVATE
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    # a damaged or hostile pickle can raise anything
    except Exception as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> CheckpointError:
    text = str(error)
    if "TorchScript archive" in text:
        return CheckpointError("it is a TorchScript archive, which is code; save the model's state_dict instead.")
    if isinstance(error, pickle.UnpicklingError) and (name := re.search(r"GLOBAL (\S+)", text)):
        return CheckpointError(
            f"reading it would run code ({name[1]}), which convert never does; save the model's state_dict alone."
        )
    return CheckpointError(f"it is not a complete torch checkpoint ({type(error).__name__}); save or copy it again.")


@dataclass(frozen=True)
class Nested:
    """What a walk over a checkpoint finds: the mappings that hold terms' keys, and the parents of optimizer states."""

    state_dicts: list[tuple[MutableMapping[Any, Any], Where]]
    optimizers: list[tuple[Any, Where]]


@dataclass(frozen=True)
class TorchFile:
    """A checkpoint in memory, which becomes its clean self once `whole` or `pieces` is asked for."""

    content: Any
    found: Nested

    @property
    def states(self) -> Sequence[StateDict]:
        return [state_dict_of(mapping, where) for mapping, where in self.found.state_dicts]

    def whole(self, plans: Sequence[StatePlan]) -> tuple[Any, tuple[str, ...]]:
        mappings = {where: mapping for mapping, where in self.found.state_dicts}
        folded: Memory = []
        for plan in plans:
            clean_state_dict(mappings[plan.state.where], plan, folded)
        leave_out_optimizers(self.found)
        return self.content, tuple(".".join(map(str, where)) for _, where in self.found.optimizers)

    def pieces(self, plans: Sequence[StatePlan]) -> tuple[Sequence[Piece], dict[str, str] | None, tuple[str, ...]]:
        content, lost = self.whole(plans)
        if len(plans) > 1:
            names = " and ".join(repr(plan.report.name) for plan in plans)
            raise CheckpointError(f"it holds several state dicts ({names}), a .safetensors file one; write a .pt.")
        where = plans[0].state.where
        state_dict = content
        for key in where:
            state_dict = state_dict[key]
        return [Piece.of_tensor(key, value) for key, value in state_dict.items()], None, (*lost, *others(content, where))


def walk(checkpoint: Any) -> Nested:
    """Find the state dicts with terms and the optimizer states, each object once, in the order they come."""
    found = Nested([], [])
    seen: set[int] = set()
    pending: list[tuple[Any, Where]] = [(checkpoint, ())]
    while pending:
        item, where = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if _holds_terms(item):
            found.state_dicts.append((item, where))
        children = list(_children(item))
        found.optimizers.extend((item, (*where, key)) for key, child in children if _is_optimizer_state(child))
        pending.extend((child, (*where, key)) for key, child in reversed(children) if not _is_optimizer_state(child))
    return found


def leave_out_optimizers(found: Nested) -> None:
    """Optimizer states count parameters, the terms' among them: the plain model's parameters would get the wrong ones."""
    for parent, where in reversed(found.optimizers):
        if isinstance(parent, tuple):
            parent[where[-1]].clear()
        else:
            del parent[where[-1]]


def _children(item: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(item, dict):
        yield from item.items()
    elif isinstance(item, list | tuple):
        yield from enumerate(item)


def _holds_terms(item: Any) -> bool:
    return isinstance(item, dict) and any(
        isinstance(key, str) and is_term_key(key) and isinstance(value, Tensor) for key, value in item.items()
    )


def _is_optimizer_state(item: Any) -> bool:
    return isinstance(item, dict) and {"state", "param_groups"} <= item.keys()


def others(checkpoint: Any, where: Where) -> Iterator[str]:
    """The names of everything in a checkpoint except what lies at `where`."""
    item = checkpoint
    for depth, key in enumerate(where):
        yield from (".".join(map(str, (*where[:depth], other))) for other, _ in _children(item) if other != key)
        item = item[key]


def state_dict_of(mapping: Mapping[Any, Any], where: Where) -> StateDict:
    """A state dict in memory, as StateDict; entries that are not tensors are ignored."""
    tensors = {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, Tensor)}
    first: dict[tuple[object, ...], str] = {}
    same_as = {key: first.setdefault(identity(value), key) for key, value in tensors.items() if value.numel()}
    return StateDict({key: tuple(value.shape) for key, value in tensors.items()}, tensors.__getitem__, where, same_as)


def identity(tensor: Tensor) -> tuple[object, ...]:
    """What two tensors have in common exactly if they are one."""
    if tensor.layout != torch.strided:
        return (id(tensor),)
    storage = tensor.untyped_storage().data_ptr() or id(tensor)
    return storage, tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride()


def clean_state_dict(mapping: MutableMapping[Any, Any], plan: StatePlan, folded: Memory) -> None:
    """Carry out the plan on a state dict in memory."""
    _fold(mapping, plan, folded)
    removed = set(plan.report.removed)
    entries = [(key, value) for key, value in mapping.items() if key not in removed]
    mapping.clear()
    for key, value in entries:
        mapping[key.removeprefix(plan.prefix) if isinstance(key, str) else key] = value
    metadata = getattr(mapping, "_metadata", None)
    if isinstance(metadata, dict):
        _clean_metadata(metadata, plan)


def _fold(mapping: Mapping[Any, Any], plan: StatePlan, folded: Memory) -> None:
    """Fold in place and each memory once, so that what was shared stays shared."""
    for key, (term, _) in plan.targets.items():
        tensor, source = mapping[key], identity(mapping[term.weight_keys[0]])
        if not tensor.numel():
            continue
        begin, end = _span(tensor)
        for other_begin, other_end, whole, other_source in folded:
            if begin < other_end and other_begin < end and (whole, other_source) != (identity(tensor), source):
                raise CheckpointError(f"{key} overlaps in memory with what another term is folded into; drop instead.")
        if any(whole == identity(tensor) for _, _, whole, _ in folded):
            continue
        with torch.no_grad():
            tensor.copy_(plan.load(key))
        folded.append((begin, end, identity(tensor), source))


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first byte of a tensor's memory and the one after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _clean_metadata(metadata: MutableMapping[Any, Any], plan: StatePlan) -> None:
    """The module versions that state_dict() notes, without the terms' modules and under the new names."""
    modules = set().union(*(term.modules() for term in plan.terms))
    entries = [(key, value) for key, value in metadata.items() if key not in modules]
    metadata.clear()
    for key, value in entries:
        if f"{key}.".startswith(plan.prefix):
            metadata[f"{key}."[len(plan.prefix) : -1]] = value
