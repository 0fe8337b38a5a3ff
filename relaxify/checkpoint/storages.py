"""Storages and the tensors in them, as torch.save describes them: what a pickle's names and calls mean, and may not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from relaxify.checkpoint.calls import check_harmless, number_of
from relaxify.checkpoint.data import Data, Made, View, contiguous_stride
from relaxify.checkpoint.pickles import Call, Global, invalid
from relaxify.checkpoint.pickling import Persistent

_STORAGES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
    "QUInt4x2Storage": torch.quint4x2,
    "QUInt2x4Storage": torch.quint2x4,
}
MAX_DIMENSIONS = 64
_MODULES = {"torch", "torch.storage", "torch.cuda"}
_TENSOR, _TENSOR_V2, _TENSOR_V3 = (Global("torch._utils", f"_rebuild_tensor{version}") for version in ("", "_v2", "_v3"))
# how many arguments each takes at most; the last may be left out
_ARGUMENTS = {_TENSOR: 4, _TENSOR_V2: 7, _TENSOR_V3: 8}
# classes and functions that make plain values; of torch._utils whatever rebuilds tensors
_ALLOWED = {
    "collections": {"OrderedDict", "Counter", "defaultdict"},
    "builtins": {"set", "frozenset", "complex", "bytearray", "int", "float", "bool", "list", "dict", "str", "slice"},
    # int and str are called so in protocol 2
    "__builtin__": {
        *("set", "frozenset", "complex", "bytearray", "int", "long", "float", "bool", "list", "dict", "unicode", "slice")
    },
    "_codecs": {"encode"},
    "torch": {"Size", "device", "Tensor"},
    "torch._tensor": {"_rebuild_from_type_v2"},
    "torch.nn.parameter": {"Parameter", "Buffer"},
    "torch.serialization": {"_get_layout"},
}


@dataclass(eq=False, slots=True)
class Storage:
    """Memory that tensors share. `targets` are the tensors in it that terms are folded into, and what these become."""

    key: str
    kind: Global
    count: int
    data: Data | None = None
    targets: list[Target] = field(default_factory=list)

    @property
    def width(self) -> int:
        return _STORAGES[self.kind.name].itemsize

    @property
    def read(self) -> Data:
        """Its bytes in the file."""
        if self.data is None:
            raise invalid(f"the storage {self.key!r} is not in it")
        return self.data

    @property
    def written(self) -> Data:
        """Its bytes in the output."""
        return Made(self.read.size, self._folded) if self.targets else self.read

    def put(self, data: Data) -> None:
        """Say where its bytes are. CheckpointError unless they are as many as there must be."""
        if data.size != self.count * self.width:
            raise invalid(f"the storage {self.key!r} has {data.size} bytes and not {self.count * self.width}")
        self.data = data

    def _folded(self) -> Tensor:
        whole = torch.frombuffer(self.read.read(), dtype=torch.uint8)
        for target in self.targets:
            (begin, end), view = target.tensor.view.span, target.tensor.view
            whole[begin:end].view(view.dtype).as_strided(view.shape, view.stride).copy_(target.load())
        return whole

    def persistent(self, key: str) -> Persistent:
        """What stands for it in a pickle; it is loaded to the CPU."""
        return Persistent(("storage", self.kind, key, "cpu", self.count))


@dataclass(frozen=True, eq=False, slots=True)
class TorchTensor:
    """A tensor in a storage, and the call that rebuilds it."""

    storage: Storage
    view: View
    call: Call

    @property
    def identity(self) -> tuple[object, ...]:
        """What two tensors have in common exactly if they are one."""
        view = self.view
        return id(self.storage), view.dtype, view.shape, view.stride, view.offset

    def load(self) -> Tensor:
        """The tensor as it is in the file, in memory of its own."""
        return self.view.load(self.storage.read)


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor that a term is folded into: the identity of the term's weight, and what the tensor becomes."""

    tensor: TorchTensor
    source: tuple[object, ...]
    load: Callable[[], Tensor]


class Meanings:
    """What the names, calls and keys in a checkpoint's pickle stand for. `find` says where a storage's bytes are.

    `is_plain`, as long as all that is named makes plain values or tensors.
    """

    def __init__(self, find: Callable[[str], Data | None]) -> None:
        self.storages: dict[str, Storage] = {}
        self.is_plain = True
        self._find = find

    def named(self, name: Global) -> Global:
        """A name is data, whatever it names."""
        self.is_plain &= makes_plain_values(name)
        return name

    def called(self, call: Call) -> Any:
        """A tensor where the call rebuilds a dense one, a number where it makes numpy's; any other call as it is."""
        check_harmless(call)
        return rebuilt(call) if call.function in _ARGUMENTS else number_of(call)

    def persistent(self, key: Any) -> Any:
        """The storage that a key names: ("storage", its type, its key, where it was, its number of entries, ...).

        The format of before 2020 has also ("module", a class, where its code was, and that code).
        """
        if isinstance(key, tuple) and len(key) == 4 and key[0] == "module":
            return key[1]
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage" or key[5:] not in ((), (None,)):
            raise invalid("what its pickle refers to is no storage")
        _, kind, name, _, count = key[:5]
        if not isinstance(kind, Global) or kind.name not in _STORAGES or not isinstance(name, str) or not _is_count(count):
            raise invalid("what its pickle refers to is no storage")
        storage = self.storages.get(name)
        if storage is None:
            storage = self.storages[name] = Storage(name, kind, count)
            if (data := self._find(name)) is not None:
                storage.put(data)
        elif (storage.kind, storage.count) != (kind, count):
            raise invalid(f"the storage {name!r} is described in two ways")
        return storage


def rebuilt(call: Call) -> TorchTensor | Call:
    """The dense tensor that a call of one of torch's functions for these makes; another call as it is."""
    if not isinstance(call.function, Global) or call.function not in _ARGUMENTS:
        return call
    arguments, most = call.arguments, _ARGUMENTS[call.function]
    if not most - 1 <= len(arguments) <= most or not isinstance(arguments[0], Storage):
        raise invalid("a tensor without a storage in its pickle")
    if len(arguments) > 4 and not (isinstance(arguments[4], bool) and arguments[5] == OrderedDict()):
        raise invalid("a tensor with hooks in its pickle")
    view = _view(call)
    # what is left are bits that change how entries are to be read, as of a conjugate
    return call if len(arguments) == most and most > 4 and arguments[-1] else TorchTensor(arguments[0], view, call)


def makes_plain_values(name: Global) -> bool:
    """Whether what a name stands for merely makes plain values or tensors."""
    rebuilds = name.module == "torch._utils" and name.name.startswith("_rebuild_")
    is_storage = name.module in _MODULES and name.name in _STORAGES
    return rebuilds or is_storage or _is_constant(name) or name.name in _ALLOWED.get(name.module, ())


def _is_constant(name: Global) -> bool:
    constants = torch.dtype | torch.qscheme | torch.layout | torch.memory_format
    return name.module == "torch" and isinstance(getattr(torch, name.name, None), constants)


def _is_dtype(name: Global) -> bool:
    return name.module == "torch" and isinstance(getattr(torch, name.name, None), torch.dtype)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**60


def _are_counts(value: object) -> bool:
    return isinstance(value, tuple) and len(value) <= MAX_DIMENSIONS and all(map(_is_count, value))


def _sizes(value: Any) -> Any:
    """What is in a torch.Size."""
    return value.arguments[0] if isinstance(value, Call) and value.arguments else value


def _view(call: Call) -> View:
    """What a tensor sees of its storage. CheckpointError if that reaches beyond it."""
    storage, offset, shape, stride = call.arguments[:4]
    dtype = _STORAGES[storage.kind.name]
    if call.function == _TENSOR_V3:
        name = call.arguments[6] if len(call.arguments) > 6 else None
        if not isinstance(name, Global) or not _is_dtype(name):
            raise invalid("a tensor without a dtype in its pickle")
        dtype = getattr(torch, name.name)
    shape, stride = _sizes(shape), _sizes(stride)
    if not _are_counts(shape) or not _are_counts(stride) or len(shape) != len(stride) or not _is_count(offset):
        raise invalid("a tensor without a shape in its pickle")
    view = View(dtype, shape, stride, offset)
    if view.span[1] > storage.count * storage.width:
        raise invalid(f"a tensor of shape {shape} reaches beyond its storage {storage.key!r}")
    return view


def tensor_like(data: Data, dtype: torch.dtype, shape: tuple[int, ...], key: str) -> TorchTensor:
    """A tensor of these bytes, row by row, as if torch.save had written it."""
    name = next((name for name, known in _STORAGES.items() if known == dtype and name != "UntypedStorage"), None)
    kind = Global("torch", name) if name else Global("torch.storage", "UntypedStorage")
    storage = Storage(key, kind, data.size // dtype.itemsize if name else data.size, data)
    view = View(dtype, shape, contiguous_stride(shape))
    arguments: tuple[Any, ...] = (storage, 0, shape, view.stride, False, OrderedDict())
    if name:
        return TorchTensor(storage, view, Call(_TENSOR_V2, arguments))
    return TorchTensor(storage, view, Call(_TENSOR_V3, (*arguments, Global("torch", str(dtype).removeprefix("torch.")))))


def made_tensor(key: str, tensor: Tensor) -> TorchTensor:
    """The same of a tensor in memory."""
    return tensor_like(Made(tensor.nbytes, lambda: tensor), tensor.dtype, tuple(tensor.shape), key)
