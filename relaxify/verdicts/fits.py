"""Representations that no list names, fitted: irreps features, a basis of somebody's own, fields of orientations.

For a group that keeps lengths, f(g x) = M(g) f(x) with an orthogonal M(g) if and only if inner products between feature
vectors are the same at x and at g x; the best M(g) solves the orthogonal Procrustes problem (Schoenemann 1966), which needs
no more vectors than there are. It is fitted to x -> a x and b x -> ab x at once: what keeps lengths but is no
representation (a sign that depends on the frame) cannot do both. For other groups M(g) is fitted by least squares, if there
are vectors enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Inexact
from torch import Tensor

from relaxify.verdicts.candidates import Way
from relaxify.verdicts.draws import Draw

LARGEST_AXIS = 512

Values = Sequence[tuple[Draw | None, Tensor]]
"""A value on x (no draw), and on g x for each g."""


@dataclass(frozen=True)
class Fit:
    """M(g) on an axis, and |f(g x) - M(g) f(x)| over what it was fitted to: `vectors` of size `dimension`."""

    matrix: Inexact[Tensor, "d d"]
    residual: float
    vectors: int
    dimension: int


def fit(values: Values, g: Draw, way: Way, *, orthogonal: bool) -> Fit:
    """The matrix of g on the axis of a value."""
    pairs = list(_pairs(values, g, way))
    before = torch.cat([one for one, _ in pairs])
    after = torch.cat([two for _, two in pairs])
    if orthogonal:
        u, _, v = torch.linalg.svd(before.mH @ after)
        matrix = (u @ v).mT
    else:
        matrix = torch.linalg.lstsq(before, after, driver="gelsd").solution.mT
    residual = float((before @ matrix.mT - after).norm()) / len(pairs) ** 0.5
    return Fit(matrix, residual, len(before), before.shape[1])


def products_change(values: Values, g: Draw) -> float:
    """How far g changes lengths and inner products of a whole value, as a length."""
    pairs = list(_pairs(values, g, Way("", (-1,))))
    before, after = (torch.stack([pair[side].flatten() for pair in pairs]) for side in (0, 1))
    return float((before @ before.mH - after @ after.mH).abs().max()) / (float(before.norm()) or 1.0)


def _pairs(values: Values, g: Draw, way: Way) -> Iterator[tuple[Tensor, Tensor]]:
    """Feature vectors at h x, placed, and at g h x, wherever both were seen."""
    (axis,) = way.axes
    elements = [(k.matrix, value) for k, value in values if k is not None]
    if not elements:
        return
    matrices = torch.stack([matrix for matrix, _ in elements])
    for h, value in values:
        target = g.matrix if h is None else g.matrix @ h.matrix
        seen = torch.isclose(matrices, target, atol=1e-9).flatten(1).all(1).nonzero()
        if len(seen):
            yield _rows(way.placed(g, value), axis), _rows(elements[int(seen[0])][1], axis)


def _rows(value: Tensor, axis: int) -> Inexact[Tensor, "rows d"]:
    return value.movedim(axis, -1).flatten(0, -2) if value.ndim > 1 else value[None]
