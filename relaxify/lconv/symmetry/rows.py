"""Rows of a table: some of them by chance, whatever their order, and those that are copies of others.

A copy tells nothing that its original did not: of means over rows of which the i-th kind is there c_i times the variance is
that of n_eff = (sum c_i)^2 / sum c_i^2 samples (Kish, Survey Sampling, 1965).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from relaxify.lconv.symmetry.templates import projected

Array = np.ndarray[Any, Any]

# values that are there so often on average are those of a distribution of few points, and not copies of samples
MOST_COPIES = 50
# in rounded columns, over how many are next to each other: above it samples are no longer alike by chance
MORE_THAN_NEXT = 2.0
FEWEST_VALUES = 8
# columns, of more of which not all are compared, and what their projections are rounded to
WIDE, DIGITS = 64, 2.0**40


@dataclass(frozen=True, eq=False)
class Kinds:
    """Rows that are all different (`first` of each kind), how often each is there, and the kind of each of n rows."""

    first: Int[Tensor, " m"]
    counts: Float[Tensor, " m"]
    kind: Int[Tensor, " n"]

    @property
    def effective(self) -> float:
        """The number of independent samples whose means would vary as much."""
        return float(self.counts.sum().square() / self.counts.square().sum())

    @property
    def are_repeated(self) -> bool:
        """Whether each is there equally often, which is no chance, as rounded images may be alike by it."""
        return bool((self.counts == self.counts[0]).all())

    @property
    def words(self) -> str:
        """What a report says of them."""
        return f"{len(self.kind):,} rows are {len(self.first):,} and copies of these, which tell nothing new."


def copies(*tables: Shaped[Tensor, "n ..."]) -> Kinds | None:
    """Of rows that several tables have together; None where none is a copy, or where it may be the values that are few.

    >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    >>> copies(x) is None, copies(torch.cat([x, x[:100]])).effective, copies(x.round()) is None
    (True, 266.66..., True)
    """
    flat = [table.detach().reshape(len(table), -1) for table in tables]
    if any(_all_different(table) for table in flat):
        return None
    # -0.0 is 0.0
    rows = np.ascontiguousarray(torch.cat([_narrow(table) for table in flat], 1).numpy(force=True) + 0.0)
    whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    _, first, kind, counts = np.unique(whole, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == len(rows) or len(first) * MOST_COPIES <= len(rows):
        return None
    # in tables of few values different samples are alike by chance
    few = 2 * max(len(np.unique(column)) for column in rows.T) < len(first)
    if few and float((counts * (counts - 1)).sum()) < MORE_THAN_NEXT * _next_to_each_other(rows[first], counts):
        return None
    return Kinds(torch.from_numpy(first), torch.from_numpy(counts.astype(float)), torch.from_numpy(kind.reshape(-1)))


def _next_to_each_other(rows: Shaped[Array, "m d"], counts: Shaped[Array, " m"]) -> float:
    """How many pairs of samples differ by a step in one column only: what is smooth and rounded has as many alike by chance.

    Infinite for columns of few values, which are no steps.
    """
    levels, codes = zip(*(np.unique(column, return_inverse=True) for column in rows.T), strict=True)
    if min(map(len, levels)) < FEWEST_VALUES:
        return math.inf
    codes = np.stack([code.reshape(-1) for code in codes], 1)
    return max(_pairs(codes, counts, step) for step in np.eye(codes.shape[1], dtype=codes.dtype))


def _pairs(codes: Shaped[Array, "m d"], counts: Shaped[Array, " m"], step: Shaped[Array, " d"]) -> float:
    """How many pairs of samples are this step apart."""
    both = np.concatenate([codes, codes + step])
    kind = np.unique(both, axis=0, return_inverse=True)[1].reshape(2, -1)
    here, there = (np.bincount(each, weights=counts, minlength=int(kind.max()) + 1) for each in kind)
    return float((here * there).sum())


def _all_different(table: Shaped[Tensor, "n d"]) -> bool:
    """Whether the first column alone tells so, or a few of many, which is cheap."""
    if len(table[:, 0].unique()) == len(table):
        return True
    few = table[:, some(table.shape[1], WIDE)]
    return table.shape[1] > WIDE and len(few.unique(dim=0)) == len(table)


def _narrow(table: Shaped[Tensor, "n d"]) -> Float[Tensor, "n e"]:
    """In double precision; of wide tables two projections, to the digits that do not depend on how sums are made."""
    if table.shape[1] <= WIDE:
        return table.double()
    random = torch.Generator().manual_seed(0)
    seen = projected(table, torch.randn(2, table.shape[1], generator=random, dtype=torch.float64))
    return (seen * (DIGITS / seen.abs().amax(0).clamp(min=1e-300))).round()


def some(n: int, count: int) -> Int[Tensor, " m"]:
    """So many of n rows by chance, in their order, or all if there are no more."""
    if n <= count:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:count].sort().values


def shuffled(n: int, random: torch.Generator, kinds: Kinds | None = None) -> Int[Tensor, " n"]:
    """A random order in which copies of a row follow each other, so that a cut divides one kind at most."""
    if kinds is None:
        return torch.randperm(n, generator=random)
    return torch.randperm(len(kinds.first), generator=random)[kinds.kind].argsort(stable=True)
