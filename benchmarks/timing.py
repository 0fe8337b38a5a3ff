"""Timing of training steps in turn, so that what else the machine does falls on all of them, and their peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Step = Callable[[], None]


def seconds(step: Step, device: torch.device) -> float:
    """How long one step takes; on a GPU between two events, so that starting it costs nothing."""
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    step()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def in_turn(steps: Mapping[str, Step], device: torch.device, *, rounds: int, warm_up: int) -> dict[str, list[float]]:
    """Each step's seconds in each round; every round runs all of them, one after the other."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(warm_up + rounds):
        for name, step in steps.items():
            elapsed = seconds(step, device)
            if round_ >= warm_up:
                times[name].append(elapsed)
    return times


def ratio(times: list[float], base: list[float]) -> float:
    """The median over rounds of one step's time over another's.

    >>> ratio([2.0, 9.0, 2.2], [1.0, 1.0, 1.1])
    2.0
    """
    return statistics.median(a / b for a, b in zip(times, base, strict=True))
