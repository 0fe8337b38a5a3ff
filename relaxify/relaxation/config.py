"""RelaxConfig: the choices a user has for one term."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Literal, get_args

from relaxify.groups import Group

Reduction = Literal["rms", "norm", "weights", "projection"]
Start = Literal["zeros", "normal"]


_KINDS: dict[object, str] = {
    numbers.Real: "a number",
    numbers.Real | None: "a number or None",
    numbers.Integral | None: "an integer or None",
}
_FIELDS = {
    "weight": numbers.Real,
    "theta": numbers.Real,
    "share": numbers.Real | None,
    "std": numbers.Real,
    "rows": numbers.Integral | None,
    "rank": numbers.Integral | None,
}


@dataclass(frozen=True)
class RelaxConfig:
    """How a site is relaxed.

    - `weight`: lambda_reg of CR eq. 5; 0.01 in all the paper's experiments.
    - `reduction`: `rms` is sqrt(E|Wx|^2) + sum_A sqrt(E|L_A(W)x|^2); `norm` is eq. 5 as printed, E|Wx| + sum_A E|L_A(W)x|;
      `weights` is |W| + sum_A |L_A(W)| whatever the inputs, which is `rms` for inputs of unit covariance.
      `projection` is |W| + |W - P_H W|, the distance from the intertwiners (arXiv 2601.05028), whatever the inputs; each
      time P_H W is computed on the CPU in float64.
    - `rows`: how many input rows the sketch samples for these expectations; None uses every row (exact; of `norm`, which
      keeps them until the penalty is read, up to 2^26 numbers a layer, and a sample of as many from there on).
    - `share`: a soft bound on |theta W x| / |f_e(x)| for theta up to 1, in place of lambda_reg |W x|: e^2 for e = |W x| /
      (share |f_e(x)|) - 1 above 0, and linear from e = 1 on. With `penalty(model, relative_to=loss)` it means the same
      whatever the scale of the loss. None is eq. 5 as printed, and for models that shall stay approximately equivariant;
      the reductions that look at no inputs have no share.
    - `init`, `std`: W starts at zero, or with entries of this deviation over the root of n_in (`up`, of a low-rank one).
      With theta = 0 at the start the model is what it was all the same. Noise breaks the tie where the data are as symmetric
      as the model, and the gradient at W = 0 lies in the intertwiners: see `diagnose`.
    - `rank`: None for a dense W (n_out x n_in); r for W = up @ down of rank r.
    - `theta`: its value until a controller sets it.
    - `to`: a subgroup H of the group, by name or as a Group, that the terms keep: every W commutes with H, so that training
      breaks the symmetry to H's and no further (a substrate, gravity: O(3) to "O(2) about z"; arXiv 2405.13063). With
      `keep_relaxed` the model stays exactly H-equivariant; projected, it is equivariant under the whole group. None leaves
      W free. Not for convolutions, nor for low rank.

    ValueError, naming the field, if a value makes no sense.

    >>> RelaxConfig(rank=16).rank
    16
    """

    weight: float = 0.01
    reduction: Reduction = "rms"
    rows: int | None = 64
    rank: int | None = None
    theta: float = 0.0
    share: float | None = 0.05
    init: Start = "zeros"
    std: float = 0.01
    to: Group | str | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        self._check_values()
        self._check_choices()

    def _check_kinds(self) -> None:
        for name, kinds in _FIELDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"RelaxConfig({name}={value!r}): {name} is {_KINDS[kinds]}.")

    def _check_values(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"RelaxConfig(weight={self.weight}): lambda_reg is a finite number >= 0; 0.01 is the paper's.")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"RelaxConfig(rows={self.rows}): sample at least one row, or use None for every row.")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"RelaxConfig(rank={self.rank}): a rank is at least 1, or None for a dense term.")
        if not math.isfinite(self.theta):
            raise ValueError(f"RelaxConfig(theta={self.theta}): theta is a finite number.")
        if self.share is not None and not (math.isfinite(self.share) and self.share > 0):
            raise ValueError(
                f"RelaxConfig(share={self.share}): a part of the layer's output, above 0, such as 0.1; or None."
            )
        if not (math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"RelaxConfig(std={self.std}): a standard deviation, above 0.")

    def _check_choices(self) -> None:
        if self.to is not None:
            Group.parse(self.to)
            if self.rank is not None:
                raise ValueError(
                    f"RelaxConfig(to={self.to!r}, rank={self.rank}): factors of low rank keep no subgroup; use one."
                )
        if self.reduction not in get_args(Reduction):
            raise ValueError(
                f"RelaxConfig(reduction={self.reduction!r}): unknown; use 'rms', 'norm', 'weights' or 'projection'."
            )
        if self.init not in get_args(Start):
            raise ValueError(f"RelaxConfig(init={self.init!r}): unknown; use 'zeros' or 'normal'.")
