"""What a model keeps between its forward passes, so that each run of a copy can start from the same."""

from __future__ import annotations

import copy
import functools
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_STEADY = vars(nn.Module()).keys() - {"_buffers", "_parameters", "_modules", "training"}
"""What no forward pass changes: hooks."""

Restore = Callable[[], Any]


class State:
    """The attributes, buffers and random streams of a model's modules as they are now.

    >>> norm = nn.BatchNorm1d(2)
    >>> state = State(norm)
    >>> _ = norm(torch.randn(5, 2))
    >>> state.restore()
    >>> norm.running_mean, norm.num_batches_tracked
    (tensor([0., 0.]), tensor(0))
    """

    def __init__(self, model: nn.Module) -> None:
        self._attributes = [
            (module, {key: _shallow(value) for key, value in vars(module).items() if key not in _STEADY})
            for module in model.modules()
            if not isinstance(module, torch.jit.ScriptModule)
        ]
        parameters = {id(parameter) for parameter in model.parameters()}
        held = {id(leaf): leaf for _, attributes in self._attributes for leaf in _leaves(attributes)}
        held.update({id(buffer): buffer for buffer in model.buffers()})
        self._values = [_restore(leaf) for key, leaf in held.items() if key not in parameters]
        self._streams = [leaf for leaf in held.values() if not isinstance(leaf, Tensor)]

    def restore(self) -> None:
        for module, attributes in self._attributes:
            now = vars(module)
            for key in now.keys() - attributes.keys() - _STEADY:
                del now[key]
            now.update({key: _shallow(value) for key, value in attributes.items()})
        for restore in self._values:
            restore()

    def reseed(self, seed: int) -> None:
        """Let the model's own random streams begin anew."""
        for stream in self._streams:
            _reseed(stream, seed)


def _shallow(value: Any) -> Any:
    """Containers copied, what they hold shared."""
    if isinstance(value, dict):
        twin = copy.copy(value)
        held = {key: _shallow(item) for key, item in dict.items(value) if isinstance(item, dict | list | set | deque)}
        dict.update(twin, held)
        return twin
    if type(value) is list:
        return [_shallow(item) for item in value]
    # a class of somebody's own has methods and attributes, which its .copy() loses
    return copy.copy(value) if isinstance(value, list | set | deque) else value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, Tensor | torch.Generator | random.Random | np.random.Generator | np.random.RandomState):
        yield value


def _restore(value: Any) -> Restore:
    if isinstance(value, Tensor):
        before = value.detach().clone()
        return functools.partial(_write, value, before)
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, random.Random):
        inner = value.getstate()
        return lambda: value.setstate(inner)
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator.state
        return lambda: setattr(value.bit_generator, "state", bits)
    stream = value.get_state()
    return lambda: value.set_state(stream)


def _reseed(stream: Any, seed: int) -> None:
    if isinstance(stream, torch.Generator):
        stream.manual_seed(seed)
    elif isinstance(stream, np.random.Generator):
        stream.bit_generator.state = type(stream.bit_generator)(seed).state
    else:
        stream.seed(seed)


def _write(value: Tensor, before: Tensor) -> None:
    # through .data, as no history may grow
    if value.shape == before.shape:
        value.data.copy_(before)
    else:
        value.data = before.clone()


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """The same random numbers from torch, numpy and Python within, and the user's own streams as they were afterwards."""
    python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed writes down the stack for every kind of device, which takes longer than small models do
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(python)
