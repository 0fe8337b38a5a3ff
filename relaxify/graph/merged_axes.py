"""Axes that a view has merged before a product with a weight, and splits again after it: which they were.

A linear map is often written, and by torch.export's decompositions always, as view, mm, view: the axis on which a vector
stood is then part of the rows.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from relaxify.graph.contractions import Contraction, function_name

_VIEWS = frozenset({"view", "reshape", "flatten", "_unsafe_view", "view_copy", "_reshape_alias", "_reshape_copy"})
Shape = tuple[int, ...]


def is_reshape(function: object) -> bool:
    """Whether a function returns the entries of its first argument, in their order, in another shape."""
    return function_name(function) in _VIEWS


@dataclass(frozen=True)
class Unmerged:
    """A contraction of data, and of its result, in the shapes that these have before axes are merged."""

    contraction: Contraction
    data: Shape
    result: Shape


def unmerged(found: Contraction, flat: Shape, whole: Shape, result: Shape) -> Unmerged | None:
    """A contraction of data of shape `flat` to a `result`, where the data were of shape `whole` before.

    None if no axes were merged, or those that are contracted.

    >>> unmerged(Contraction("x", "w", (-1,), (-1,), "in_out"), (24, 8), (2, 4, 3, 8), (24, 5)).result
    (2, 4, 3, 5)
    """
    groups = _merged_from(flat, whole)
    if groups is None or all(len(group) == 1 for group in groups):
        return None
    if any(len(groups[axis]) != 1 for axis in found.axes_in):
        return None
    n_in, n_out = len(flat), len(result)
    kept = [axis for axis in range(n_in) if axis - n_in not in found.axes_in[found.grouped :]]
    sizes: list[Shape] = [(size,) for size in result]
    for axis in kept:
        sizes[found.place(axis, n_in, n_out)] = groups[axis]
    axes_in, axes_out = _moved(found.axes_in, groups), _moved(found.axes_out, sizes)
    shapes = (tuple(itertools.chain(*each)) for each in (groups, sizes))
    return Unmerged(replace(found, axes_in=axes_in, axes_out=axes_out), *shapes)


def _merged_from(flat: Shape, whole: Shape) -> list[Shape] | None:
    """For each axis of a shape the sizes of those axes of another that it was merged from; None if it was not.

    >>> _merged_from((1, 8, 24), (8, 2, 3, 4, 1))
    [(1,), (8,), (2, 3, 4)]
    >>> _merged_from((6, 4), (4, 6)) is None
    True
    """
    left = [size for size in whole if size != 1]
    groups: list[Shape] = []
    for size in flat:
        group: Shape = ()
        while left and math.prod(group) < size:
            group = (*group, left.pop(0))
        if math.prod(group) != size:
            return None
        groups.append(group or (1,))
    return None if left else groups


def _moved(axes: tuple[int, ...], groups: list[Shape]) -> tuple[int, ...]:
    """Where axes stand, counted from the end, when others are split into these sizes."""
    after = [sum(map(len, groups[axis:])) for axis in range(len(groups))]
    return tuple(-after[axis] for axis in axes)
