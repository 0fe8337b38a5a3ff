"""What the runs of a file say of L-conv beside the other arms: paired differences, and the words for them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.lconv_evidence.runs import Run
from benchmarks.lconv_evidence.setting import Protocol
from relaxify_examples.lconv import experiment
from relaxify_examples.lconv.experiment import Paired, paired

OURS, RANDOM = "L-conv", "random L"
VERDICTS = {"better": "better than", "worse": "**worse** than", "no clear difference": "not told apart from"}


def of(runs: Sequence[Run], protocol: Protocol, variant: str) -> list[Run]:
    """The runs of a protocol and variant that were tested on test images."""
    wanted = {"protocol": protocol, "variant": variant, "rate_to_try": None}
    return [run for run in runs if wanted.items() <= run["budget"].items()]


def values(runs: Sequence[Run], arm: str, key: str = "accuracy") -> list[float]:
    """Of the arm's runs that have it, by seed."""
    return [run[key] for run in sorted(runs, key=lambda run: run["seed"]) if run["arm"] == arm and key in run]


def differences(runs: Sequence[Run], arms: Iterable[str], key: str = "accuracy", ours: str = OURS) -> dict[str, Paired]:
    """Those of one arm to each other, over the seeds that both have; without arms that have fewer than two of them."""
    known = [
        experiment.Run("", "default", run["arm"], 1, run["seed"], run[key], math.nan, 0, 0.0) for run in runs if key in run
    ]
    seeds = {arm: {run.seed for run in known if run.model == arm} for arm in (ours, *arms)}
    others = [arm for arm in seeds if arm != ours and len(seeds[arm] & seeds[ours]) > 1]
    return {arm: paired(known, "", "default", 1, ours, arm) for arm in others}


def interval(outcome: Paired) -> str:
    """In points of accuracy.

    >>> interval(Paired(0.012, -0.001, 0.025, 10))
    '+1.2 [-0.1, +2.5]'
    """
    return f"{100 * outcome.difference:+.1f} [{100 * outcome.low:+.1f}, {100 * outcome.high:+.1f}]"


def mean(found: Sequence[float], form: str) -> str:
    """With the standard deviation over seeds.

    >>> mean([1.0, 2.0, 3.0], ".1f")
    '2.0 ± 1.0'
    """
    spread = f" ± {statistics.stdev(found):{form}}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):{form}}{spread}" if found else ""


def said(found: dict[str, Paired]) -> str:
    """What L-conv is, as the intervals have it.

    >>> said({"CNN": Paired(-0.02, -0.03, -0.01, 10)})
    '**worse** than CNN -2.0 [-3.0, -1.0]'
    """
    return "; ".join(_groups(found))


def _groups(found: dict[str, Paired]) -> Iterator[str]:
    for verdict, words in VERDICTS.items():
        arms = [f"{arm} {interval(outcome)}" for arm, outcome in found.items() if outcome.verdict == verdict]
        if arms:
            yield f"{words} {', '.join(arms)}"


def wins(found: dict[str, Paired]) -> bool:
    """Whether L-conv is better than every other arm."""
    return all(outcome.verdict == "better" for outcome in found.values())
