"""Verdict: what was measured of a model under a group, and what it comes to, as data."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


class Status(enum.Enum):
    """`latent`: sound as it is, and broken once the parameters that are exactly 0 or 1 have moved."""

    SOUND = "sound"
    LATENT = "will break once trained"
    UNDECIDED = "undecided"
    BROKEN = "broken"


class Reason(enum.Enum):
    """What a status rests on."""

    EQUIVARIANT = "the error is at rounding level"
    ERROR = "the output does not transform"
    CONVENTION = "the output transforms as vectors in another basis or order of axes"
    TIES = "a change of the inputs in their last digits changes the output as much"
    SHAPES = "the output has another shape, or other parts, on g x than on x"
    TRAINED = "the output does not transform once parameters that are exactly 0 or 1 have moved"
    SILENT = "the output does not respond to the inputs, which proves nothing"
    ROUNDING = "the output's response is lost in the rounding of the output"
    FEW = "too few samples to tell as what the output transforms"
    NOT_FINITE = "NaN or infinite values"
    UNMOVED = "the input action moves no input"


@dataclass(frozen=True)
class Spread:
    """A relative error over group elements and inputs."""

    mean: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """NaN if one of the values is.

        >>> Spread.of([1.0, 2.0])
        Spread(mean=1.5, largest=2.0)
        """
        if not values or any(map(math.isnan, values)):
            return cls(math.nan, math.nan)
        return cls(sum(values) / len(values), max(values))


@dataclass(frozen=True)
class OutputVerdict:
    """One tensor of the output: as what it transforms, or comes nearest to transforming, and with what error.

    `tolerance` is the largest of those that its errors were held to; `response`: how much the output varies, relative to
    its size; `element`: the worst group element.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    status: Status
    reason: Reason
    transforms: str
    error: Spread
    tolerance: float
    response: float
    element: str


@dataclass(frozen=True)
class OwnPrecision:
    """The same error where the model runs in its own precision, and |f - f in float64| / response on the given input."""

    precision: torch.dtype
    error: Spread
    rounding: float


@dataclass(frozen=True)
class Verdict:
    """Whether a model commutes with a group: |f(g x) - rho(g) f(x)| relative to the response, on fresh elements g.

    - `outputs`: each tensor of the output; `error` and `tolerance` are those of the worst; `element` where it is largest.
    - `precision`: the lowest in which the model was seen to compute; `elements`, `inputs`: how many were tried.
    - `where`: the place of what is not finite, of the worst output.
    - `parameters`: those that break a model that is sound as it is, once they have moved; `generic`: the error then.
    - `forward_passes`: what the verdict took.
    """

    model: str
    group: str
    status: Status
    reason: Reason
    error: Spread
    tolerance: float
    precision: torch.dtype
    elements: int
    inputs: int
    element: str
    where: str
    outputs: tuple[OutputVerdict, ...]
    parameters: tuple[str, ...] = ()
    generic: Spread | None = None
    own: OwnPrecision | None = None
    forward_passes: int = 0

    @property
    def is_sound(self) -> bool:
        return self.status is Status.SOUND

    def __str__(self) -> str:
        error = f"error {self.error.mean:.1e}, at most {self.error.largest:.1e}"
        runs = f"{self.elements} elements, {self.inputs} inputs, {_name(self.precision)}, tolerance {self.tolerance:.0e}"
        lines = [f"{self.model} under {self.group}: {self.status.value}; {error} ({runs})"]
        if not self.is_sound:
            lines.append(f"  {self.reason.value}" + (f": {self.where}" if self.where else ""))
        if self.parameters:
            lines.append(f"  parameters that break it: {', '.join(self.parameters)}")
        if self.own is not None:
            own = self.own
            lines.append(f"  rounding of {_name(own.precision)}: {own.rounding:.0e}, error there {own.error.mean:.0e}")
        lines += [f"  {each.name}: {each.transforms}, error {each.error.mean:.1e}" for each in self.outputs]
        return "\n".join(lines)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
