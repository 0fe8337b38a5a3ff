"""The tensors in what a model returns, whatever it returns them in; what cannot be looked at is refused in one sentence."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relaxify.graph.inputs import held_in
from relaxify.modules.copies import parts

_SILENT = (str, bytes, type(None), torch.dtype, torch.device, torch.Size, enum.Enum, type, torch.nn.Module)
_HIDING = (np.ndarray, np.generic, torch.distributions.Distribution, Iterator)
HOW = (
    "return tensors, in tuples, dicts or dataclasses (of a distribution its parameters, of an array torch.from_numpy of it, "
    "of a number the tensor that it was)"
)


class OutputError(ValueError):
    """What a model returns, or a part of it, is of a kind that is not looked into; `where` says which."""

    def __init__(self, name: str, value: Any) -> None:
        self.where = f"{name} of type {type(value).__name__}"
        super().__init__(f"no tensor is found in {self.where}, so nothing can be judged; {HOW}.")


def seen_in(output: Any) -> dict[str, Tensor]:
    """Every tensor and number of an output by its place: values in float64 or complex128, integers and booleans as they are.

    OutputError if there is no tensor, or if a part of the output holds some out of sight.

    >>> list(seen_in({"energy": torch.zeros(2), "classes": [torch.ones(1, dtype=torch.int64)]}))
    ['output.energy', 'output.classes.0']
    """
    leaves = dict(_leaves(output, "output", set()))
    if not any(isinstance(leaf, Tensor) for leaf in leaves.values()):
        raise OutputError("output", output)
    return {name: _value(leaf) for name, leaf in leaves.items()}


def _leaves(value: Any, name: str, above: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor | bool | int | float | complex):
        yield name, value
    elif isinstance(value, _SILENT) or id(value) in above:
        return
    elif (held := held_in(value)) is not None:
        for key, item in held:
            yield from _leaves(item, f"{name}.{key}", above | {id(value)})
    elif _hides(value):
        raise OutputError(name, value)


def _hides(value: Any) -> bool:
    """Whether an object of a kind that says nothing of what it holds leads to values."""
    waiting, seen = [value], {}
    while waiting:
        item = waiting.pop()
        if isinstance(item, (Tensor, *_HIDING)):
            return True
        if not isinstance(item, _SILENT) and id(item) not in seen:
            seen[id(item)] = item
            waiting += [part for _, part in parts(item)]
    return False


def _value(leaf: Any) -> Tensor:
    value = leaf.detach() if isinstance(leaf, Tensor) else torch.tensor(leaf)
    if value.is_nested:
        value = torch.nested.to_padded_tensor(value, 0.0)
    value = value.to_dense() if value.layout is not torch.strided else value
    value = value.dequantize() if value.is_quantized else value
    wide = {True: torch.complex128, False: torch.float64}[value.is_complex()]
    # nothing that the model does next may change it
    return value.to("cpu", wide if is_measured(value) else value.dtype, copy=True).as_subclass(Tensor)


def is_measured(value: Tensor) -> bool:
    """Whether a value can be a little wrong: integers and booleans are right or wrong."""
    return value.is_floating_point() or value.is_complex()
