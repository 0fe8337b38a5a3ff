"""torch.save files: read without running code, tensors left in the file until they are needed, and written again."""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaxify.checkpoint.archive import is_archive, read_members, writing_members
from relaxify.checkpoint.container import Checkpoint, Description, Piece, state_dicts
from relaxify.checkpoint.copying import Copy
from relaxify.checkpoint.foreign import without_foreign
from relaxify.checkpoint.notes import Noted, noted_in
from relaxify.checkpoint.optimizers import average_without_terms, keep_groups, parameters_of, without_terms
from relaxify.checkpoint.pickles import Call, TruncatedError, invalid, read_pickle
from relaxify.checkpoint.pickling import write_pickle
from relaxify.checkpoint.plan import StatePlan
from relaxify.checkpoint.rest import UNREAD, rest_of
from relaxify.checkpoint.safetensors_header import check_key, in_safetensors
from relaxify.checkpoint.source import Source, other_kind
from relaxify.checkpoint.state import StateDict
from relaxify.checkpoint.storages import Meanings, Storage, Target, TorchTensor
from relaxify.checkpoint.tree import (
    Nested,
    Where,
    clean_state_dict,
    leave_out_optimizer,
    name_of,
    optimizer_at,
    others,
    state_dict_of,
    tensor_of,
    walk,
)
from relaxify.record import CheckpointError

# an empty list takes one byte in a pickle, and sixty in memory
FREE_OBJECTS, BYTES_PER_OBJECT = 2_000_000, 64
LARGEST_PICKLE = 2**30
# a tensor that repeats few entries many times becomes as large as it looks
LARGEST_EXPANDED = 128 * 2**20
# of names in an error
SHOWN = 8
# torch.save's format of before 2020: four pickles, a list of keys, and the storages one after the other
_MAGIC = 0x1950A86A20F9469CFC6C
_PICKLE = b"\x80"
BEGINNINGS = (b"PK\x03\x04", _PICKLE)
"""Of a zip file, and of what torch.save wrote before there was one."""
_PREFIXES = (2**20, 2**24, 2**28)


class TorchContainer:
    """Whatever torch.save wrote."""

    suffixes: tuple[str, ...] = (".pt", ".pth", ".ckpt", ".bin", ".model", ".tar")
    nested: bool = True

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[TorchFile]:
        with Source(path) as source:
            content, left_out = without_foreign(*read_torch(source))
            yield TorchFile(content, walk(content), (source,), left_out, noted_in(content))

    def written(self, checkpoint: Checkpoint, plans: Sequence[StatePlan]) -> tuple[Callable[[Copy], None], tuple[str, ...]]:
        content, lost = checkpoint.whole(plans)
        return lambda copy: write_torch(copy, content), lost


def write_torch(copy: Copy, content: Any) -> None:
    """What torch.save would write, storages copied as they are."""
    storages: dict[Storage, int] = {}

    def form(value: Any) -> Any:
        if isinstance(value, TorchTensor):
            return value.call
        if isinstance(value, Storage):
            return value.persistent(str(storages.setdefault(value, len(storages))))
        raise CheckpointError(f"it holds a {type(value).__name__}, which cannot be written; save the state_dict alone.")

    pickle = write_pickle(content, form)
    copy.expect(len(pickle) + sum(storage.written.size for storage in storages))
    with writing_members(copy) as members:
        members.add("data.pkl", pickle)
        members.add("byteorder", b"little")
        for storage, key in storages.items():
            members.add(f"data/{key}", storage.written)
        members.add("version", b"3\n")


def read_torch(source: Source) -> tuple[Any, Meanings]:
    """What torch.save wrote, with names and calls of what only code can read as data, and what was found in it."""
    return _read_archive(source) if is_archive(source) else _read_legacy(source)


def _most(source: Source) -> int:
    return FREE_OBJECTS + source.length // BYTES_PER_OBJECT


def _read_archive(source: Source) -> tuple[Any, Meanings]:
    members = read_members(source)
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        raise CheckpointError("it is a TorchScript archive, which is code; save the model's state_dict instead.")
    pickle = members.get("data.pkl")
    if pickle is None:
        raise invalid("it has no data.pkl")
    if pickle.size > min(LARGEST_PICKLE, 2 * source.length):
        raise invalid(f"its pickle has {pickle.size:,} bytes")
    if "byteorder" in members and bytes(members["byteorder"].read()[:6]) != b"little":
        raise CheckpointError("it was written on a big-endian machine; load and save it with torch first.")
    meanings = Meanings(lambda key: members.get(f"data/{key}"))
    content, _ = read_pickle(pickle.read(), meanings, most=_most(source))
    return content, meanings


def _read_legacy(source: Source) -> tuple[Any, Meanings]:
    """The pickles at the beginning are read with as much of the file as they turn out to need."""
    if bytes(source.fetch(0, 1)) != _PICKLE:
        raise invalid(other_kind(source) or "it begins as no file of torch does")
    for size in (*_PREFIXES, source.length):
        meanings = Meanings(lambda _: None)
        try:
            content, keys, begin = _read_pickles(source.fetch(0, min(size, source.length)), meanings, _most(source))
        except TruncatedError:
            if size >= min(source.length, LARGEST_PICKLE):
                raise
        else:
            _locate(source, meanings, keys, begin)
            return content, meanings
    raise invalid("its pickles have no end")


def _read_pickles(data: bytearray, meanings: Meanings, most: int) -> tuple[Any, Any, int]:
    magic, at = read_pickle(data, meanings, most=most)
    if magic != _MAGIC:
        raise invalid("it begins with no torch checkpoint")
    found = []
    for _ in range(4):
        value, at = read_pickle(data, meanings, begin=at, most=most)
        found.append(value)
    _, system, content, keys = found
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("it was written on a big-endian machine; load and save it with torch first.")
    return content, keys, at


def _locate(source: Source, meanings: Meanings, keys: Any, begin: int) -> None:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or {*keys} != {*meanings.storages}:
        raise invalid("its storages are not those that its tensors need")
    for key in keys:
        storage = meanings.storages[key]
        (count,) = struct.unpack("<q", source.fetch(begin, 8))
        if count != storage.count:
            raise invalid(f"the storage {key!r} has {count} entries and not {storage.count}")
        size = count * storage.width
        if begin + 8 + size > source.length:
            raise invalid("it is cut short")
        storage.put(source.range(begin + 8, size))
        begin += 8 + size


@dataclass(frozen=True)
class TorchFile:
    """An open checkpoint, which becomes its clean self once `whole` or `pieces` is asked for.

    `left_out` names what of it only code could read; `noted` is what the training module that saved it says of it.
    """

    content: Any
    found: Nested
    sources: tuple[Source, ...]
    left_out: tuple[str, ...] = ()
    noted: Noted | None = None

    @property
    def size(self) -> int:
        return sum(source.length for source in self.sources)

    @property
    def states(self) -> Sequence[StateDict]:
        if self.left_out and not self.found.state_dicts:
            more = f" and {len(self.left_out) - 1} more" if len(self.left_out) > 1 else ""
            raise CheckpointError(
                f"it holds no relaxify records but for what may be in {self.left_out[0]}{more}, which only code can read; "
                f"save the relaxed model's state_dict."
            )
        return [state_dict_of(self._own(mapping), where, self.size) for mapping, where in self._state_dicts]

    def _own(self, mapping: Any) -> Any:
        """Of a state dict, what is the model's own."""
        return mapping if self.noted is None else self.noted.note.without_averages(mapping)

    @property
    def _state_dicts(self) -> Sequence[tuple[Any, Where]]:
        return (*self.found.state_dicts, *(() if self.noted is None else self.noted.averages))

    def weights(self) -> Iterator[StateDict]:
        for mapping, where in self.found.weights:
            yield state_dict_of(mapping, where, self.size)

    def chosen(self, key: str) -> TorchFile:
        mapping, where = _at(key, self._state_dicts or self.found.weights)
        lost = [
            *self.left_out,
            *(others(self.content, where) if self.noted is None else self.noted.others(self.content, where)),
        ]
        mapping = self._own(mapping)
        return TorchFile(mapping, Nested([(mapping, ())], [(mapping, ())]), self.sources, tuple(lost))

    def described(self) -> Description:
        where = {state.where for state in state_dicts(self)}
        kind = "torch.save" if len(self.sources) == 1 else f"{len(self.sources)} files of torch"
        return Description(kind, (*rest_of(self.content, where), *((name, UNREAD) for name in self.left_out)))

    def whole(self, plans: Sequence[StatePlan]) -> tuple[Any, tuple[str, ...]]:
        mappings = self._mappings()
        lost = self._clean_optimizers(mappings, plans)
        for plan in plans:
            _fold(mappings[plan.state.where], plan)
            clean_state_dict(mappings[plan.state.where], plan)
        if self.noted is not None:
            self.noted.settle(self.content, plans)
        return self.content, (*self.left_out, *lost)

    def _mappings(self) -> dict[Where, Any]:
        return {where: mapping for mapping, where in (*self.found.weights, *self._state_dicts)}

    def _parameters_in(self, mapping: Any) -> Any:
        """Of a state dict, what may be parameters."""
        return mapping if self.noted is None else self.noted.note.parameters_in(mapping)

    def _clean_optimizers(self, mappings: Mapping[Where, Any], plans: Sequence[StatePlan]) -> list[str]:
        """Take the terms out of optimizer states, or these where it cannot be told how; the names of those."""
        if not (self.found.optimizers or self.found.averages):
            return []
        relaxed = [parameters_of(self._parameters_in(mappings[plan.state.where]), plan) for plan in plans]
        planned = {plan.state.where for plan in plans}
        plain = [parameters_of(mapping, None) for mapping, where in self.found.weights if where not in planned]
        # what is relaxed now has parameters that no optimizer has seen
        known = not any(plan.added for plan in plans)
        places = [(parent, where, optimizer_at(parent, where[-1])) for parent, where in self.found.optimizers]
        each = {id(optimizer): optimizer for *_, optimizer in places}
        stay = {key: without_terms(each[key], relaxed, plain, plans) if known else None for key in each}
        lost = [(parent, where) for parent, where, optimizer in places if stay[id(optimizer)] is None]
        for parent, where in reversed(lost):
            leave_out_optimizer(parent, where[-1])
        for scheduler in self.found.schedulers:
            keep_groups(scheduler, [groups for groups in stay.values() if groups is not None])
        averages = [
            (*where, name)
            for average, where in self.found.averages
            for name in average_without_terms(average, relaxed if known else ())
        ]
        return [name_of(where) for where in (*(where for _, where in lost), *averages)]

    def pieces(self, plans: Sequence[StatePlan]) -> tuple[Sequence[Piece], dict[str, str] | None, tuple[str, ...]]:
        mapping = self._mappings()[plans[0].state.where]
        content, lost = self.whole(plans)
        if len(plans) > 1:
            names = " and ".join(repr(plan.report.name) for plan in plans)
            raise CheckpointError(
                f"it holds several state dicts ({names}), a .safetensors file one; choose one by its key, or write a .pt."
            )
        pieces = [_piece(key, value) for key, value in mapping.items()]
        return pieces, None, (*lost, *others(content, plans[0].state.where))


def _at(key: str, found: Sequence[tuple[Any, Where]]) -> tuple[Any, Where]:
    """Of these state dicts the one at a key, or the only one below it."""
    names = {name_of(where): (mapping, where) for mapping, where in found}
    matching = [name for name in names if f"{name}.".startswith(f"{key}.")]
    if key in names or len(matching) == 1:
        return names[key if key in names else matching[0]]
    among = matching or list(names)
    if not among:
        raise CheckpointError("it holds no state dict; save the relaxed model's state_dict.")
    raise CheckpointError(
        f"it has {'several state dicts' if matching else 'no state dict'} at {key!r}; give the key {_either(among)}."
    )


def _either(names: Sequence[str]) -> str:
    """Some names of which one is to be chosen; the file's own may be any."""
    shown = [repr(name) for name in names[:SHOWN]] + ([f"one of {len(names) - SHOWN} others"] if len(names) > SHOWN else [])
    return " or ".join(shown)


def _fold(mapping: Any, plan: StatePlan) -> None:
    """Note what is folded into which storage, each view of it once, so that what was shared stays shared."""
    for key, (term, _) in plan.targets.items():
        tensor, source = tensor_of(mapping[key]), tensor_of(mapping[term.weight_keys[0]])
        if tensor is None or source is None or not tensor.view.size:
            continue
        for other in tensor.storage.targets:
            if _overlap(tensor, other.tensor) and (tensor.view, source.identity) != (other.tensor.view, other.source):
                raise CheckpointError(f"{key} overlaps in memory with what another term is folded into; drop instead.")
        if all(other.tensor.view != tensor.view for other in tensor.storage.targets):
            tensor.storage.targets.append(Target(tensor, source.identity, functools.partial(plan.load, key)))


def _overlap(first: TorchTensor, second: TorchTensor) -> bool:
    (begin, end), (other_begin, other_end) = first.view.span, second.view.span
    return begin < other_end and other_begin < end


def _piece(key: Any, value: Any) -> Piece:
    tensor = tensor_of(value)
    if tensor is None:
        what = "tensor of another layout" if isinstance(value, Call) else f"value of type {type(value).__name__}"
        raise CheckpointError(f"{key} is a {what}; safetensors hold plain tensors only: write a .pt.")
    dtype, shape = in_safetensors(check_key(key), tensor.view.dtype, tensor.view.shape)
    if tensor.view.size > max(tensor.storage.read.size, LARGEST_EXPANDED):
        raise CheckpointError(f"{key} has fewer entries in the file than its shape says; write a .pt.")
    # wide dtypes first, so that every tensor starts at a multiple of its own width
    data = tensor.view.row_by_row(tensor.storage.written)
    return Piece(key, dtype, shape, data, -tensor.view.dtype.itemsize)
