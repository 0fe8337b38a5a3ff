"""All or nothing, whatever is raised in between: a Ctrl-C can come after any line, and is no Exception.

Torch runs no hook for one, and what `with` and `finally` run can be interrupted itself before it has begun. So whatever must
not stay half done is either put back as it was (`Before`, `under`) or done to the end (`completed`), from an `except` around
all of it.
"""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

P = ParamSpec("P")
T = TypeVar("T")


def completed(action: Callable[[], T]) -> T:
    """Call what can be called twice with the same result; if it is interrupted it is called again, and then raises.

    >>> done = set()
    >>> def action():
    ...     done.add(1)
    ...     if len(done) == 1:
    ...         done.add(2)
    ...         raise KeyboardInterrupt
    ...     done.add(3)
    >>> try:
    ...     completed(action)
    ... except KeyboardInterrupt:
    ...     done
    {1, 2, 3}
    """
    try:
        return action()
    except BaseException:
        action()
        raise


class Before:
    """What objects and tensors are now, to be put back: attributes, the dictionaries among them, and values."""

    def __init__(self, objects: Iterable[object], values: Iterable[Tensor] = ()) -> None:
        tables = [vars(held) for held in objects]
        tables += [value for table in tables for value in table.values() if isinstance(value, dict)]
        self._tables = [(table, table.copy()) for table in tables]
        self._values = [(value, value.detach().clone()) for value in values]

    def or_done(self, action: Callable[[], T]) -> T:
        """Do it, or, if anything is raised, leave all as it was."""
        try:
            return action()
        except BaseException:
            completed(self._restore)
            raise

    @torch.no_grad()
    def _restore(self) -> None:
        for table, before in self._tables:
            table.clear()
            table.update(before)
        for tensor, values in self._values:
            tensor.copy_(values)


def under(mode: TorchFunctionMode, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function under a mode, which is gone afterwards whatever is raised.

    Of `with mode`, a Ctrl-C can skip the end; and while torch has a mode set aside for a moment, that end takes another's.
    """
    if torch.compiler.is_compiling():
        with mode:
            return function(*args, **kwargs)
    put_back = _modes_before()
    try:
        torch._C._push_on_torch_function_stack(mode)
        result = function(*args, **kwargs)
        torch._C._pop_torch_function_stack()
        return result
    except BaseException:
        completed(put_back)
        raise


def aside(device_type: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function without gradients and in full precision, and neither for longer, whatever is raised.

    Modes see what the end of `with torch.no_grad()` calls, and may be interrupted in it.
    """
    if torch.compiler.is_compiling():
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            return function(*args, **kwargs)
    before = torch.is_grad_enabled(), torch.is_autocast_enabled(device_type)
    try:
        _set_precision(device_type, False, False)
        result = function(*args, **kwargs)
        _set_precision(device_type, *before)
        return result
    except BaseException:
        completed(functools.partial(_set_precision, device_type, *before))
        raise


def _set_precision(device_type: str, gradients: bool, autocast: bool) -> None:
    torch._C._set_grad_enabled(gradients)
    torch.set_autocast_enabled(device_type, autocast)


def _modes_before() -> Callable[[], Any]:
    """What puts this thread's modes, and whether gradients are recorded, back as they are now."""
    modes = [torch._C._get_function_stack_at(index) for index in range(torch._C._len_torch_function_stack())]
    gradients = torch.is_grad_enabled()

    def put_back() -> None:
        while torch._C._len_torch_function_stack():
            torch._C._pop_torch_function_stack()
        torch._C._set_grad_enabled(gradients)
        for mode in modes:
            torch._C._push_on_torch_function_stack(mode)

    return put_back


def undisturbed(function: Callable[P, T]) -> Callable[P, T]:
    """A function after which modes, random streams, filters of warnings and hooks are what they were, if it is interrupted.

    Those that are not one object's: what runs a model is in the middle of them.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        put_back = _process_before()
        try:
            return function(*args, **kwargs)
        except BaseException:
            completed(put_back)
            raise

    return guarded


def _process_before() -> Callable[[], Any]:
    put_modes_back, filters = _modes_before(), warnings.filters
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    hooks = [(table, table.copy()) for table in _hooks_of_all_modules()]

    def put_back() -> None:
        put_modes_back()
        torch.set_rng_state(streams[0])
        random.setstate(streams[1])
        np.random.set_state(streams[2])  # noqa: NPY002
        if warnings.filters is not filters:
            warnings.filters = filters
            warnings._filters_mutated()  # type: ignore[attr-defined]
        for table, before in hooks:
            table.clear()
            table.update(before)

    return put_back


def _hooks_of_all_modules() -> list[dict[int, Any]]:
    names = ("forward_pre_hooks", "forward_hooks", "forward_hooks_always_called", "forward_hooks_with_kwargs")
    return [getattr(torch.nn.modules.module, f"_global_{name}") for name in names]
