"""A model's inputs and outputs, whatever they come in: tensors in tuples, dicts, dataclasses and data objects."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Inputs = tuple[Any, ...] | dict[str, Any]
"""A call's positional arguments, or its arguments by keyword."""


class InputsError(ValueError):
    """Inputs on which a model does not run: `why` says what it raised, and `precision` where it did."""

    said = (
        "the model does not run on the example inputs{where} ({why}); "
        "pass example_inputs=(...) with the arguments of its forward."
    )

    def __init__(self, raised: Exception, precision: str = "") -> None:
        first_line = str(raised).partition("\n")[0]
        self.why, self.precision = f"{type(raised).__name__}: {first_line}", precision
        where = f" in {precision}" if precision else ""
        super().__init__(self.said.format(where=where, why=self.why))


class UnfollowedError(InputsError):
    """A model that runs, but not while it is followed: no fault of the model's or of the inputs'."""

    said = (
        "the model runs on the example inputs, but not while relaxify follows it{where} ({why}): "
        "this is a fault of relaxify's; please report it with the traceback above."
    )


def not_run(raised: Exception, runs: Callable[[], Any], precision: str = "") -> InputsError:
    """What to raise of a model that raised while it was followed: `runs` runs it alone, which tells whose fault that is.

    >>> type(not_run(TypeError("no such axis"), lambda: 0)), type(not_run(TypeError("no such axis"), lambda: 1 / 0))
    (<class 'relaxify.graph.inputs.UnfollowedError'>, <class 'relaxify.graph.inputs.InputsError'>)
    """
    if isinstance(raised, MemoryError) or "can't allocate memory" in str(raised):
        # what is followed is kept, which takes more
        return InputsError(raised, precision)
    try:
        runs()
    except Exception:
        return InputsError(raised, precision)
    return UnfollowedError(raised, precision)


def call(model: nn.Module, inputs: Inputs) -> Any:
    """The model on its inputs."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def tensors_of(value: Any, name: str = "input") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a nest of containers, with a name that says where it stands.

    >>> import torch
    >>> [name for name, _ in tensors_of(({"pos": torch.zeros(2, 3)}, 5))]
    ['input.0.pos']
    """
    if isinstance(value, Tensor):
        yield name, value
        return
    for key, item in held_in(value) or ():
        yield from tensors_of(item, f"{name}.{key}")


leaves_of: Callable[[Any], list[Any]] = tree_leaves
"""Everything in a nest of tuples, lists and dicts."""


def map_tensors(function: Callable[[str, Tensor], Tensor], value: Any, name: str = "input") -> Any:
    """A copy of a nest of containers with every tensor replaced by `function(name, tensor)`; the original is not changed."""
    if isinstance(value, Tensor):
        return function(name, value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item, f"{name}.{key}") for key, item in held_in(value) or ()))
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(function, item, f"{name}.{key}") for key, item in held_in(value) or ())
    if isinstance(value, dict):
        changed = copy.copy(value)
        changed.update({key: map_tensors(function, item, f"{name}.{key}") for key, item in value.items()})
        return changed
    if not any(True for _ in tensors_of(value)):
        return value
    twin = copy.copy(value)
    for key, item in list(held_in(value) or ()):
        _set(twin, key, map_tensors(function, item, f"{name}.{key}"))
    return twin


def held_in(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """What a container holds, by key; None of what is none: an object's attributes need not be all that it says."""
    if isinstance(getattr(value, "tensor", None), Tensor):
        # escnn's GeometricTensor, beside its type
        return [("tensor", value.tensor)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        return enumerate(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if hasattr(value, "to_dict") and hasattr(value, "keys"):
        # torch_geometric's Data
        found: Iterable[tuple[Any, Any]] = value.to_dict().items()
        return found
    return vars(value).items() if isinstance(value, types.SimpleNamespace) else None


def _set(value: Any, key: Any, item: Any) -> None:
    if dataclasses.is_dataclass(value) or isinstance(value, types.SimpleNamespace) or key == "tensor":
        object.__setattr__(value, key, item)
    else:
        value[key] = item
