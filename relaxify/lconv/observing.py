"""What a model's layers see on example inputs: the space a layer acts on, and what a linear layer's features are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from relaxify.graph.inputs import InputsError, map_tensors
from relaxify.graph.recording import Recording, record
from relaxify.lconv.operators.family import Space

_FLATTENINGS = {torch.flatten, torch.reshape, Tensor.flatten, Tensor.reshape, Tensor.view}


@dataclass(frozen=True)
class Observed:
    """By layer path: the shape of its input, and for a linear layer on flattened features the space that was flattened.

    A layer that sees several shapes, as a convolution may, has none of them here.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    flattened: Mapping[str, Space] = field(default_factory=dict)


def observe(model: nn.Module, inputs: tuple[Any, ...]) -> Observed:
    """Run the model once on copies of the inputs, without changing it, and look. InputsError if it does not run."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    handles = [
        module.register_forward_pre_hook(_Look(shapes.setdefault(path, set()))) for path, module in model.named_modules()
    ]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng(), torch.no_grad():
            recording = record(model, map_tensors(lambda _, tensor: tensor.clone(), inputs))
    except Exception as error:
        raise InputsError(error) from error
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    once = {path: next(iter(seen)) for path, seen in shapes.items() if len(seen) == 1}
    return Observed(once, dict(_flattened(recording)))


@dataclass(frozen=True)
class _Look:
    seen: set[tuple[int, ...]]

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            self.seen.add(tuple(args[0].shape))


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
    """The space axes that were flattened into this value's last axis, seen through what acts on each number alone."""
    while True:
        shape, before = _shape(node), [argument for argument in node.args if isinstance(argument, fx.Node)][:1]
        if shape is None or len(shape) != 2 or not before:
            return None
        earlier = _shape(before[0])
        if earlier == shape:
            node = before[0]
            continue
        if node.target not in _FLATTENINGS or earlier is None or len(earlier) < 3:
            return None
        flat = earlier[0] == shape[0] and math.prod(earlier[1:]) == shape[1]
        return earlier[2:] if flat else None


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("value")
    return None if value is None else tuple(value.shape)
