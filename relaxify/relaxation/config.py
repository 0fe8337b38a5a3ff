"""RelaxConfig: the choices a user has for one term."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Reduction = Literal["rms", "norm", "weights"]


_KINDS: dict[object, str] = {int | float: "a number", int | None: "an integer or None"}


@dataclass(frozen=True)
class RelaxConfig:
    """How a site is relaxed.

    - `weight`: lambda_reg of CR eq. 5; 0.01 in all the paper's experiments.
    - `reduction`: `rms` is sqrt(E|Wx|^2) + sum_A sqrt(E|L_A(W)x|^2); `norm` is eq. 5 as printed, E|Wx| + sum_A E|L_A(W)x|;
      `weights` is |W| + sum_A |L_A(W)| whatever the inputs, which is `rms` for inputs of unit covariance.
    - `rows`: how many input rows the sketch samples for these expectations; None uses every row (exact).
    - `rank`: None for a dense W (n_out x n_in); r for W = up @ down of rank r.
    - `theta`: its value until a controller sets it.

    ValueError, naming the field, if a value makes no sense.

    >>> RelaxConfig(rank=16).rank
    16
    """

    weight: float = 0.01
    reduction: Reduction = "rms"
    rows: int | None = 64
    rank: int | None = None
    theta: float = 0.0

    def __post_init__(self) -> None:
        for name, kinds in (("weight", int | float), ("theta", int | float), ("rows", int | None), ("rank", int | None)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"RelaxConfig({name}={value!r}): {name} is {_KINDS[kinds]}.")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"RelaxConfig(weight={self.weight}): lambda_reg is a finite number >= 0; 0.01 is the paper's.")
        if self.reduction not in get_args(Reduction):
            raise ValueError(f"RelaxConfig(reduction={self.reduction!r}): unknown; use 'rms', 'norm' or 'weights'.")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"RelaxConfig(rows={self.rows}): sample at least one row, or use None for every row.")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"RelaxConfig(rank={self.rank}): a rank is at least 1, or None for a dense term.")
        if not math.isfinite(self.theta):
            raise ValueError(f"RelaxConfig(theta={self.theta}): theta is a finite number.")
