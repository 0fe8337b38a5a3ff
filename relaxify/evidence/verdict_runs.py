"""Evidence without a fit: what the recorded runs of a verdict tell of values that are invariant, or vectors on one axis.

A verdict's group elements are full-size, so that each of these ways is held to more than a fit is. They tell of no other
representation: its generators follow from small elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from relaxify.evidence.evidence import Evidence, Sample
from relaxify.evidence.fitting import are_points, dense, layouts, over_axes, still
from relaxify.evidence.ruling_out import Sampled
from relaxify.evidence.transformations import TOLERANCE, Norms, Pairs, Transformation, close
from relaxify.graph.inputs import Inputs
from relaxify.graph.recording import Node, Recording, again, record
from relaxify.groups import Group
from relaxify.representations import Layout, Representation
from relaxify.sites import Features
from relaxify.verdicts.draws import Draw
from relaxify.verdicts.orbits import Orbit

MOST = 4096
"""Vectors of one value that are looked at."""


@dataclass
class Tape:
    """Runs a model and keeps what it recorded: on x first, then on g x for each g, there the values of the nodes `asked`."""

    asked: Callable[[Recording], Collection[fx.Node]] | None = None
    runs: list[Recording] = field(default_factory=list)
    _wanted: Collection[int] | None = None

    def __call__(self, model: nn.Module, inputs: Inputs) -> Any:
        if self.runs:
            self.runs.append(again(model, inputs, self.runs[0], wanted=self._wanted))
        else:
            self.runs.append(record(model, inputs))
            self._wanted = None if self.asked is None else self._numbers(self.runs[0], self.asked(self.runs[0]))
        return self.runs[-1].output

    def _numbers(self, recording: Recording, asked: Collection[fx.Node]) -> Collection[int]:
        return {number for number, node in enumerate(recording.nodes) if node in asked or node.op == "placeholder"}


class VerdictEvidence(Evidence):
    """What the runs on the full-size elements `drawn` say of each value; undecided is what a fit would have to tell."""

    def __init__(self, group: Group, sample: Sample, drawn: Sequence[Draw], diverged: str | None, length: int) -> None:
        self._drawn = drawn
        super().__init__(group, sample.base, [sample], diverged, length)
        self._index = {node: i for node, i in self._index.items() if all(_is_kept(run.nodes[i]) for run in sample.moved)}

    def drawn(self) -> Sequence[Draw]:
        return self._drawn

    def _transformation(self, pairs: Pairs, norms: Norms) -> Transformation:
        if (found := still(pairs, self.tiny, norms)) is not None:
            return found
        if _is_multiple(pairs):
            return Transformation("undecided")
        known = Sampled(pairs, norms, len(self._drawn))

        def on(axes: tuple[int, ...]) -> Transformation:
            misfit = known.misfit(axes, of_all=True)
            return self._vectors(pairs, axes) if misfit is None else Transformation("none", residual=misfit)

        found, failed = over_axes(self.group, pairs[0][0].shape, on, self.sample_sizes)
        if found.kind == "none" and are_points(self.group, pairs, [g.matrix for g in self._drawn]):
            return Transformation("undecided")
        return min(failed, key=lambda each: each.residual) if found.kind == "none" else found

    def _obeys(self, features: Features, representation: Representation, pair: tuple[Tensor, Sequence[Tensor]]) -> bool:
        # the output of the model is known to transform: that few vectors among many do not is no fault
        rows = 1 + MOST * self.group.vector_size // max(representation.dim, 1)
        base, *runs = (features.some_rows(value, rows) for value in (pair[0], *pair[1]))
        return super()._obeys(Features(), representation, (base, runs))

    def _vectors(self, pairs: Pairs, axes: tuple[int, ...]) -> Transformation:
        """Vectors along one axis: one, or several in either layout."""
        ((base, runs),) = pairs
        size, d = base.shape[axes[0]] if len(axes) == 1 else 1, self.group.vector_size
        for layout in layouts(size // d) if size % d == 0 else ():
            residual = self._misfit(base, runs, axes[0], layout)
            if residual < TOLERANCE:
                vectors = Representation.vectors(self.group, size // d, layout)
                return Transformation("linear", axes, dense(vectors), residual)
        return Transformation("undecided")

    def _misfit(self, base: Tensor, runs: Sequence[Tensor], axis: int, layout: Layout) -> float:
        """How far values are from vectors along an axis, relative to their size; inf if they are too few to tell."""
        d = self.group.vector_size
        sizes, inner = ((-1, d), axis) if layout == "channel_major" else ((d, -1), axis - 1)

        def rows(value: Tensor) -> Tensor:
            return Features((inner,)).some_rows(value.unflatten(axis, sizes), MOST).mT

        before = rows(base)
        if before.shape[1] < 2 * d or int(torch.linalg.matrix_rank(before @ before.mT, rtol=1e-12, hermitian=True)) < d:
            return math.inf
        moved = [(g.matrix[:d, :d] @ before, rows(run)) for g, run in zip(self._drawn, runs, strict=True)]
        return max(float((expected - run).norm() / run.norm()) for expected, run in moved)


def _is_kept(node: Node) -> bool:
    return node.meta.get("value") is not None


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
