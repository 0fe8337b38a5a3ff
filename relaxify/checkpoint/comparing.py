"""What differs between two checkpoints, tensor by tensor and a portion at a time: max |a - b|, and that over max |a|."""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relaxify.checkpoint.container import state_dicts
from relaxify.checkpoint.data import Data
from relaxify.checkpoint.formats import opened, speaking_of
from relaxify.checkpoint.source import PORTION, damaged
from relaxify.checkpoint.state import StateDict
from relaxify.record import CheckpointError

FORMAT = "relaxify-diff/1"
# views that repeat few entries many times become as large as they look: together at most this, or so much of the file
FREE_BYTES, TIMES_THE_FILE = 2**30, 8
_WIDEST = 16

_Tensors = dict[str, tuple[StateDict, str]]


@dataclass(frozen=True)
class Difference:
    """A tensor that is not the same in both: `largest` is max |a - b|, infinite where one of them alone is NaN.

    `relative` is that over max |a|, and `entries` how many differ. All three are None where the shapes differ, and the
    first two where the dtype is none that can be computed with. `a` and `b` say dtype and shape.
    """

    key: str
    a: str
    b: str
    largest: float | None = None
    relative: float | None = None
    entries: int | None = None


@dataclass(frozen=True)
class Comparison:
    """What two checkpoints have in common, and what not; `differing` begins with what differs most."""

    a: Path
    b: Path
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    differing: tuple[Difference, ...]
    same: int

    @property
    def is_equal(self) -> bool:
        """Whether both have the same keys, and under these tensors of the same dtype, shape and values."""
        return not (self.only_a or self.only_b or self.differing)

    def to_dict(self) -> dict[str, Any]:
        """Plain data under the key `format`: "relaxify-diff/1"."""
        plain = dataclasses.asdict(self) | {"a": str(self.a), "b": str(self.b)}
        return {"format": FORMAT, "is_equal": self.is_equal, **plain}


def compare(a: Path | str, b: Path | str) -> Comparison:
    """Compare the tensors of two checkpoints, of whatever containers. CheckpointError if one cannot be read.

    State dicts belong together that are at the same place, or that are the only one left in their files. NaN equals NaN.
    """
    with opened(Path(a)) as (path_a, one), opened(Path(b)) as (path_b, other):
        states_a, states_b = state_dicts(one), state_dicts(other)
        for path, states in ((path_a, states_a), (path_b, states_b)):
            if not states:
                error = CheckpointError(f"{path}: it holds no state dict, so nothing can be compared; save a state_dict.")
                error.path = str(path)
                raise error
        return compare_states((path_a, states_a), (path_b, states_b))


def compare_states(a: tuple[Path, Sequence[StateDict]], b: tuple[Path, Sequence[StateDict]]) -> Comparison:
    """The same of state dicts that are open, and the paths that they come from."""
    in_a, in_b = _named(a[1], b[1])
    for path, tensors in ((a[0], in_a), (b[0], in_b)):
        with speaking_of(path):
            _check_sizes(tensors)
    differences = _differences((a[0], in_a), (b[0], in_b))
    found = sorted((each for each in differences if each is not None), key=_size, reverse=True)
    only_a, only_b = (tuple(key for key in x if key not in y) for x, y in ((in_a, in_b), (in_b, in_a)))
    return Comparison(a[0], b[0], only_a, only_b, tuple(found), len(differences) - len(found))


def _size(difference: Difference) -> float:
    return math.inf if difference.largest is None else difference.largest


def _named(a: Sequence[StateDict], b: Sequence[StateDict]) -> tuple[_Tensors, _Tensors]:
    """All tensors of both, by names that are the same for what belongs together."""
    names_a, names_b = ({state.where: state.name for state in states} for states in (a, b))
    rest_a, rest_b = [x for x in a if x.where not in names_b], [x for x in b if x.where not in names_a]
    if rest_a and rest_b and 1 in (len(rest_a), len(rest_b)):
        one, other = max(itertools.product(rest_a, rest_b), key=_in_common)
        # the shorter name is of the file with less in it
        names_a[one.where] = names_b[other.where] = min(one.name, other.name, key=len)
    return _by_name(a, names_a), _by_name(b, names_b)


def _in_common(pair: tuple[StateDict, StateDict]) -> int:
    return len(pair[0].shapes.keys() & pair[1].shapes.keys())


def _by_name(states: Sequence[StateDict], names: Mapping[tuple[Any, ...], str]) -> _Tensors:
    return {f"{names[state.where]}.{key}".removeprefix("."): (state, key) for state in states for key in state.shapes}


def _check_sizes(tensors: _Tensors) -> None:
    sizes, length = {}, 0
    for state, key in tensors.values():
        first, length = state.same_as.get(key, key), state.file_size
        sizes[state.where, first] = state.stored(first).data.size
    if sum(sizes.values()) > FREE_BYTES + TIMES_THE_FILE * length:
        raise CheckpointError("its tensors are many times as large as the file that holds them; save the model again.")


def _differences(a: tuple[Path, _Tensors], b: tuple[Path, _Tensors]) -> list[Difference | None]:
    """Of every key that both have; None where both have the same. One memory is read once."""
    known: dict[tuple[Any, ...], Difference | None] = {}
    found = []
    for name in (name for name in a[1] if name in b[1]):
        (state_a, key_a), (state_b, key_b) = a[1][name], b[1][name]
        pair = (state_a.where, state_a.same_as.get(key_a, key_a), state_b.where, state_b.same_as.get(key_b, key_b))
        if pair not in known:
            known[pair] = _difference(name, _Side.of(a[0], state_a, key_a), _Side.of(b[0], state_b, key_b))
        same = known[pair]
        found.append(None if same is None else dataclasses.replace(same, key=name))
    return found


@dataclass(frozen=True)
class _Side:
    """One of two tensors that are compared, and the file that it is in."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    data: Data

    @classmethod
    def of(cls, path: Path, state: StateDict, key: str) -> _Side:
        stored = state.stored(key)
        return cls(path, stored.dtype, tuple(state.shapes[key]), stored.data)

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def _difference(key: str, a: _Side, b: _Side) -> Difference | None:
    if a.shape != b.shape:
        return Difference(key, str(a), str(b))
    if a.dtype == b.dtype and _are_same_bytes(a, b):
        return None
    count, largest, scale = _in_portions(a, b)
    if a.dtype == b.dtype and count == 0:
        return None
    if largest is None or scale is None:
        return Difference(key, str(a), str(b), entries=count)
    relative = largest / scale if scale else math.inf if largest else 0.0
    return Difference(key, str(a), str(b), largest, relative, count)


def _in_portions(a: _Side, b: _Side) -> tuple[int, float | None, float | None]:
    """How many entries differ, max |a - b| and max |a|; only the first of dtypes that torch does not compute with."""
    dtype_a, dtype_b = _dtype(a.dtype), _dtype(b.dtype)
    if dtype_a is None or dtype_b is None:
        return 1, None, None
    count, largest, scale = 0, 0.0, 0.0
    sizes = [PORTION // _WIDEST * dtype.itemsize for dtype in (dtype_a, dtype_b)]
    for one, other in zip(_portions(a, sizes[0]), _portions(b, sizes[1]), strict=True):
        x = torch.frombuffer(one, dtype=dtype_a)
        scale = max(scale, float(_numbers(x).abs().nan_to_num(0, 0, 0).max()))
        distance = _distance(x, torch.frombuffer(other, dtype=dtype_b))
        count += int(distance.count_nonzero())
        largest = max(largest, float(distance.max()))
    return count, largest, scale


def _are_same_bytes(a: _Side, b: _Side) -> bool:
    return all(one == other for one, other in zip(_portions(a, PORTION), _portions(b, PORTION), strict=True))


def _dtype(name: str) -> torch.dtype | None:
    """None for what torch does not know, and for what packs several numbers into a byte."""
    found = getattr(torch, name, None)
    return found if isinstance(found, torch.dtype) and not name.endswith(("x2", "x4")) else None


def _numbers(values: Tensor) -> Tensor:
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|: 0 where both are NaN or the same infinity, and infinite where one is not finite."""
    x, y = _numbers(a), _numbers(b)
    distance = (x - y).abs().nan_to_num(nan=math.inf, posinf=math.inf).masked_fill((x == y) | (x.isnan() & y.isnan()), 0.0)
    if a.dtype == b.dtype and a.dtype.itemsize == 8 and not (a.is_floating_point() or a.is_complex()):
        # beyond 2^53, integers that differ are the same in float64
        distance = torch.where(a.view(torch.int64) == b.view(torch.int64), distance, distance.clamp(min=1.0))
    return distance


def _portions(side: _Side, size: int) -> Iterator[bytearray | memoryview]:
    """The bytes in portions of this size, the last one smaller, held against their checksum at the end."""
    rest, crc, data = bytearray(), 0, side.data
    with speaking_of(side.path):
        for chunk in data.chunks():
            crc = zlib.crc32(chunk, crc) if data.crc is not None else crc
            if not rest and len(chunk) == size:
                yield chunk
                continue
            rest += chunk
            while len(rest) >= size:
                yield rest[:size]
                del rest[:size]
        if rest:
            yield rest
        if data.crc is not None and crc != data.crc:
            raise damaged()
