"""Evidence without a fit: what the recorded runs of a verdict tell of values that are invariant, or vectors on one axis.

A verdict's group elements are full-size, so that each of these ways is held to more than a fit is. They tell of no other
representation: its generators follow from small elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.evidence.evidence import Evidence, Sample
from relaxify.evidence.fitting import (
    TOLERANCE,
    Norms,
    Pairs,
    Transformation,
    close,
    known_actions,
    on_axes,
    possible_axes,
    still,
)
from relaxify.graph.inputs import Inputs
from relaxify.graph.recording import Recording, record
from relaxify.groups import Group
from relaxify.verdicts.draws import Draw
from relaxify.verdicts.orbits import Orbit


@dataclass(frozen=True)
class Tape:
    """Runs a model and keeps what it recorded: on x first, then on g x for each g."""

    runs: list[Recording] = field(default_factory=list)

    def __call__(self, model: nn.Module, inputs: Inputs) -> Any:
        self.runs.append(record(model, inputs, outline=bool(self.runs)))
        return self.runs[-1].output


class VerdictEvidence(Evidence):
    """What the runs on the full-size elements `drawn` say of each value; undecided is what a fit would have to tell."""

    def __init__(self, group: Group, sample: Sample, drawn: Sequence[Draw], diverged: str | None, length: int) -> None:
        self._drawn = drawn
        super().__init__(group, sample.base, [sample], diverged, length)

    def drawn(self) -> Sequence[Draw]:
        return self._drawn

    def _transformation(self, pairs: Pairs, norms: Norms) -> Transformation:
        if (found := still(pairs, self.tiny, norms)) is not None:
            return found
        own = [] if _is_multiple(pairs) else possible_axes(self.group, pairs[0][0].shape)
        return next(filter(None, (self._vector(pairs, axes) for axes in own)), Transformation("undecided"))

    def _vector(self, pairs: Pairs, axes: tuple[int, ...]) -> Transformation | None:
        ((base, runs),), d = pairs, self.group.dim
        if len(axes) != 1 or base.shape[axes[0]] != d:
            return None
        rows = on_axes(base, axes)
        if rows.shape[1] < 2 * d or int(torch.linalg.matrix_rank(rows @ rows.mT, rtol=1e-12, hermitian=True)) < d:
            return None
        misfits = [(on_axes(run, axes) - g.matrix @ rows, run) for g, run in zip(self._drawn, runs, strict=True)]
        residual = max(float(misfit.norm() / run.norm()) for misfit, run in misfits)
        actions = known_actions(self.group, 1)["vector"]
        return Transformation("linear", axes, actions, residual) if residual < TOLERANCE else None


def _is_multiple(pairs: Pairs) -> bool:
    """Whether each group element multiplies the whole value by a number, as a character does, or g where that is one."""

    def along(base: Tensor, run: Tensor) -> Tensor:
        return float((base * run).sum() / base.square().sum()) * base

    return all(close(along(base, run), run) for base, runs in pairs for run in runs)


def evidence_of(group: Group, runs: Sequence[Recording], orbit: Orbit) -> VerdictEvidence | None:
    """Evidence from the runs that a verdict rests on; None if they took different courses."""
    if len(runs) != 1 + len(orbit.moved) or not orbit.moved:
        return None
    sample, drawn = Sample(runs[0], runs[1:]), [run.g for run in orbit.moved]
    length = len(sample.base.nodes)
    return VerdictEvidence(group, sample, drawn, None, length) if sample.common == length else None
