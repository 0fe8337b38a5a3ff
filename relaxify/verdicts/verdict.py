"""Verdict: what was measured of a model under a group, and what it comes to, as data."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from relaxify.verdicts.outputs import HOW


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
    SIGN = "turns flip the output's sign, as x² - y² or an x² + y² with a wrong sign: pass output_action if it is meant"
    NOT_FINITE = "NaN or infinite values"
    OVERFLOW = "NaN or infinite values in the model's own precision, where float64 has none"
    UNMOVED = "the input action moves no input"
    RANDOM = "the model draws random numbers: its output on the same input is not the same twice"
    UNSEEN = "no tensor is found"


@dataclass(frozen=True)
class Errors:
    """Relative errors over several group elements and inputs."""

    mean: float
    largest: float
    standard_error: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Errors:
        """Mean, largest and standard error of the mean; NaN if one of the values is, or there is none.

        >>> Errors.of([1.0, 3.0])
        Errors(mean=2.0, largest=3.0, standard_error=1.0, count=2)
        """
        if not values:
            return cls(math.nan, math.nan, math.nan, 0)
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
        largest = math.nan if any(map(math.isnan, values)) else max(values)
        return cls(mean, largest, math.sqrt(variance / len(values)), len(values))


@dataclass(frozen=True)
class OutputVerdict:
    """One tensor of the output: as what it transforms, or comes nearest to transforming, and with what error.

    `tolerance` is the largest of those that its errors were held to; `response`: how much the output varies, relative to
    its size; `element`: the worst group element; `by_element`: the largest error at each of them, over inputs.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    status: Status
    reason: Reason
    transforms: str
    error: Errors
    tolerance: float
    response: float
    element: str
    by_element: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class OwnPrecision:
    """The same error where the model runs in its own precision, and |f - f in float64| / response on the given input."""

    precision: torch.dtype
    error: Errors
    rounding: float


@dataclass(frozen=True)
class Verdict:
    """Whether a model commutes with a group: |f(g x) - rho(g) f(x)| relative to the response, on fresh elements g.

    - `outputs`: each tensor of the output; `error` and `tolerance` are those of the worst; `element` where it is largest.
    - `precision`: the lowest in which the model was seen to compute; `elements`, `inputs`: how many were tried.
    - `where`: the place of what is not finite, of the worst output.
    - `parameters`: those that break a model that is sound as it is, once they have moved; `generic`: the error then.
    - `forward_passes`: what the verdict took.
    - `factors`: of a product of groups, the verdict under each factor; the worst of them is what is said of the product.
    """

    model: str
    group: str
    status: Status
    reason: Reason
    error: Errors
    tolerance: float
    precision: torch.dtype
    elements: int
    inputs: int
    element: str
    where: str
    outputs: tuple[OutputVerdict, ...]
    parameters: tuple[str, ...] = ()
    generic: Errors | None = None
    own: OwnPrecision | None = None
    forward_passes: int = 0
    factors: tuple[Verdict, ...] = ()

    @property
    def worst(self) -> Verdict:
        """Of a product of groups the verdict under the factor that decides; else itself."""
        return max(self.factors, key=lambda each: (_ORDER.index(each.status), _size(each.error)), default=self)

    @property
    def is_sound(self) -> bool:
        return self.status is Status.SOUND

    def to_dict(self) -> dict[str, Any]:
        """What was measured of the whole model, as plain data."""
        own = None if self.own is None else {**dataclasses.asdict(self.own), "precision": name_of(self.own.precision)}
        names = ("tolerance", "elements", "inputs", "element", "where", "parameters")
        generic = None if self.generic is None else dataclasses.asdict(self.generic)
        told: dict[str, Any] = {"status": self.status.name.lower(), "reason": self.reason.name.lower()}
        told["precision"] = name_of(self.precision)
        told |= {"factors": [{"group": each.group, **each.to_dict()} for each in self.factors]} if self.factors else {}
        return {"told": self.told, **told, **{name: getattr(self, name) for name in names}, "generic": generic, "own": own}

    @property
    def told(self) -> str:
        """The verdict in a sentence, with what it rests on."""
        if self.factors:
            return "; ".join(f"under {each.group} {each.told}" for each in self.factors)
        if not self.elements:
            return f"{self.status.value}: {self.why}"
        rests = f"{self.elements} elements, {self.inputs} inputs, {name_of(self.precision)}, tolerance {self.tolerance:.0e}"
        rests += f", worst at {self.element}" if self.element and not self.is_sound else ""
        why = "" if self.is_sound else f": {self.why}"
        names = f"; because of {', '.join(self.parameters)}" if self.parameters else ""
        own = self.own
        rounding = (
            f"; rounding of {name_of(own.precision)} {own.rounding:.0e}, error there {own.error.mean:.0e}" if own else ""
        )
        return f"{self.status.value}{why}{names} ({rests}){rounding}"

    @property
    def why(self) -> str:
        """What the status rests on, where, and what can be done about it."""
        if self.factors:
            return f"under {self.worst.group} {self.worst.why}"
        place = f", in {self.where}" if self.where else ""
        return self.reason.value + place + (f"; {HOW}" if self.reason is Reason.UNSEEN else "")

    def __str__(self) -> str:
        lines = [f"{self.model} under {self.group}: error {self.error.mean:.1e}, at most {self.error.largest:.1e}"]
        lines += [
            f"  {self.told}",
            *(f"  {each.name}: {each.transforms}, error {each.error.mean:.1e}" for each in self.outputs),
        ]
        return "\n".join(lines)


_ORDER = (Status.SOUND, Status.UNDECIDED, Status.LATENT, Status.BROKEN)


def _size(error: Errors) -> float:
    """The largest; NaN is above every number."""
    return math.inf if math.isnan(error.largest) else error.largest


def of_product(group: str, factors: Sequence[Verdict]) -> Verdict:
    """The verdict under a product of groups, with which a model commutes exactly if it does with each factor."""
    worst = dataclasses.replace(factors[0], factors=tuple(factors)).worst
    outputs = [[each for verdict in factors for each in verdict.outputs if each.name == one.name] for one in worst.outputs]
    return dataclasses.replace(
        worst,
        group=group,
        elements=sum(each.elements for each in factors),
        inputs=max(each.inputs for each in factors),
        outputs=tuple(_output_of_product(each, [verdict.group for verdict in factors]) for each in outputs),
        forward_passes=sum(each.forward_passes for each in factors),
        factors=tuple(factors),
    )


def _output_of_product(found: Sequence[OutputVerdict], groups: Sequence[str]) -> OutputVerdict:
    worst = max(found, key=lambda each: (_ORDER.index(each.status), _size(each.error)))
    transforms = ", ".join(f"{each.transforms} under {group}" for each, group in zip(found, groups, strict=False))
    response = max(each.response for each in found)
    return dataclasses.replace(worst, transforms=transforms, response=response)


def name_of(dtype: torch.dtype) -> str:
    """float64, for torch.float64."""
    return str(dtype).removeprefix("torch.")
