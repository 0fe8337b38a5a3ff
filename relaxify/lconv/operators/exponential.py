"""exp(A) v by scaling and Taylor series, for a linear map A that is given as a function."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

LONGEST_SERIES = 120
POWERS = 6


def exponential_action(linear: Callable[[Tensor], Tensor], v: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """exp(A) v = (exp(A/s))^s v with s steps of size about one, each a Taylor series summed until it no longer changes.

    |A| is estimated on a few powers of A, so s is right for most A and the series is merely longer for others. ValueError
    if the series does not converge.

    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> exponential_action(lambda v: math.pi / 2 * turn @ v, torch.tensor([1.0, 0.0])).round(decimals=6).abs()
    tensor([0., 1.])
    """
    growth = _growth(linear, v)
    if not math.isfinite(growth):
        raise ValueError("the generators have NaN or infinite values, so there is no exponential; restore them first.")
    steps = max(1, math.ceil(growth))
    for _ in range(steps):
        v = _series(linear, v, steps)
    return v


def _series(linear: Callable[[Tensor], Tensor], v: Tensor, steps: int) -> Tensor:
    total = term = v
    small = 0
    for k in range(1, LONGEST_SERIES):
        term = linear(term) / (k * steps)
        total = total + term
        with torch.no_grad():
            small = small + 1 if term.norm() <= torch.finfo(v.dtype).eps * total.norm() / 4 else 0
        # an odd or even term may vanish by itself
        if small == 2:
            return total
    raise ValueError(f"the exponential's series did not converge in {LONGEST_SERIES} terms; scale the coefficients down.")


@torch.no_grad()
def _growth(linear: Callable[[Tensor], Tensor], v: Tensor) -> float:
    """The largest ratio |A w| / |w| over the first powers of A on a random w."""
    w = torch.randn(v.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(v)
    largest = 0.0
    for _ in range(POWERS):
        norm = float(w.norm())
        if norm == 0:
            break
        w = linear(w / norm)
        largest = max(largest, float(w.norm()))
        if not math.isfinite(largest):
            break
    return largest if torch.isfinite(w).all() else math.inf
