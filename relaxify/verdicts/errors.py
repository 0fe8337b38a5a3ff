"""The error of one tensor of the output: |f(g x) - rho(g) f(x)| relative to how much f varies, held to a tolerance.

The response is what f varies by: between x and g x, or between x and inputs near it, extrapolated to changes as large as
g x - x; constants take no part in it. The tolerance is 1e-6, or more where rounding alone, eps |f| / response, is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from relaxify.graph.inputs import Inputs
from relaxify.groups import Group
from relaxify.verdicts.candidates import Way
from relaxify.verdicts.draws import Draw
from relaxify.verdicts.fits import Fit, fit
from relaxify.verdicts.orbits import Moved, Orbit
from relaxify.verdicts.outputs import is_measured

TOLERANCE = 1e-6
MEANINGLESS = 1e-2
"""A tolerance above which an error within it means nothing."""
ROUNDINGS = 1e3
"""Rounding errors, each of the output's size, that one output is granted."""
CONSTANTS = 80
"""Rounding errors of float32 that a model's constants are granted; in a lower precision, what they are seen to do."""
SEEN = 8
"""Times what constants change in their last digits, that these are granted, and at most `MOST` of the response."""
MOST = 0.05
SILENCE = 100
"""A response of fewer rounding errors of the output's size is none."""


@dataclass(frozen=True)
class Setting:
    """What all outputs of one measurement share. `near`: the response near the given inputs, by the output's name.

    `rounding`: how much an output changes with its inputs' last digits, `roughness`: with those of the model's constants,
    where that was asked for. `constants`: the eps that these are rounded to, or float32's. `sizes`: those of the inputs'
    axes that carry no vectors (nodes, a batch).
    """

    group: Group
    eps: float
    places: Callable[[Tensor], Sequence[Way]]
    near: dict[str, float]
    rounding: dict[str, float] = field(default_factory=dict)
    roughness: dict[str, float] = field(default_factory=dict)
    constants: float = 0.0
    sizes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Run:
    """One error, on the input x, and what it was held to; `floor` is what it would be held to if no constant was rounded."""

    g: Draw
    distance: float
    response: float
    tolerance: float
    floor: float = 0.0
    is_silent: bool = False
    x: Inputs = field(default=(), repr=False)

    @property
    def error(self) -> float:
        return self.distance / self.response if self.response else 0.0 if not self.distance else float("inf")

    @property
    def is_within(self) -> bool:
        return self.error <= self.tolerance


Distance = Callable[[Orbit, Moved], float]
"""|f(g x) - rho(g) f(x)|."""


@dataclass(frozen=True)
class Carried:
    """The distance where one tensor is carried in a way that is known."""

    name: str
    way: Way

    def __call__(self, each: Orbit, run: Moved) -> float:
        base, there = each.values[self.name], run.values[self.name]
        try:
            expected = self.way(run.g, base if is_measured(base) else base.double())
        except (ValueError, RuntimeError, IndexError):
            return float("inf")
        return difference(there, expected) if expected.shape == there.shape else float("inf")


@dataclass
class Fitted:
    """The distance where one tensor is carried by a matrix that is fitted to each element."""

    name: str
    way: Way
    orthogonal: bool
    fits: list[Fit] = field(default_factory=list)

    def __call__(self, each: Orbit, run: Moved) -> float:
        try:
            self.fits.append(fit(each.of(self.name), run.g, self.way, orthogonal=self.orthogonal))
        except (ValueError, RuntimeError, IndexError):
            self.fits.append(Fit(torch.zeros(0, 0), float("inf"), 0, 0))
        return self.fits[-1].residual


def runs_expected(name: str, orbits: Sequence[Orbit], setting: Setting) -> tuple[Run, ...]:
    """The errors of transforming as the user's output action says."""

    def of(each: Orbit, run: Moved) -> float:
        assert run.expected is not None
        return difference(run.values[name], run.expected[name])

    return runs_by(name, orbits, setting, of)


def difference(a: Tensor, b: Tensor) -> float:
    """|a - b|; of integers and booleans the root of the number of those that differ."""
    if is_measured(a):
        return float((a - b).norm())
    return float(((a.double() - b.double()).abs() > 0.5).sum()) ** 0.5


def runs_by(name: str, orbits: Sequence[Orbit], setting: Setting, distance: Distance) -> tuple[Run, ...]:
    """The errors of one tensor in all runs."""
    return tuple(_run(name, each, run, setting, distance(each, run)) for each in orbits for run in each.moved)


def _run(name: str, each: Orbit, run: Moved, setting: Setting, distance: float) -> Run:
    base, there = each.values[name], run.values[name]
    if not is_measured(base):
        return Run(run.g, distance, float(base.numel()) ** 0.5, 0.0, x=each.inputs)
    size = max(float(base.norm()), float(there.norm()))
    response = max(setting.near.get(name, 0.0), float((there - base).norm()))
    floor = ROUNDINGS * setting.eps * run.stretch**2 * size + 30 * setting.rounding.get(name, 0.0)
    least = tolerance = max(TOLERANCE, floor / response if response else float("inf"))
    if distance > tolerance * response:
        # constants that are rounded to the model's own precision are as far from those of a representation
        seen = SEEN * setting.roughness.get(name, 0.0) / response if response else 0.0
        tolerance = max(tolerance, CONSTANTS * setting.constants, min(seen, MOST))
    is_silent = response <= SILENCE * setting.eps * size
    return Run(run.g, distance, response, tolerance, least, is_silent, each.inputs)
