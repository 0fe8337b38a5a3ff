"""Runs of a copy of a model on an input x and on g x: what a verdict rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from relaxify.graph.inputs import Inputs, call
from relaxify.modules.copies import duplicate
from relaxify.verdicts.candidates import Way
from relaxify.verdicts.declared import declared
from relaxify.verdicts.draws import Draw
from relaxify.verdicts.nearby import distance, size, tensors_in
from relaxify.verdicts.outputs import OutputError, seen_in
from relaxify.verdicts.twin import Runner, Twin

Values = Mapping[str, Tensor]
"""The tensors of an output, by their places."""


@dataclass(frozen=True)
class Moved:
    """The output on g x; `expected` by the user's output action; `stretch` is |g x| / |x|."""

    g: Draw
    values: Values
    expected: Values | None
    stretch: float


@dataclass(frozen=True)
class Orbit:
    """The output on `inputs` x and on each g x. `step` is the root mean square of |g x - x|; `ways`: what it declares."""

    inputs: Inputs
    values: Values
    moved: tuple[Moved, ...]
    step: float
    ways: Mapping[str, Way] = field(default_factory=dict)

    def of(self, name: str) -> list[tuple[Draw | None, Tensor]]:
        """One tensor on x, and on g x for each g."""
        return [(None, self.values[name]), *((run.g, run.values[name]) for run in self.moved)]


@dataclass(frozen=True)
class Actions:
    """How group elements act on inputs and outputs; each call gets copies of its own, and g in their precision."""

    inputs: Callable[[Tensor, Any], Any]
    output: Callable[[Tensor, Any], Any] | None = None

    def on_inputs(self, g: Draw, inputs: Inputs) -> Inputs:
        given = tensors_in(inputs)
        with torch.no_grad():
            moved: Inputs = self.inputs(_like(g, given), duplicate(inputs, lambda tensor: tensor, "the input"))
        if not isinstance(moved, dict | tuple):
            moved = tuple(moved) if isinstance(moved, list) else (moved,)
        for name, value in tensors_in(moved).items():
            if name in given and given[name].requires_grad and not value.requires_grad and value.is_leaf:
                value.requires_grad_()
        return moved

    def on_output(self, g: Draw, output: Any) -> Values | None:
        if self.output is None:
            return None
        with torch.no_grad():
            plain = duplicate(output, torch.Tensor.detach, "the output")
            for value in tensors_in(plain).values():
                value.requires_grad_(False)
            try:
                return seen_in(self.output(_like(g, tensors_in(plain)), plain))
            except OutputError as error:
                raise ValueError(f"output_action returned no output: {error}") from error


def _like(g: Draw, tensors: Mapping[str, Tensor]) -> Tensor:
    """The matrix of g in the precision of the first floating tensor."""
    dtype = next((v.dtype.to_real() for v in tensors.values() if v.is_floating_point() or v.is_complex()), torch.float64)
    return g.matrix.to(dtype, copy=True)


def orbit(twin: Twin, actions: Actions, inputs: Inputs, elements: Sequence[Draw], runner: Runner = call) -> Orbit:
    """Run a copy of the model on inputs and on the inputs moved by each element."""
    output = twin.run(inputs, runner)
    values, before = seen_in(output), size(inputs)
    moved, steps = [], []
    for g in elements:
        expected = actions.on_output(g, output)
        there = actions.on_inputs(g, inputs)
        steps.append(distance(inputs, there))
        stretch = max(1.0, size(there) / before if before else 1.0)
        moved.append(Moved(g, seen_in(twin.run(there, runner)), expected, stretch))
    step = (sum(step**2 for step in steps) / max(len(steps), 1)) ** 0.5
    ways = declared(elements[0].group, output) if elements else {}
    return Orbit(inputs, values, tuple(moved), step, ways)


def not_finite(orbits: Sequence[Orbit]) -> Iterator[str]:
    """Where outputs are NaN or infinite."""
    for each in orbits:
        yield from (f"{name} on x" for name, value in each.values.items() if not finite(value))
        for run in each.moved:
            yield from (f"{name} on g x, g {run.g}" for name, value in run.values.items() if not finite(value))


def finite(value: Tensor) -> bool:
    """Whether no entry is NaN or infinite."""
    if not (value.is_floating_point() or value.is_complex()):
        return True
    # a sum that is finite has no other terms, and one that is not may have overflowed
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())
