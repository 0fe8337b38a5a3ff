"""The verdict on samples without labels: what the distribution keeps, and whether these samples could have shown otherwise.

*Found*: nothing rejects the algebra at LEVEL, a modulation of rms size LARGEST_BREAK along its orbits would have been
rejected with a probability of POWER, and what is broken is so by clearly more. *Too few data*: one of the latter two fails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy.special
import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import closure_residual
from relaxify.lconv.symmetry.classical import LARGEST_CLOSURE_RESIDUAL
from relaxify.lconv.symmetry.confidence import confidence_angle
from relaxify.lconv.symmetry.finite import finite_group
from relaxify.lconv.symmetry.harmonic_breaks import families
from relaxify.lconv.symmetry.moments import Regression, SecondMoments, held_out_defect, regression
from relaxify.lconv.symmetry.rounding import dither, steps
from relaxify.lconv.symmetry.rows import Kinds, copies
from relaxify.lconv.symmetry.search import LEVEL, POWER, Search, search
from relaxify.lconv.symmetry.subspaces import orthonormal_pair
from relaxify.lconv.symmetry.symmetry import Symmetry, Verdict

# rms modulation of the density along orbits: three independent logistic coordinates, nearly round, have 0.2
LARGEST_BREAK = 0.15
# the least broken generator is broken by this many times what may have been overlooked in those kept
CLEARLY = 1.5
# samples are not known to be enough beyond this many times those at hand
MOST_TIMES = 100


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it rests on, as a report has it."""

    verdict: Verdict
    reason: str
    smallest_break: float | None = None
    samples_needed: int | None = None
    discrete: str | None = None


def of_distribution(X: Float[Tensor, "n m d"], *, center: bool, whole: bool, resamplings: int, seed: int) -> Symmetry:
    """The algebra that the distribution keeps; with `whole` all that second moments allow, and whether it keeps that."""
    kinds, rounded = copies(X), steps(X.flatten(0, 1))
    X = X + dither(rounded, X.shape, seed)
    X = X - X.mean((0, 1)) if center else X
    fit = regression(SecondMoments.of(X.flatten(0, 1)))
    found, angle, z = None, None, X @ fit.inverse_root
    count = len(X) if kinds is None else kinds.effective
    hint = "" if center or not _is_far(z, count) else " The mean is not zero, and center=True would look about it."
    hint += "" if kinds is None else f" {kinds.words}"
    if bool(rounded.any()):
        hint += f" Entries are rounded to steps of {float(rounded.max()):.2g}, within which nothing is seen."
    if len(fit.whitened):
        found = search(families(z, fit.whitened, centred=center, seed=seed, kinds=kinds)).closed(fit.whitened)
        if whole:
            found = found.of_all()
        fit = fit.combined(found.span)
        if resamplings and found.kept:
            angle = confidence_angle(z, fit, found, count=resamplings, seed=seed)
    judged = (
        Judgement(Verdict.NONE, "nothing turns in one dimension.")
        if found is None
        else _judge(found, fit, z, kinds, whole, center)
    )
    where = "about the mean, which was removed" if center else "about the origin"
    return Symmetry(
        orthonormal_pair(fit.generators, None)[0],
        judged.verdict,
        judged.reason + hint,
        f"second moments (Theorem 1) {where}" if whole else f"distribution {where}",
        None if found is None or whole else found.spectrum / found.spectrum.square().mean().sqrt(),
        held_out_defect(X.flatten(0, 1)),
        angle,
        0 if angle is None else resamplings,
        frame=fit.root,
        smallest_break=judged.smallest_break,
        power=POWER,
        samples_needed=judged.samples_needed,
        discrete=judged.discrete,
    )


def _is_far(z: Float[Tensor, "n m d"], count: float) -> bool:
    """Whether the mean, of all vectors together, is farther from the origin than chance takes it."""
    points = z.mean(1)
    scale = torch.linalg.solve(points.mT @ points / len(z), points.mean(0)) @ points.mean(0)
    return float(scipy.special.gammaincc(z.shape[-1] / 2, count * float(scale) / 2)) < LEVEL


def _judge(found: Search, fit: Regression, z: Tensor, kinds: Kinds | None, whole: bool, centred: bool) -> Judgement:
    """`fit` has the generators that are kept."""
    kept, allowed = found.kept, len(found.directions)
    n = float(len(z)) if kinds is None else kinds.effective
    if not kept or (whole and found.rejected):
        return _broken(found, z, kinds, whole, centred)
    smallest = max(broken.smallest(found.level, POWER) for broken in found.broken(0, kept))
    words = f"of so({z.shape[-1]}), which second moments allow, the distribution keeps {kept} of {allowed} dimensions"
    if smallest > LARGEST_BREAK:
        needed = _samples(n * (smallest / LARGEST_BREAK) ** 2)
        reason = f"{words}, but these are too few samples to tell: they show no break below {smallest:.2g}."
        return Judgement(Verdict.TOO_FEW, reason, smallest, needed)
    following = max((broken.size for broken in found.broken(kept, kept + 1)), default=0.0) if kept < allowed else math.inf
    if following < CLEARLY * smallest:
        needed = _samples(n * min(MOST_TIMES, (CLEARLY * smallest / max(following, 1e-9)) ** 2))
        reason = f"{words}, but the next is broken by {following:.2g}, and these are too few samples to show {smallest:.2g}."
        return Judgement(Verdict.TOO_FEW, reason, smallest, needed)
    residual = closure_residual(fit.whitened) if kept < allowed else 0.0
    if residual > LARGEST_CLOSURE_RESIDUAL:
        reason = f"{words}, whose brackets leave the span (residual {residual:.2g}): more samples will reject some."
        return Judgement(Verdict.TOO_FEW, reason, smallest, _samples(4 * n))
    return Judgement(
        Verdict.FOUND, f"{words}, at a level of {LEVEL:.1%} and up to angular degree {found.highest}.", smallest
    )


def _broken(found: Search, z: Tensor, kinds: Kinds | None, whole: bool, centred: bool) -> Judgement:
    """What breaks it, and in some cases what is left."""
    worst = min(found.broken(0, len(found.directions) if whole else 1), key=lambda broken: broken.p_value)
    how = f"by an rms modulation of {worst.size:.2g} at angular degree {worst.degree} (p = {worst.p_value:.1g})"
    words = f"every direction is broken, the least of them {how}"
    if whole:
        words = f"every data set has so({z.shape[-1]}) in its second moments, and this distribution breaks it {how}"
    finite = finite_group(z, found, centred=centred, kinds=kinds)
    if finite is None:
        return Judgement(Verdict.NONE, words + ("; statistics='distribution' finds what it keeps." if whole else "."))
    if not finite.certain:
        return Judgement(Verdict.NONE, f"{words}; {finite.reason} at most, as far as these samples tell.")
    return Judgement(Verdict.DISCRETE, f"{words}; {finite.reason}.", finite.smallest_break, discrete=finite.name)


def _samples(count: float) -> int:
    """Rounded up to two digits."""
    unit = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return math.ceil(count / unit) * unit
