"""What a model's layers see on example inputs: the space a layer acts on, and what a linear layer's features are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from relaxify.graph.inputs import Inputs, call, map_tensors, not_run
from relaxify.graph.recording import Recording, record
from relaxify.graph.weighted_calls import shape_of
from relaxify.lconv.operators.family import Space

T = TypeVar("T")

_FLATTENINGS = {torch.flatten, torch.reshape, Tensor.flatten, Tensor.reshape, Tensor.view}


@dataclass(frozen=True)
class Observed:
    """By layer path: the shape of its input, and for a linear layer on flattened features the space that was flattened.

    A layer that sees several shapes, as a convolution may, has none of them here.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    flattened: Mapping[str, Space] = field(default_factory=dict)


def observe(model: nn.Module, inputs: tuple[Any, ...]) -> Observed:
    """Run the model once on copies of the inputs, which leaves both unchanged. InputsError if it does not run."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        recording = _run(record, model, inputs)
    except Exception as error:
        raise not_run(error, lambda: _run(call, model, inputs)) from error
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    return Observed(dict(_shapes(recording)), dict(_flattened(recording)))


def _run(runner: Callable[[nn.Module, Inputs], T], model: nn.Module, inputs: Inputs) -> T:
    with torch.random.fork_rng(), torch.no_grad():
        return runner(model, map_tensors(lambda _, tensor: tensor.clone(), inputs))


def _shapes(recording: Recording) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each module that always reads one shape, with the shape."""
    for path, calls in recording.calls.items():
        shapes = {shape_of(call.args[0]) for call in calls if call.args} - {()}
        if len(shapes) == 1:
            yield path, shapes.pop()


def _flattened(recording: Recording) -> Iterator[tuple[str, Space]]:
    """Each linear layer that always reads the flattening of (batch, channels, *space), with the space."""
    found: dict[str, set[Space | None]] = {}
    for node in recording.nodes:
        if node.target is F.linear and isinstance(node.args[0], fx.Node):
            weights = [name for name in node.meta["parameters"] if name.endswith("weight")]
            for name in weights:
                found.setdefault(name.rpartition(".")[0], set()).add(_space_behind(node.args[0]))
    for path, spaces in found.items():
        space = next(iter(spaces))
        if len(spaces) == 1 and space is not None:
            yield path, space


def _space_behind(node: fx.Node) -> Space | None:
    """The space axes that were flattened into this value's last axis, seen through elementwise operations."""
    while True:
        shape, before = shape_of(node), [argument for argument in node.args if isinstance(argument, fx.Node)][:1]
        if len(shape) != 2 or not before:
            return None
        earlier = shape_of(before[0])
        if earlier == shape:
            node = before[0]
            continue
        if node.target not in _FLATTENINGS or len(earlier) < 3:
            return None
        flat = earlier[0] == shape[0] and math.prod(earlier[1:]) == shape[1]
        return earlier[2:] if flat else None
