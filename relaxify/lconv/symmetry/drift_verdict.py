"""What drifts come to: found, none, or too few data, with the smallest break that would have shown and how many would do."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from relaxify.lconv.symmetry.drift import LARGEST_KEPT, Drift, Drifts
from relaxify.lconv.symmetry.symmetry import Verdict

LEVEL = 0.01

# "found" says that a break would have shown from this many times on what counts as kept
LARGEST_UNSEEN = 2.0

# what was searched for among many may go over into what is broken by and by, as turns of nearly Gaussian directions do
SMALLEST_GAP = 2.5

# drifts below it are alike
SMALLEST_DRIFT = 0.1

MOST_SAMPLES = 10**9


@dataclass(frozen=True)
class Judgement:
    """The verdict on directions whose drifts ascend: the first `kept` of them are the symmetry's."""

    verdict: Verdict
    reason: str
    drifts: tuple[Drift, ...]
    kept: int
    smallest_break: float
    samples_needed: int | None = None


def judged(drifts: Drifts, measured: list[Drift], *, searched: bool = False) -> Judgement:
    """At a level of 1 % for all directions together.

    A break that must show is one of twice what counts as kept: where it would not, nothing is found, whatever the
    estimates are. Directions that were `searched` for, as the least broken of many, must also stand out from the others.
    """
    deviations = statistics.NormalDist().inv_cdf(1 - LEVEL / max(1, len(measured)))
    visible = drifts.smallest_visible(deviations)
    kept = sum(drift.kept(deviations) for drift in measured)
    open_ = len(measured) - kept - sum(drift.broken(deviations) for drift in measured)

    def verdict(kind: Verdict, reason: str, needed: int | None = None) -> Judgement:
        return Judgement(kind, reason, tuple(measured), kept if kind is Verdict.FOUND else 0, visible, needed)

    if not measured:
        return verdict(Verdict.NONE, "the family does not move what is seen of these samples: there is nothing to find.")
    first = f"the least of {len(measured)} directions drifts by {_shown(measured[0])}"
    if not kept and not open_:
        return verdict(Verdict.NONE, f"{first}: all are broken.")
    if visible > LARGEST_UNSEEN * LARGEST_KEPT or not kept or (searched and open_):
        undecided = [drift for drift in measured if not drift.kept(deviations) and not drift.broken(deviations)]
        # one that is kept is enough, but of those searched for each must be known
        ask = undecided if searched else undecided[:1]
        reason = f"{first}, and to tell what is above {LARGEST_KEPT:g} takes more samples."
        return verdict(Verdict.TOO_FEW, reason, max(_needed(drifts, drift, deviations) for drift in ask or measured[:1]))
    if searched and kept < len(measured) and not _stand_out(measured, kept):
        return verdict(Verdict.NONE, f"{first}, and the others go on from there without a gap.")
    verb = "drifts" if kept == 1 else "drift"
    reason = f"{kept} of {len(measured)} directions {verb} by no more than {_shown(measured[kept - 1])}"
    return verdict(Verdict.FOUND, f"{reason}; {_about_the_others(len(measured) - kept, open_, searched)}.")


def _about_the_others(others: int, open_: int, searched: bool) -> str:
    if others:
        return f"of {open_} more these samples cannot tell" if open_ else "all others are broken"
    return "these were the least broken, and there may be more" if searched else "none is broken"


def _stand_out(measured: list[Drift], kept: int) -> bool:
    """Whether there is a gap after the directions that are kept."""
    return measured[kept].value > SMALLEST_GAP * max(measured[kept - 1].value, SMALLEST_DRIFT)


def _shown(drift: Drift) -> str:
    return f"{max(drift.value, 0.0):.2g} (standard error {drift.error:.1g})"


def _needed(drifts: Drifts, least: Drift, deviations: float) -> int:
    """How many samples would do, if this drift is what it seems."""
    here = len(drifts.seen.values)
    # an estimate on the limit itself would take for ever
    distance = max(abs(least.value - LARGEST_KEPT), LARGEST_KEPT / 4)
    needed = math.ceil(here * (1.2 * deviations * least.error / distance) ** 2)
    while needed < MOST_SAMPLES and drifts.smallest_visible(deviations, needed) > LARGEST_UNSEEN * LARGEST_KEPT:
        needed = math.ceil(1.25 * needed)
    return max(needed, here + 1)
