"""What the runs of a system say: for each way its mean, and how it compares with the plain ones it has to beat."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from benchmarks.evidence.comparing import Comparison, Verdict, compared
from benchmarks.evidence.runs import Runs
from benchmarks.evidence.ways import TUNED, WAYS, rival


@dataclass(frozen=True)
class Finding:
    """A way's mean over its seeds; its differences to tuned plain training, of as many steps and of as much compute.

    `untuned` is the difference to plain training at the rate of earlier work, which may happen to be the better rival.
    `also` has of what else was measured the mean, and the difference to tuned plain training.
    """

    way: str
    rate: float
    is_at_edge: bool
    steps: int
    seeds: int
    mean: float
    share: float
    tuned: Comparison | None
    compute: Comparison | None
    untuned: Comparison | None
    also: Mapping[str, tuple[float, Comparison | None]] = field(default_factory=dict)

    @property
    def keeps_terms(self) -> bool:
        return WAYS[self.way].keeps

    @property
    def apart(self) -> Mapping[str, Verdict]:
        """The verdict beside each plain way that was run."""
        found = {"untuned": self.untuned, "tuned": self.tuned, "equal compute": self.compute}
        return {name: each.verdict for name, each in found.items() if each is not None}

    @property
    def verdict(self) -> Verdict | None:
        """Better or worse than every plain way, or neither; None where the tuned one or that of equal compute is missing."""
        if self.tuned is None or self.compute is None:
            return None
        verdicts = set(self.apart.values())
        return verdicts.pop() if len(verdicts) == 1 else "no difference"

    @property
    def is_better_over_as_many_steps(self) -> bool:
        """Than tuned plain training, and than the untuned one where that was run."""
        others = [each.verdict for each in (self.tuned, self.untuned) if each is not None]
        return self.tuned is not None and set(others) == {"better"}


@dataclass(frozen=True)
class Findings:
    """Of one system. `comparisons` is how many the page makes in all."""

    runs: Runs
    comparisons: int

    @cached_property
    def ways(self) -> tuple[Finding, ...]:
        return tuple(found for way in WAYS if (found := self._finding(way)) is not None)

    @property
    def relaxed(self) -> tuple[Finding, ...]:
        return tuple(found for found in self.ways if not WAYS[found.way].is_plain)

    @property
    def judged(self) -> tuple[Finding, ...]:
        """The relaxed ways that have plain ones to be compared with, and whose models are equivariant in the end."""
        return tuple(found for found in self.relaxed if found.verdict is not None and not found.keeps_terms)

    @property
    def kept(self) -> tuple[Finding, ...]:
        """The same of those that keep their terms."""
        return tuple(found for found in self.relaxed if found.verdict is not None and found.keeps_terms)

    @property
    def missing(self) -> tuple[str, ...]:
        """The ways that were not run to the end."""
        return tuple(way for way in WAYS if way not in {found.way for found in self.ways})

    @property
    def cpu_hours(self) -> float:
        return sum(float(group["cpu seconds"]) for group in self.runs.groups) / 3600

    def _finding(self, way: str) -> Finding | None:
        values = tested(self.runs, way)
        rate = self.runs.rate(way) if values else None
        if rate is None:
            return None
        steps, system = self.runs.steps(way), self.runs.system
        is_at_edge = WAYS[way].is_swept and self.runs.sweep(way).is_at_edge
        tuned = None if way == TUNED else self._compared(way, TUNED)
        compute, untuned = (None if WAYS[way].is_plain else self._compared(way, other) for other in (rival(way), "plain"))
        shares = self.runs.shares(way, rate, steps)
        return Finding(
            way,
            rate,
            is_at_edge,
            steps,
            len(values),
            statistics.fmean(values.values()),
            shares,
            tuned,
            compute,
            untuned,
            {name: also for name in system.also if (also := self._also(name, way, values)) is not None},
        )

    def _also(self, name: str, way: str, seeds: Iterable[int]) -> tuple[float, Comparison | None] | None:
        own, plain = (
            {} if (rate := self.runs.rate(each)) is None else self.runs.also(name, each, rate, self.runs.steps(each))
            for each in (way, TUNED)
        )
        if any(seed not in own for seed in seeds):
            return None
        values = {seed: own[seed] for seed in seeds}
        beside = None if way == TUNED else compared(values, plain, 1, higher_is_better=False)
        return statistics.fmean(values.values()), beside

    def _compared(self, way: str, plain: str) -> Comparison | None:
        higher = self.runs.system.higher_is_better
        return compared(tested(self.runs, way), tested(self.runs, plain), self.comparisons, higher_is_better=higher)


def tested(runs: Runs, way: str) -> dict[int, float]:
    """The values of the seeds that are tested, at the way's own rate; none before all of them were run."""
    if not runs.step_ratio or (rate := runs.rate(way)) is None:
        return {}
    values = runs.values(way, rate, runs.steps(way))
    seeds = range(runs.system.seeds)
    return {seed: values[seed] for seed in seeds} if all(seed in values for seed in seeds) else {}


def all_findings(runs: Sequence[Runs]) -> list[Findings]:
    """Of all systems of which something was run, each relaxed way with three comparisons."""
    begun = [each for each in runs if each.groups]
    relaxed = sum(bool(tested(each, way)) for each in begun for way in WAYS if not WAYS[way].is_plain)
    return [Findings(each, 3 * relaxed) for each in begun]
