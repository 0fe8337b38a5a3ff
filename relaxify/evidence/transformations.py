"""What is known of how a value transforms, the runs that it is known from, and when two values count as equal."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.grids.pixels import Pixels
from relaxify.groups import Group
from relaxify.random_elements import Element

TOLERANCE = 1e-6
ANGLE = 0.25
LARGEST_AXIS = 256

Kind = Literal["invariant", "linear", "none", "zero", "undecided"]

Axes = tuple[int, ...]

Pairs = Sequence[tuple[Tensor, Sequence[Tensor]]]
"""For each input x: a value on x, and that value on g x for each of `elements`."""


@dataclass(frozen=True)
class Transformation:
    """How a value transforms: not at all, by a representation on `axes` (from the end), in no linear way, or unknown.

    No axes at all is a character: the whole value is multiplied by a number. `actions` are the generators' matrices, as in
    Representation. A value that is zero in every run tells nothing. `residual` is how far the value is from that,
    relative to its size, and from transforming at all if `kind` is none; `is_transposed` says that it does by M(g^-1). With
    `pixels`, all this is true once the pixels are moved back. Of `unreached` dimensions of the axes no value has a part in
    any, and nothing acts on them. What is undecided is so for want of samples, or `beyond` what is looked at.
    """

    kind: Kind
    axes: Axes = ()
    actions: Float[Tensor, "actions d d"] | None = None
    residual: float = 0.0
    is_transposed: bool = False
    pixels: Pixels | None = None
    unreached: int = 0
    beyond: bool = False

    @property
    def is_sound(self) -> bool:
        return self.kind in ("invariant", "linear", "zero")

    def __str__(self) -> str:
        return f"linear on axes {self.axes}" if self.kind == "linear" else self.kind


@functools.lru_cache(64)
def elements(group: Group) -> Sequence[Element]:
    """A small element for each generator, then a random one, full-size in compact groups, that tests what they predict."""
    count = len(group.generators)
    found = [Element(ANGLE * direction) for direction in torch.eye(count, dtype=torch.float64)]
    found += [Element(torch.zeros(count, dtype=torch.float64), (letter,)) for letter in range(len(group.finite))]
    generic = group.random(torch.Generator().manual_seed(11))
    return (*found, generic if group.compact else Element(0.3 * generic.coefficients, generic.word))


class Norms:
    """|v| of each value, taken once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, float]] = {}

    def __call__(self, value: Tensor) -> float:
        if id(value) not in self._known:
            # an object's identity is its id only while it lives
            self._known[id(value)] = value, float(value.norm())
        return self._known[id(value)][1]


def close(a: Tensor, b: Tensor, norms: Norms | None = None) -> bool:
    """Whether two values are equal up to rounding, as whole tensors."""
    return a.shape == b.shape and float((a - b).norm()) <= TOLERANCE * (norms or Norms())(b)


def ratio(misfit: float, size: float) -> float:
    """As of tensors: nothing raises, and 0 / 0 is NaN."""
    return misfit / size if size else math.inf if misfit else math.nan


def is_larger(value: Tensor, tiny: float) -> bool:
    """Whether any entry is larger than `tiny` in size."""
    return bool(value.numel()) and float(torch.linalg.vector_norm(value, torch.inf)) > tiny


def on_axes(value: Float[Tensor, "..."], axes: Axes) -> Float[Tensor, "d samples"]:
    """The axes as one in front, all others as samples."""
    value = value.movedim(axes, tuple(range(len(axes))))
    return value.reshape(math.prod(value.shape[: len(axes)]), -1)


@functools.lru_cache(256)
def columns(available: int, wanted: int) -> Tensor:
    """Which samples to look at: the same for values of the same size."""
    return torch.randperm(available, generator=torch.Generator().manual_seed(0))[:wanted]


@functools.lru_cache(1024)
def places(chosen: tuple[int, int], start: int, free: tuple[int, ...]) -> tuple[Int[Tensor, " samples"], ...]:
    """Of the `columns` chosen among all those of a value that begins at `start`: where they are on each of its axes."""
    flat = columns(*chosen)
    own = flat[(flat >= start) & (flat < start + math.prod(free))] - start
    return tuple(map(torch.from_numpy, np.unravel_index(own.numpy(), free)))


def chosen_columns(values: Sequence[Float[Tensor, "..."]], axes: Axes, chosen: tuple[int, int]) -> Float[Tensor, "d _"]:
    """Of `on_axes` of all values beside each other the `columns` chosen, without the others being copied."""
    last, start, rows = tuple(range(-len(axes), 0)), 0, []
    for value in values:
        # one axis of samples even where all are acted on
        each = value[None].movedim(axes, last)
        free = tuple(each.shape[: each.ndim - len(axes)])
        rows.append(each[places(chosen, start, free)].flatten(1) if axes else each[places(chosen, start, free)][:, None])
        start += math.prod(free)
    return torch.cat(rows).mT


def span(value: Float[Tensor, "..."], axes: Axes) -> Float[Tensor, "d d"]:
    """The projection onto what a value has a part in, of these axes.

    >>> span(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), (-1,)).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    rows = on_axes(value, axes)
    left, sizes, _ = torch.linalg.svd(rows[:, columns(rows.shape[1], min(rows.shape[1], 8 * len(rows) + 64))])
    basis = left[:, : int((sizes > 1e-9 * sizes[0]).sum())]
    return basis @ basis.mT
