"""What stands in a copy for things that Python does not copy: locks, open files, streams of values."""

from __future__ import annotations

import copy
import io
import threading
import types
from collections.abc import Callable
from typing import Any

import torch

SHARED = (types.ModuleType, types.MappingProxyType, type, types.CodeType)
"""What a copy and its original may have in common: nothing that a forward pass does changes it."""


class Uncopied:
    """Stands for what could not be copied; a forward pass that uses it is told so."""

    def __init__(self, where: str, kind: str) -> None:
        vars(self)["_why"] = f"{where} is a {kind}, which cannot be copied, and forward uses it; keep it out of the model"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(self._why)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(self._why)

    __call__ = __iter__ = __next__ = __enter__ = __getitem__ = __len__ = _refuse


def substitute(value: Any, where: str, *, careful: bool = False) -> Any:
    """A stand-in for a value without parts of its own, or None if it copies as anything does (tried if `careful`)."""
    if isinstance(value, SHARED):
        return value
    if type(value) in _LOCKS:
        return _LOCKS[type(value)]()
    if isinstance(value, io.IOBase):
        return _file(value, where)
    if isinstance(value, torch.Generator):
        return torch.Generator(value.device).set_state(value.get_state())
    if isinstance(value, types.GeneratorType) or (careful and not getattr(value, "__dict__", None)):
        return _unless_copied(value, where)
    return None


def _file(value: io.IOBase, where: str) -> Any:
    """Nothing that is written reaches the user's file."""
    if not value.closed and value.writable():
        text = isinstance(value, io.TextIOBase)
        # it lives as long as the copy, and nobody would close it
        return _Discards() if text else io.BytesIO()
    return Uncopied(where, "file open for reading")


class _Discards(io.StringIO):
    def write(self, text: str) -> int:
        return len(text)


def _unless_copied(value: Any, where: str) -> Any:
    try:
        copy.deepcopy(value)
    except Exception:
        return Uncopied(where, type(value).__name__)
    return None


_LOCKS: dict[type, Callable[[], Any]] = {type(make()): make for make in (threading.Lock, threading.RLock)}
