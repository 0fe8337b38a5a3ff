"""ImageReport: what `local_equivariance_error` measured, as data, as text and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaxify.rendered import Rendered

FORMAT = "relaxify-images/1"
FALL = 0.4


@dataclass(frozen=True)
class StepTerm:
    """What one step (a leaf module, or a function outside of them) adds to the Lie derivative of the whole.

    `own`: |L f| / |f(x)| of the step by itself, `interior` that over the central half of its maps (None if it returns none).
    `lee`: E|L|^2 / dim of its term carried to the model's output, `standard_error` that of probing it; 0 if exact.
    """

    path: str
    op: str
    own: float
    interior: float | None
    lee: float
    standard_error: float


@dataclass(frozen=True)
class FiniteError:
    """|f(T_t x) - T_t f(x)| / |f(x)| for one size t of a transformation, in its own units."""

    size: float
    error: float


@dataclass(frozen=True)
class TransformationReport:
    """One transformation. `lee`: E|L f|^2 / dim over the images, with its standard error; `relative`: |L f| / |f(x)|.

    `interior`: `relative` over the central half of the output's maps. `remainder`: how far the steps' terms are from adding
    up to L f, over |L f| + |f|; above rounding level if some values are not seen.
    """

    name: str
    lee: float
    standard_error: float
    relative: float
    interior: float | None
    finite: tuple[FiniteError, ...]
    steps: tuple[StepTerm, ...]
    remainder: float
    finer: float | None = None
    """`relative` for the same images with twice as many pixels on each side, if asked for and the model takes them."""

    @property
    def cause(self) -> str | None:
        """Whether the error falls with resolution, as that of a grid does: faster than in proportion to the pixels' size."""
        if self.finer is None or not self.relative:
            return None
        falls = self.finer < FALL * self.relative
        words = "discretisation: error falls with resolution" if falls else "no discretisation: error stays with resolution"
        return f"{words}, from {self.relative:.1e} to {self.finer:.1e}"


@dataclass(frozen=True, repr=False)
class ImageReport(Rendered):
    """Local equivariance errors of a model of images under continuous transformations."""

    page = "images"

    model: str
    images: tuple[int, ...]
    derivative: str
    method: str
    transformations: tuple[TransformationReport, ...]
    probes: int
    exact: bool
    forward_passes: int

    def __getitem__(self, name: str) -> TransformationReport:
        """The transformation of this name."""
        return next(each for each in self.transformations if each.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data under the key `format`: "relaxify-images/1"."""
        plain = [{**dataclasses.asdict(each), "cause": each.cause} for each in self.transformations]
        return {"format": FORMAT, **dataclasses.asdict(self), "transformations": plain}

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """What each step adds to the error under each transformation, a row each."""
        return [
            {"transformation": each.name, **dataclasses.asdict(step)} for each in self.transformations for step in each.steps
        ]

    def __str__(self) -> str:
        lines = [f"{self.model} on images {list(self.images)}, {self.derivative} derivatives, {self.method}"]
        for each in self.transformations:
            lines.append(f"  {each.name}: LEE {each.lee:.2e} ± {each.standard_error:.1e}, |L f|/|f| {each.relative:.2e}")
            lines += [f"    {each.cause}"] if each.cause is not None else []
            largest = sorted(each.steps, key=lambda step: -step.lee)[:5]
            lines += [f"    {step.path or '(the model)'} {step.op}: {step.lee:.2e}" for step in largest]
        return "\n".join(lines)
