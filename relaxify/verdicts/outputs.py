"""The tensors in what a model returns, whatever it returns them in; what cannot be looked at is refused in one sentence."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SILENT = (str, bytes, type(None), torch.dtype, torch.device, torch.Size, enum.Enum, type, torch.nn.Module)


def seen_in(output: Any) -> dict[str, Tensor]:
    """Every tensor and number of an output by its place: values in float64 or complex128, integers and booleans as they are.

    ValueError if there is none, or part of the output is of a kind that is not looked into.

    >>> list(seen_in({"energy": torch.zeros(2), "classes": [torch.ones(1, dtype=torch.int64)]}))
    ['output.energy', 'output.classes.0']
    """
    found = {name: _value(leaf) for name, leaf in _leaves(output, "output", set())}
    if not found:
        raise ValueError(
            f"the model's output is {_kind(output)}, in which no tensor was found, so nothing can be judged; return "
            "tensors, in tuples, dicts or dataclasses (of a distribution its parameters, of an array, torch.from_numpy)."
        )
    return found


def _leaves(value: Any, name: str, above: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor | bool | int | float | complex):
        yield name, value
    elif isinstance(value, np.ndarray | np.generic | torch.distributions.Distribution):
        raise ValueError(
            f"the model returns {_kind(value)} at {name}, which is not looked into; return tensors (of a distribution its "
            "parameters, of an array torch.from_numpy of it)."
        )
    elif not isinstance(value, _SILENT) and not callable(value) and id(value) not in above:
        for key, item in _parts(value):
            yield from _leaves(item, f"{name}.{key}", above | {id(value)})


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(getattr(value, "tensor", None), Tensor):
        # escnn's GeometricTensor, beside its type
        yield "tensor", value.tensor
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, Sequence | Set):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif hasattr(value, "to_dict") and hasattr(value, "keys"):
        # torch_geometric's Data
        yield from value.to_dict().items()
    else:
        yield from getattr(value, "__dict__", {}).items()


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


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
