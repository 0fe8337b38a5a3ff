"""A way beside a plain one over the seeds that both have: the mean of the paired differences, with its t intervals.

A verdict is read off an interval that is wider than that of 95 %: Bonferroni's correction for all comparisons of the page.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scipy import stats

Verdict = Literal["better", "worse", "no difference"]


@dataclass(frozen=True)
class Comparison:
    """`mean` of the differences, way minus plain; the half width of its 95 % interval, and of the corrected one."""

    mean: float
    half_width: float
    corrected: float
    pairs: int
    higher_is_better: bool

    @property
    def verdict(self) -> Verdict:
        """What the corrected interval shows."""
        if abs(self.mean) <= self.corrected:
            return "no difference"
        return "better" if (self.mean > 0) == self.higher_is_better else "worse"

    def __format__(self, form: str) -> str:
        return f"{self.mean:+{form}} ± {self.half_width:{form}}"


def compared(
    way: Mapping[int, float], plain: Mapping[int, float], comparisons: int, *, higher_is_better: bool
) -> Comparison | None:
    """Over the seeds of both, or None where these are less than three.

    >>> found = compared({0: 2.0, 1: 3.0, 2: 4.0}, {0: 1.0, 1: 1.0, 2: 1.0}, 1, higher_is_better=False)
    >>> f"{found:.1f}", found.verdict
    ('+2.0 ± 2.5', 'no difference')
    """
    pairs = [way[seed] - plain[seed] for seed in way if seed in plain]
    if len(pairs) < 3:
        return None
    error = statistics.stdev(pairs) / len(pairs) ** 0.5
    half, corrected = (
        float(stats.t.ppf(1 - 0.05 / (2 * among), len(pairs) - 1)) * error for among in (1, max(comparisons, 1))
    )
    return Comparison(statistics.fmean(pairs), half, corrected, len(pairs), higher_is_better)
