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


def judged(drifts: Drifts, measured: list[Drift]) -> Judgement:
    """At a level of 1 % for all directions together.

    A break that must show is one of twice what counts as kept: where it would not, nothing is found, whatever the
    estimates are.
    """
    deviations = statistics.NormalDist().inv_cdf(1 - LEVEL / max(1, len(measured)))
    visible = drifts.smallest_visible(deviations)
    if not measured:
        reason = "the family does not move what is seen of these samples, so that there is nothing to find."
        return Judgement(Verdict.NONE, reason, (), 0, visible)
    kept = sum(drift.kept(deviations) for drift in measured)
    broken = sum(drift.broken(deviations) for drift in measured)
    first = f"the least of {len(measured)} directions drifts by {_shown(measured[0])}"
    if broken == len(measured):
        return Judgement(Verdict.NONE, f"{first}: all are broken.", tuple(measured), 0, visible)
    if visible > LARGEST_UNSEEN * LARGEST_KEPT or not kept:
        reason = f"{first}, and to tell whether that is below {LARGEST_KEPT:g} takes more samples."
        return Judgement(Verdict.TOO_FEW, reason, tuple(measured), 0, visible, _needed(drifts, measured[0], deviations))
    beyond = len(measured) - kept - broken
    reason = f"{kept} of {len(measured)} directions drift by no more than {_shown(measured[kept - 1])}"
    reason += f"; of {beyond} more these samples cannot tell." if beyond else "; all others are broken."
    return Judgement(Verdict.FOUND, reason, tuple(measured), kept, visible)


def _shown(drift: Drift) -> str:
    return f"{drift.value:.2g} (standard error {drift.error:.1g})"


def _needed(drifts: Drifts, least: Drift, deviations: float) -> int:
    """How many samples would do, if this drift is what it seems."""
    here = len(drifts.seen.values)
    # an estimate on the limit itself would take for ever
    distance = max(abs(least.value - LARGEST_KEPT), LARGEST_KEPT / 4)
    needed = math.ceil(here * (1.2 * deviations * least.error / distance) ** 2)
    while needed < MOST_SAMPLES and drifts.smallest_visible(deviations, needed) > LARGEST_UNSEEN * LARGEST_KEPT:
        needed = math.ceil(1.25 * needed)
    return max(needed, here + 1)
