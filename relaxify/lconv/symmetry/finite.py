"""Finite groups that are left where no rotation is kept: C(k) and D(k) in a plane, signs and orders of axes, as of a cube.

A group is kept iff the means mu of all harmonics are, (1 - rho(g)) mu = 0 for each of its generators g. In a plane k is the
greatest common divisor of the frequencies that stand out, and it is D(k) if a reflection keeps the means as well. Axes are
the independent components of the samples (Hyvarinen, 1999); errors in their directions change (1 - rho(g)) mu only along
(1 - rho(g)) D_A mu, left out here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.axes import independent_components
from relaxify.lconv.symmetry.breaks import ROUNDING, Broken
from relaxify.lconv.symmetry.harmonics import HIGHEST_IN_THE_PLANE, Harmonics, polar
from relaxify.lconv.symmetry.means import Means, means_of
from relaxify.lconv.symmetry.moments import antisymmetric
from relaxify.lconv.symmetry.rows import Kinds, some
from relaxify.lconv.symmetry.search import LEVEL, POWER, Search, search

# of what a group forbids, the rms modulation that would have been seen: this, or this share of what was seen
LARGEST_BREAK, LARGEST_SHARE = 0.15, 0.25
# dimensions in which all harmonics of degree 4 are looked at, and the degrees whose breaks are small where they are
LARGEST_NAMED = 6
LOW = 4
# p-value of a break at a higher degree, to which the errors of the axes add by their squares
CLEAR_BREAK = 1e-9
# a mean over its standard error, of hundreds of them with heavy tails: above, it is not zero
CLEAR_SCORE = 7.0
# samples of which waves of the angle are looked at together with other coordinates, and a turn that tells derivatives
LARGEST_JOINT, SMALL_TURN = 20_000, 1e-4
# in which the axis of reflections is searched, and again between the best of them
STEPS = 512


@dataclass(frozen=True)
class Finite:
    """A finite group, the smallest break of it that would have been seen, and whether that is small enough to say so."""

    name: str
    reason: str
    smallest_break: float
    certain: bool
    order: int = 0
    axis: float | None = None


def finite_group(z: Float[Tensor, "n m d"], found: Search, *, centred: bool, kinds: Kinds | None = None) -> Finite | None:
    """That whitened samples keep where they keep no rotation; None if no group known here stands out."""
    d = z.shape[2]
    if z.shape[1] > 1:
        return None
    if d == 2:
        return cyclic(z[:, 0], centred, kinds)
    plane = _plane(found, d)
    if plane is not None and (group := cyclic(z[:, 0] @ plane, centred, kinds)) is not None:
        return _beside_others(group, z[:, 0], plane, len(z) if kinds is None else kinds.effective)
    return of_axes(z[:, 0], found, centred, kinds) if d <= LARGEST_NAMED else None


def cyclic(z: Float[Tensor, "n 2"], centred: bool, kinds: Kinds | None = None) -> Finite | None:
    """C(k) for k > 1 the greatest common divisor of the frequencies at which a rotation of the plane is broken, or D(k)."""
    harmonics = Harmonics.on(2, torch.Generator().manual_seed(0))
    means = means_of(z, harmonics, centred=centred, kinds=kinds)
    level, broken = LEVEL / len(means), [one.broken() for one in means]
    seen = [one for one in broken if one.p_value <= level]
    k = math.gcd(*(one.degree for one in seen))
    if k < 2:
        return None
    smallest = max((one.smallest(level, POWER) for one in broken if one.degree % k), default=0.0)
    degrees = ", ".join(map(str, sorted({one.degree for one in seen})))
    reason = f"it varies at angular frequency {degrees} only, which leaves the discrete C({k})"
    turns = Finite(f"C({k})", reason, smallest, _is_certain(smallest, seen), k)
    if not turns.certain:
        return turns
    return _with_reflections(turns, k, [one for one in means if one.degree % k == 0], harmonics, level)


def _with_reflections(turns: Finite, k: int, means: Sequence[Means], harmonics: Harmonics, level: float) -> Finite:
    """D(k) if a reflection keeps the means at multiples of k, and these would have shown that none does."""
    angle = _axis(k, means, harmonics)
    best, other = (
        [one.reflected(harmonics.acted(one.degree, _reflection(at))) for one in means]
        for at in (angle, angle + math.pi / (2 * k))
    )
    if any(one.p_value <= level for one in best):
        return replace(turns, reason=f"{turns.reason}, without reflections")
    smallest = max(one.smallest(level, POWER) for one in best)
    if not _is_certain(smallest, other):
        return replace(turns, reason=f"{turns.reason}, with or without reflections")
    reason = f"{turns.reason} of rotations, and with the reflections that it keeps as well D({k})"
    return Finite(f"D({k})", reason, max(smallest, turns.smallest_break), True, k, angle)


def _axis(k: int, means: Sequence[Means], harmonics: Harmonics) -> float:
    """The angle of the axis whose reflection changes the means least, over their scatter."""
    angles = torch.linspace(0, math.pi / k, STEPS, dtype=torch.float64)
    for _ in range(2):
        changes = torch.zeros(STEPS, dtype=torch.float64)
        for one in means:
            across, between = (
                harmonics.acted(one.degree, _reflection(at)) @ one.mean for at in (0.0, math.pi / (4 * one.degree))
            )
            turn = 2 * one.degree * angles[:, None]
            change = one.mean - turn.cos() * across - turn.sin() * between
            changes += change.square().sum(1) / one.rows.square().sum(1).mean()
        best = angles[changes.argmin()]
        angles = best + torch.linspace(-2, 2, STEPS, dtype=torch.float64) * (angles[1] - angles[0])
    return float(best)


def _beside_others(group: Finite, z: Float[Tensor, "n d"], plane: Float[Tensor, "d 2"], count: float) -> Finite | None:
    """What of C(k) or D(k) of a plane is also kept together with the other coordinates w, which it leaves alone.

    Of E[f(w) exp(i j angle)], f = w and w^2, turns by 1/k keep those of j that k divides, and a reflection their real parts.
    What the errors of the plane and of the axis would change is left out.
    """
    z = z[some(len(z), LARGEST_JOINT)]
    frame = torch.linalg.qr(plane, mode="complete").Q
    frame[:, :2] = plane
    rows, is_turned = _joint(z, frame, group)
    means, errors = rows.mean(0), rows.square().mean(0).clamp(min=ROUNDING).sqrt()
    moves = antisymmetric(torch.eye(len(frame), dtype=z.dtype))
    tilted = [_joint(z, frame @ torch.linalg.matrix_exp(SMALL_TURN * move), group)[0].mean(0) for move in moves]
    tangents = torch.linalg.qr((torch.stack(tilted, 1) - means[:, None]) / (SMALL_TURN * errors[:, None])).Q
    scores = means / errors * math.sqrt(min(count, len(z)))
    is_clear = (scores - tangents @ (tangents.mT @ scores)).abs() > CLEAR_SCORE
    if bool(is_clear[is_turned].any()):
        return None
    if not bool(is_clear.any()):
        return group
    turns = f"C({group.order})"
    return replace(group, name=turns, reason=f"together with others it keeps the discrete {turns}, without reflections")


def _joint(z: Float[Tensor, "n d"], frame: Float[Tensor, "d d"], group: Finite) -> tuple[Tensor, Tensor]:
    """What should have mean zero, (n, features), and which of it because of turns."""
    turned = z @ frame
    v, w = turned[:, :2], turned[:, 2:]
    others = torch.cat([w, w.square() - 1], 1)
    angle = torch.atan2(v[:, 1], v[:, 0]) - (group.axis or 0.0)
    rows, is_turned = [], []
    for j in range(1, HIGHEST_IN_THE_PLANE + 1):
        is_broken = bool(j % group.order)
        waves = [(j * angle).sin(), (j * angle).cos()]
        kept = waves if is_broken else waves[: group.axis is not None]
        found = [window * others * wave[:, None] for window, _ in polar(v[:, None])[2] for wave in kept]
        rows += found
        is_turned += [is_broken] * sum(each.shape[1] for each in found)
    return torch.cat(rows, 1), torch.tensor(is_turned)


def _reflection(angle: float) -> Float[Tensor, "2 2"]:
    """At the axis at this angle."""
    c, s = math.cos(2 * angle), math.sin(2 * angle)
    return torch.tensor([[c, s], [s, -c]], dtype=torch.float64)


def _is_certain(smallest: float, seen: Sequence[Broken]) -> bool:
    return smallest <= max(LARGEST_BREAK, LARGEST_SHARE * max((one.size for one in seen), default=0.0))


def _plane(found: Search, d: int) -> Float[Tensor, "d 2"] | None:
    """That of the one rotation which harmonics of low degree do not see broken."""
    coarse = search([family for family in found.families if family.degree <= LOW])
    if coarse.kept != 1:
        return None
    generator = torch.einsum("k,kab->ab", coarse.span[:, 0], antisymmetric(torch.eye(d, dtype=torch.float64)))
    u, values, _ = torch.linalg.svd(generator)
    return u[:, :2] if float(values[2:].sum()) < 0.2 * float(values.sum()) else None


def of_axes(z: Float[Tensor, "n d"], found: Search, centred: bool, kinds: Kinds | None) -> Finite | None:
    """All signs of the axes, all their orders, or both; which must be of a break that is smaller than what was seen.

    No harmonics may see them broken, those of higher degrees clearly; those of low ones say what break would have been seen.
    """
    d = z.shape[1]
    axes = independent_components(z)
    harmonics = Harmonics.on(d, torch.Generator().manual_seed(0))
    means = [one for one in means_of(z, harmonics, centred=centred, kinds=kinds) if harmonics.is_complete(one.degree)]
    signs = [axes @ torch.diag(1 - 2 * row) @ axes.mT for row in torch.eye(d, dtype=z.dtype)]
    orders = [axes @ _swap(d, i) @ axes.mT for i in range(d - 1)]
    names = {
        "cube" if d == 3 else f"cube in {d} dimensions": [*signs, *orders],
        f"S({d})": orders,
        f"signs of {d} axes": signs,
    }
    level = LEVEL / (len(means) * len(names) * 2 * d)
    seen = found.broken(0, len(found.directions))
    for name, elements in names.items():
        broken = [one.changed(harmonics.acted(one.degree, element)) for one in means for element in elements]
        if any(one.p_value <= (level if one.degree <= LOW else CLEAR_BREAK) for one in broken):
            continue
        smallest = max(one.smallest(level, POWER) for one in broken if one.degree <= LOW)
        words = {"S": "orders of its axes", "s": "signs of its axes"}.get(name[0], "orders and signs of its axes")
        return Finite(name, f"it keeps all {words}, the discrete {name}", smallest, _is_certain(smallest, seen))
    return None


def _swap(d: int, i: int) -> Float[Tensor, "d d"]:
    order = list(range(d))
    order[i], order[i + 1] = order[i + 1], order[i]
    return torch.eye(d, dtype=torch.float64)[order]
