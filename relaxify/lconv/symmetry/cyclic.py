"""Which rotations of the plane by a k-th of a turn a function of the plane keeps, where it does not keep all."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.label_fits import LabelFits
from relaxify.lconv.symmetry.labelled import Labelled
from relaxify.lconv.symmetry.rows import some

HIGHEST = 24
POINTS = 2000
# of the change under half the turn: what is left of it is fits' own
LARGEST_CHANGE = 0.1


def cyclic(data: Labelled, fits: LabelFits) -> int | None:
    """The largest k whose rotations leave f alone, in whitened coordinates or in those given; None if there is none.

    E[(f_a(R z) - f_a(z)) (f_b(R z) - f_b(z))] of two independent fits has no bias from noise.
    """
    z = data.z[some(len(data.z), POINTS), 0]
    found = [_largest_order(z, frame, fits) for frame in (torch.eye(2).to(z), data.frame)]
    orders = [order for order in found if order is not None]
    return max(orders, default=None)


def _largest_order(z: Float[Tensor, "n 2"], frame: Float[Tensor, "2 2"], fits: LabelFits) -> int | None:
    here = fits.values(z)
    parts = [1 / k for k in range(2, HIGHEST + 1)]
    whole, halved = ([_change(z, frame, fits, here, share * part) for part in parts] for share in (1.0, 0.5))
    # a small turn changes little anyway, but then half of it changes less
    kept = [k for k, (own, half) in enumerate(zip(whole, halved, strict=True), 2) if own < LARGEST_CHANGE * half]
    return max(kept, default=None)


def _change(z: Tensor, frame: Tensor, fits: LabelFits, here: Float[Tensor, "halves n c"], part: float) -> float:
    """By a part of a turn."""
    c, s = math.cos(2 * math.pi * part), math.sin(2 * math.pi * part)
    turn = torch.linalg.solve(frame, torch.tensor([[c, -s], [s, c]]).to(z) @ frame)
    first, second = fits.values(z @ turn.mT) - here
    return float((first * second).mean())
