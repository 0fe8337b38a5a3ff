"""A sweep of learning rates that goes on beyond its ends until the best rate lies between two that are worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Sweep:
    """The rates that are to be tried, in order, and the best of them: None before all were."""

    rates: tuple[float, ...]
    best: float | None

    @property
    def is_at_edge(self) -> bool:
        """Whether a rate beyond those tried might be better."""
        return self.best in (self.rates[0], self.rates[-1])


def swept(
    rates: Iterable[float], mean: Callable[[float], float | None], *, wider: int = 0, higher_is_better: bool = False
) -> Sweep:
    """The sweep over `rates`, and over up to `wider` more, as far as it has gone: `mean` is None of a rate not yet tried.

    >>> swept([0.01, 0.03], lambda rate: abs(rate - 0.004), wider=4)
    Sweep(rates=(0.001, 0.003, 0.01, 0.03), best=0.003)
    >>> swept([0.01, 0.03], {0.01: 1.0, 0.03: 0.5}.get, wider=4)
    Sweep(rates=(0.01, 0.03, 0.1), best=None)
    """
    tried = sorted(rates)
    while True:
        means = {rate: mean(rate) for rate in tried}
        known = {rate: value for rate, value in means.items() if value is not None}
        if len(known) < len(tried):
            return Sweep(tuple(tried), None)
        best = (max if higher_is_better else min)(known, key=lambda rate: known[rate])
        found = Sweep(tuple(tried), best)
        if not wider or not found.is_at_edge:
            return found
        wider -= 1
        tried = sorted([*tried, smaller(best) if best == tried[0] else larger(best)])


def smaller(rate: float) -> float:
    """The next of 1, 3, 10, 30, and so on, that is at most half of it.

    >>> smaller(0.01), smaller(0.008), smaller(0.005)
    (0.003, 0.003, 0.001)
    """
    power = 10.0 ** math.floor(math.log10(rate / 2 * (1 + 1e-9)))
    return float(f"{power * (3 if 3 * power <= rate / 2 * (1 + 1e-9) else 1):.1g}")


def larger(rate: float) -> float:
    """The next of 1, 3, 10, 30, and so on, that is at least twice as much.

    >>> larger(0.1), larger(0.02), larger(0.05)
    (0.3, 0.1, 0.1)
    """
    power = 10.0 ** math.floor(math.log10(2 * rate * (1 - 1e-9)))
    return float(f"{power * (3 if 3 * power >= 2 * rate * (1 - 1e-9) else 10):.1g}")
