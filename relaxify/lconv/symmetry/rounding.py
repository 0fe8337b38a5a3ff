"""Rounded columns: on a lattice no distribution is round, which shows near the origin and says nothing of what was measured.

Noise as wide as a step makes each value any of those that were rounded to it, which are about equally likely.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.rows import some

# of a column's deviation: wider steps are values of their own, as of counts and classes
LARGEST_STEP = 0.34
FEWEST_VALUES = 8
# rows that are looked at first: where all are different, steps are too small to matter
FEW = 1000
# values are there so often on average, or steps are too small to matter
SMALLEST_COUNT = 2.0
# of a step: rounding in single precision
SMALLEST_ERROR = 0.01


def steps(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """What the values of each column are rounded to multiples of, but for a shift; 0 where they are not.

    >>> x = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> steps(torch.stack([x[:, 0], (4 * x[:, 1]).round() / 4], 1)).tolist()
    [0.0, 0.25]
    """
    few = x[some(len(x), FEW)]
    repeats = [len(column.unique()) < len(few) for column in few.mT]
    return torch.stack([_step(x[:, i]) if repeats[i] else x.new_zeros(()) for i in range(x.shape[1])])


def _step(column: Float[Tensor, " n"]) -> Tensor:
    values, none = column.unique(), column.new_zeros(())
    if not FEWEST_VALUES <= len(values) <= len(column) / SMALLEST_COUNT:
        return none
    gaps = values.diff()
    step = gaps.median()
    parts = gaps / step
    is_lattice = float((parts - parts.round()).abs().max()) < SMALLEST_ERROR and float(parts.min()) > 0.5
    return step if is_lattice and bool(step <= LARGEST_STEP * column.std()) else none


def dither(rounded: Float[Tensor, " d"], shape: torch.Size, seed: int) -> Float[Tensor, "*shape"]:
    """Noise as wide as the steps; zero where nothing is rounded."""
    if not rounded.any():
        return torch.zeros((), dtype=rounded.dtype)
    random = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=random, dtype=rounded.dtype) - 0.5) * rounded
