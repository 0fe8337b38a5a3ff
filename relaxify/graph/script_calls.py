"""Calls of TorchScript functions, whose operations no mode sees: with what they were called, and what they returned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Scripted:
    """A TorchScript function to call, with its graph."""

    function: Callable[..., Any]
    graph: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


Noting = Callable[[Scripted, tuple[Any, ...], dict[str, Any]], Any]
"""(function, args, kwargs) -> what the function returns, which is noted."""

_Function = torch.jit.ScriptFunction
_own_call = _Function.__call__
_watching = threading.local()
_lock = threading.Lock()
_watchers: list[None] = []


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A call as it is, but where somebody watches this thread: then past each watcher, the last one first."""

    def own(*args: Any, **kwargs: Any) -> Any:
        return _own_call(function, *args, **kwargs)

    for note in getattr(_watching, "stack", []):
        own = _past(note, own, function)
    return own(*args, **kwargs)


def _past(note: Noting, inner: Callable[..., Any], function: Any) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        return note(Scripted(inner, function.inlined_graph), args, kwargs)

    return noted


@contextmanager
def script_calls(note: Noting) -> Iterator[None]:
    """Within, calls of TorchScript functions by this thread go through `note`.

    >>> calls = []
    >>> double = torch.jit.script(torch.nn.functional.relu)
    >>> with script_calls(lambda function, args, kwargs: calls.append(len(args)) or function(*args, **kwargs)):
    ...     double(torch.ones(1))
    tensor([1.])
    >>> calls
    [1]
    """
    stack = _watching.__dict__.setdefault("stack", [])
    _watch(_watchers.append)
    stack.append(note)
    try:
        yield
    finally:
        stack.pop()
        _watch(_watchers.remove)


def _watch(change: Callable[[None], None]) -> None:
    """One watcher more or less. The class is as it was while nobody watches."""
    with _lock:
        change(None)
        setattr(_Function, "__call__", _call if _watchers else _own_call)  # noqa: B010
