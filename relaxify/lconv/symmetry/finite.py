"""Finite groups that are left where a rotation is broken: C(k) in a plane, from the angular frequencies that stand out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.breaks import Broken
from relaxify.lconv.symmetry.search import POWER, Search

# of frequencies that C(k) forbids, the rms modulation that would have been seen: this, or this share of what was seen
LARGEST_BREAK, LARGEST_SHARE = 0.15, 0.25


@dataclass(frozen=True)
class Finite:
    """A finite group, the smallest break of it that would have been seen, and whether that is small enough to say so."""

    name: str
    reason: str
    smallest_break: float
    certain: bool


def finite_group(z: Float[Tensor, "n m d"], found: Search) -> Finite | None:
    """That whitened samples keep where they keep no rotation; None if no group known here stands out."""
    if z.shape[1] > 1:
        return None
    return cyclic(found.broken(0, 1), found.level) if z.shape[2] == 2 else None


def cyclic(broken: list[Broken], level: float) -> Finite | None:
    """C(k) for k > 1 the greatest common divisor of the frequencies at which a rotation of the plane is broken."""
    seen = [one for one in broken if one.p_value <= level]
    k = math.gcd(*(one.degree for one in seen))
    if k < 2:
        return None
    smallest = max((one.smallest(level, POWER) for one in broken if one.degree % k), default=0.0)
    largest = max(one.size for one in seen)
    degrees = ", ".join(map(str, sorted({one.degree for one in seen})))
    reason = f"it varies at angular frequency {degrees} only, which leaves the discrete C({k})"
    return Finite(f"C({k})", reason, smallest, smallest <= max(LARGEST_BREAK, LARGEST_SHARE * largest))
