"""The true error of an entry: |f(g x) - g f(x)| over the response of f, with full-size elements and actions by hand.

Of each tensor of the output by itself, and the largest over elements and inputs. The response is how far f goes where its
inputs change a little in other ways, so that no constant part counts; integers and booleans are compared exactly.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from verdicts.actions import elements
from verdicts.entry import Entry

SEEDS = 2
DRAWS = 5
ROUNDING = 1e-14


def error(entry: Entry, *, trained: bool = False, seeds: int = SEEDS, model: nn.Module | None = None) -> float:
    """The largest over elements and inputs; NaN if anything is not finite or not the same twice.

    With `trained`, parameters that are exactly 0 or 1 are perturbed first. Of another `model`, if it is given.
    """
    # what a module keeps of its parameters in evaluation mode is made anew after these have changed
    model = converted(entry.make_seeded() if model is None else model, entry.precision)
    if trained:
        perturb(model)
    model.train(entry.training)
    return _largest([_error(entry, model, seed) for seed in range(seeds)])


def _error(entry: Entry, model: nn.Module, seed: int) -> float:
    inputs = converted(entry.example(seed), entry.precision)
    if not all(value.isfinite().all() for value in model.state_dict().values() if isinstance(value, Tensor)):
        return math.nan
    # in training mode a model is judged with the same random numbers in each run
    base, again = call(model, inputs), call(model, inputs, seed=0 if entry.training else 1)
    if not all(torch.equal(a, b) for (_, a), (_, b) in zip(leaves(base), leaves(again), strict=True)):
        return math.nan
    response = _responses(entry, model, inputs, base, seed)
    # what is smaller beside all the rest is zero, but for rounding
    sizes = [value.to(torch.complex128).abs().max() for _, value in leaves(base) if value.numel()]
    nothing = ROUNDING * max(map(float, sizes), default=0.0)
    errors = []
    for g in elements(entry.group, seed):
        moved, expected = call(model, entry.move(g, inputs)), entry.carry(g, base)
        pairs = list(zip(leaves(moved), leaves(expected), response, strict=True))
        assert pairs, f"{entry.name}: the output holds no tensor"
        errors += [_relative(a, b, scale, nothing) for (_, a), (_, b), scale in pairs]
    return _largest(errors)


def _relative(moved: Tensor, expected: Tensor, scale: float, nothing: float) -> float:
    if moved.shape != expected.shape:
        return math.inf
    if not (moved.is_floating_point() or moved.is_complex()):
        return float((moved != expected).double().mean())
    distance = _distance(moved, expected)
    distance = 0.0 if distance < nothing else distance
    return distance / scale if scale else 0.0 if distance == 0 else math.inf if distance > 0 else math.nan


def _responses(entry: Entry, model: nn.Module, inputs: Any, base: Any, seed: int) -> list[float]:
    """How far each tensor of the output goes per unit of change of the inputs, the unit being their own size."""
    moved = [dict(leaves(entry.move(g, inputs))) for g in elements(entry.group, seed)]
    still = {name for name, value in leaves(inputs) if all(torch.equal(value, other[name]) for other in moved)}
    generator = torch.Generator().manual_seed(seed)
    found: list[list[float]] = [[] for _ in leaves(base)]
    for size in (0.1, 1.0):
        rows = []
        for _ in range(DRAWS):
            near = call(model, _near(inputs, still, size, generator))
            rows.append([_distance(a, b) / size for (_, a), (_, b) in zip(leaves(near), leaves(base), strict=True)])
        for scales, column in zip(found, zip(*rows, strict=True), strict=True):
            scales.append(float(torch.tensor(column).nanmedian()))
    # far from the given inputs an output may grow without limit, and near them a step may be missed
    return [min((scale for scale in scales if 0 < scale < math.inf), default=0.0) for scales in found]


def _near(inputs: Any, still: set[str], size: float, generator: torch.Generator) -> Any:
    def shift(name: str, value: Tensor) -> Tensor:
        if name in still or not value.is_floating_point() or value.layout is not torch.strided:
            return value
        unit = value.double().square().mean().sqrt().to(value.dtype)
        return value + size * unit * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)

    return mapped(shift, inputs)


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.nan
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    return float((a.detach().to(wide) - b.detach().to(wide)).abs().square().sum().sqrt())


def _largest(values: list[float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else max(values)


def call(model: nn.Module, inputs: Any, seed: int = 0) -> Any:
    """The model on copies of its inputs, with the same random numbers every time."""
    torch.manual_seed(seed)
    inputs = mapped(lambda _, value: value.detach().clone(), inputs)
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a nest of containers."""
    if isinstance(value, Tensor):
        yield name, value if value.layout is torch.strided else value.to_dense()
    for key, item in _items(value):
        yield from leaves(item, f"{name}.{key}")


def mapped(function: Any, value: Any, name: str = "") -> Any:
    """A copy of a nest of containers with `function(name, tensor)` in the place of each tensor."""
    if isinstance(value, Tensor):
        return function(name, value)
    changes = {key: mapped(function, item, f"{name}.{key}") for key, item in _items(value)}
    if isinstance(value, Mapping):
        return changes
    if hasattr(value, "_replace"):
        return value._replace(**changes)
    if isinstance(value, tuple | list):
        return type(value)(changes.values())
    if not changes:
        return value
    twin = copy.copy(value)
    for key, item in changes.items():
        object.__setattr__(twin, key, item) if dataclasses.is_dataclass(twin) else setattr(twin, key, item)
    return twin


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    value = vars(value) if isinstance(value, SimpleNamespace) else value
    if isinstance(value, Mapping):
        yield from value.items()
    elif hasattr(value, "_asdict"):
        yield from value._asdict().items()
    elif isinstance(value, tuple | list):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value):
        yield from ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    elif isinstance(getattr(value, "tensor", None), Tensor):
        yield "tensor", value.tensor
    elif hasattr(value, "to_dict") and hasattr(value, "keys"):
        yield from value.to_dict().items()


def converted(value: Any, dtype: torch.dtype) -> Any:
    """Inputs or a model in another precision, what a module keeps as plain attributes included; the model in place."""

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    if not isinstance(value, nn.Module):
        return mapped(lambda _, tensor: convert(tensor), value)
    for module in value._apply(convert).modules():
        for name, item in list(vars(module).items()):
            if isinstance(item, Tensor):
                setattr(module, name, convert(item))
    return value


def perturb(model: nn.Module) -> None:
    """Move every entry of a parameter that trains and is exactly 0 or 1, as training would."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
            exact = (parameter == 0) | (parameter == 1)
            parameter.data = torch.where(exact, parameter + noise, parameter).detach()
