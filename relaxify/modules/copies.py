"""Copies of a user's objects that share nothing with them: tensors in another precision, functions bound to the copies.

`copy.deepcopy` does the work. It is told beforehand what to put in the place of what it cannot copy (tensors with a history,
locks) and of what it would share (functions that hold the original model, or a list that they fill).
"""

from __future__ import annotations

import builtins
import copy
import functools
import io
import sys
import types
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from relaxify.interrupts import undisturbed
from relaxify.modules.substitutes import substitute

Model = TypeVar("Model", bound=nn.Module)

_CONTAINERS = (list, dict, set, deque)
_PLAIN = (dict, OrderedDict, list, tuple, set)
_LEADING = (*_CONTAINERS, tuple, functools.partial, types.FunctionType, types.MethodType)
_ATOMS = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, range, slice)


def duplicate(value: Any, cast: Callable[[Tensor], Tensor], name: str = "the model") -> Any:
    """A copy of any object in which every tensor is `cast`; ValueError, one sentence, if something cannot be copied.

    >>> held = {"x": torch.ones(1, requires_grad=True) * 2}
    >>> duplicate(held, Tensor.double)
    {'x': tensor([2.], dtype=torch.float64, requires_grad=True)}
    """
    return _Duplicate(cast).of(value, name)


@undisturbed
def copied(model: Model, instead: Mapping[int, nn.Module] | None = None) -> Model:
    """A copy of a model, to the last bit, for its user to keep: it pickles where the model does, and its files stay open.

    `instead` has what stands in the copy for the modules with these ids. ValueError, one sentence, if something cannot be
    copied.
    """
    whole = _Kept(model)
    whole.memo.update(instead or {})
    result: Model = whole.of(model, "the model")
    return result


class _Duplicate:
    """One copy in the making."""

    def __init__(self, cast: Callable[[Tensor], Tensor]) -> None:
        self.cast = cast
        self.is_of_a_model = False
        self.memo: dict[int, Any] = {}
        self.storages: dict[Any, Tensor] = {}
        # an object's identity is its id only while it lives
        self.seen: dict[int, Any] = {}
        self.functions: list[tuple[types.FunctionType, types.FunctionType]] = []
        self.methods: list[tuple[types.MethodType, _Method]] = []
        self.shells: list[tuple[dict[str, Any], nn.Module]] = []

    def of(self, value: Any, name: str) -> Any:
        self.is_of_a_model = isinstance(value, nn.Module)
        self._prepare(value, name)
        before = dict(self.memo)
        try:
            return self._copy(value)
        except Exception:
            self.memo = before
        self.seen.clear()
        self.storages.clear()
        self._prepare(value, name, careful=True)
        try:
            return self._copy(value)
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            raise ValueError(f"{name} cannot be copied ({words}); keep out of it what Python does not copy.") from error

    def _copy(self, value: Any) -> Any:
        # TorchScript's own copies would have a history; and what is copied may call itself deprecated
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._copy_quietly(value)

    def _copy_quietly(self, value: Any) -> Any:
        for attributes, shell in self.shells:
            shell.__dict__.update(copy.deepcopy(attributes, self.memo))
        result = copy.deepcopy(value, self.memo)
        for original, twin in self.functions:
            self._fill(original, twin)
        for method, bound in self.methods:
            bound.function, bound.__self__ = self._copied(method.__func__), copy.deepcopy(method.__self__, self.memo)
        return result

    def _prepare(self, value: Any, name: str, *, careful: bool = False) -> None:
        """Settle beforehand, for all that the value holds, what deepcopy cannot know; if `careful`, what it cannot do."""
        waiting = [(value, name), *((attributes, name) for attributes, _ in self.shells)]
        while waiting:
            item, where = waiting.pop()
            # a module keeps a dozen empty dicts, for hooks
            is_empty = type(item) in _PLAIN and not item
            if is_empty or isinstance(item, _ATOMS) or id(item) in self.seen:
                continue
            self.seen[id(item)] = item
            held = [] if id(item) in self.memo else self._settle(item, where, careful=careful)
            waiting += [(part, f"{where}.{key}") for key, part in held]
        for item in [item for item in self.seen.values() if type(item) is weakref.ref]:
            self._point(item)

    def _point(self, reference: Any) -> None:
        """A weak reference to a part of what is copied leads to that part's copy, which exists by then as a shell."""
        target = reference()
        if id(target) in self.seen and id(target) not in self.memo and isinstance(target, nn.Module):
            self._shell(target)
        if id(target) in self.memo:
            self.memo[id(reference)] = weakref.ref(self.memo[id(target)])
        else:
            self.memo[id(reference)] = reference

    def _shell(self, module: nn.Module) -> None:
        """The copy's place, to be filled."""
        self.memo[id(module)] = object.__new__(type(module))
        self.shells.append((vars(module), self.memo[id(module)]))

    def _settle(self, item: Any, where: str, *, careful: bool) -> list[tuple[str, Any]]:
        """One object's place in the memo, if it needs one; and what it holds."""
        if isinstance(item, Tensor):
            shared = self.storages if self.is_of_a_model else {}
            self.memo[id(item)] = _tensor(item, where, self.cast, shared, is_constant=self.is_of_a_model)
            return []
        if type(item) is weakref.ref or self.shares(item) or type(item).__module__.startswith("torch.distributed."):
            # what shards a model keeps storage that comes and goes
            self.memo[id(item)] = item
            return []
        if isinstance(item, torch.jit.ScriptModule):
            return []
        if isinstance(item, fx.Graph | fx.Node):
            self.memo[id(item)] = item
            return []
        if (other := substitute(item, where, careful=careful)) is not None:
            self.memo[id(item)] = other
            return []
        held = list(parts(item))
        if _holds_code(item):
            # its own way of being copied would compile the code anew
            self._shell(item)
        elif isinstance(item, types.FunctionType):
            self._rebind(item)
        elif isinstance(item, types.MethodType) and self.holds_state(item.__func__):
            # deepcopy binds the same function to the copy of its owner
            self.memo[id(item)] = _Method()
            self.methods.append((item, self.memo[id(item)]))
        return held

    def _rebind(self, function: types.FunctionType) -> None:
        """A function that holds a model, or what it changes, gets a twin that will hold their copies."""
        if not self.holds_state(function):
            return
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        twin = types.FunctionType(
            function.__code__, dict(function.__globals__), function.__name__, function.__defaults__, cells
        )
        twin.__kwdefaults__ = function.__kwdefaults__
        twin.__dict__.update(function.__dict__)
        self.memo[id(function)] = twin
        self.functions.append((function, twin))

    def _fill(self, original: types.FunctionType, twin: types.FunctionType) -> None:
        for old, new in zip(original.__closure__ or (), twin.__closure__ or (), strict=True):
            for content in _contents(old):
                new.cell_contents = self._copied(content)
        for name, value in _globals_of(original):
            twin.__globals__[name] = self._copied(value)
        twin.__defaults__ = tuple(map(self._copied, original.__defaults__)) if original.__defaults__ else None

    def _copied(self, value: Any) -> Any:
        # what is no state may be a mark that is compared by identity
        return copy.deepcopy(value, self.memo) if self.is_state(value) or id(value) in self.memo else value

    def holds_state(self, function: Any) -> bool:
        if not isinstance(function, types.FunctionType) or self.shares(function):
            return False
        return any(self.is_state(part) for _, part in parts(function))

    def is_state(self, value: Any) -> bool:
        """Whether a function that holds this value needs a twin that holds its copy."""
        return _is_state(value)

    def shares(self, value: Any) -> bool:
        """Whether the copy has the very object that the original has."""
        return False


class _Kept(_Duplicate):
    """A copy that is not for runs alone: its functions go on writing the user's logs, and pickle by their names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(lambda tensor: tensor)
        self.own = {id(value) for value in (*model.modules(), *model.parameters(), *model.buffers())}

    def is_state(self, value: Any) -> bool:
        """Whether it leads to the model."""
        waiting, seen = [value], {}
        while waiting:
            item = waiting.pop()
            if id(item) in self.own:
                return True
            if id(item) not in seen and isinstance(item, _LEADING) and not self.shares(item):
                seen[id(item)] = item
                waiting += [part for _, part in parts(item)]
        return False

    def shares(self, value: Any) -> bool:
        return isinstance(value, io.IOBase) or _is_found_by_name(value)


class _Method:
    """A method of which the function is a copy too."""

    def __init__(self) -> None:
        self.function: Any = None
        self.__self__: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.__self__, *args, **kwargs)


def _holds_code(value: Any) -> bool:
    """Whether a module is code that was generated, or keeps such modules and says itself how it is pickled."""
    if not isinstance(value, nn.Module) or isinstance(value, torch.jit.ScriptModule):
        return False
    pickles = type(value).__getstate__ is not object.__getstate__
    generated = (fx.GraphModule, torch.jit.ScriptModule)
    return isinstance(value, fx.GraphModule) or (pickles and any(isinstance(child, generated) for child in value.children()))


def _is_found_by_name(function: Any) -> bool:
    """Whether a function is what its module has under its name."""
    if not isinstance(function, types.FunctionType):
        return False
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _tensor(
    value: Tensor, where: str, cast: Callable[[Tensor], Tensor], storages: dict[Any, Tensor], *, is_constant: bool
) -> Tensor:
    """The copy of a tensor; what a model has computed and keeps `is_constant` from then on, while inputs want gradients."""
    if is_lazy(value):
        raise ValueError(f"{where} has no shape yet; run one forward pass first.")
    if value.is_meta:
        raise ValueError(f"{where} is on the meta device: it has no values; load or initialise it first.")
    with torch.no_grad():
        twin = _data(value.detach(), cast, storages)
    if isinstance(value, nn.Parameter):
        twin = type(value)._make_subclass(type(value), twin, value.requires_grad)
    elif twin.is_floating_point() or twin.is_complex():
        twin.requires_grad_(value.requires_grad and (value.is_leaf or not is_constant))
    twin.__dict__.update(value.__dict__)
    return twin


def _is_plain(value: Tensor) -> bool:
    return value.layout is torch.strided and not (value.is_quantized or value.is_conj() or value.is_neg())


def _data(value: Tensor, cast: Callable[[Tensor], Tensor], storages: dict[Any, Tensor]) -> Tensor:
    """A tensor's values; views of one storage are so again, and what is written to one shows in all."""
    if type(value) is not Tensor or not value.numel() or not _is_plain(value):
        return cast(value).clone()
    storage = value.untyped_storage()
    key = storage.data_ptr(), value.dtype
    if key not in storages:
        is_whole = value.is_contiguous() and storage.nbytes() == value.numel() * value.element_size()
        whole = value if is_whole else value.as_strided((storage.nbytes() // value.element_size(),), (1,), 0)
        storages[key] = cast(whole).clone()
        if is_whole:
            return storages[key]
    return storages[key].as_strided(value.shape, value.stride(), value.storage_offset())


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, by name."""
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        yield from ((name, content) for name, cell in cells for content in _contents(cell))
        yield from _globals_of(value)
        yield from _numbered(value.__defaults__ or ())
    elif isinstance(value, types.MethodType):
        yield "__self__", value.__self__
        yield "__func__", value.__func__
    elif isinstance(value, functools.partial):
        yield "func", value.func
        yield from _numbered(value.args)
        yield from value.keywords.items()
    elif isinstance(value, Mapping) and not isinstance(value, types.MappingProxyType):
        yield from ((str(key), item) for key, item in value.items())
        yield from _numbered(value.keys())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from _numbered(value)
    if not isinstance(value, type | types.ModuleType | types.FunctionType):
        yield from getattr(value, "__dict__", {}).items()
        yield from _slots(value)


def _numbered(values: Any) -> Iterator[tuple[str, Any]]:
    yield from ((str(number), value) for number, value in enumerate(values))


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    yield from ((name, getattr(value, name)) for name in _slots_of(type(value)) if hasattr(value, name))  # type: ignore[arg-type]


@functools.lru_cache(256)
def _slots_of(kind: type) -> tuple[str, ...]:
    every = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = [name for slots in every for name in ((slots,) if isinstance(slots, str) else slots)]
    return tuple(name for name in names if isinstance(name, str) and not name.startswith("__"))


def _contents(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The state among a function's global names: a script says `net.forward = lambda x: old(x).relu()`."""
    if _is_of_a_library(function):
        return
    for name in sorted(set(_names(function.__code__))):
        value = function.__globals__.get(name, builtins)
        if _is_state(value):
            yield name, value


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_state(value: Any) -> bool:
    """Whether a function that holds this value holds a model, or what its calls may change."""
    if isinstance(value, types.MethodType):
        return isinstance(value.__self__, (nn.Module, Tensor, *_CONTAINERS))
    if isinstance(value, types.FunctionType):
        return bool(value.__closure__) and not _is_of_a_library(value)
    return isinstance(value, (nn.Module, Tensor, functools.partial, *_CONTAINERS))


def _is_of_a_library(function: types.FunctionType) -> bool:
    file = function.__code__.co_filename
    return "site-packages" in file or "/lib/python" in file or file.startswith("<")
