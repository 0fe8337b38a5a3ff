"""What a step costs once theta is 0 for good, beside a plain one: SEGNN with terms in its update nets, steps in turn.

`PYTHONPATH=tests python -m benchmarks.ended` writes `results/ended.json`. The time is the processor's, and which of
the two comes first alternates, since a difference this small drowns in what else the machine does. So what is left of
relaxing, the calls of the penalty and of the controller, is timed by itself as well.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.models import CASES
from benchmarks.steps import steps
from benchmarks.timing import Step, ratio
from relaxify import Constant, penalty, relaxify

RESULTS = Path(__file__).parent / "results" / "ended.json"
NAME = "SEGNN 64x4, update nets"


def processor_seconds(step: Step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def calls(repeats: int = 200) -> float:
    """Milliseconds of the processor that a penalty and a controller's step take once theta is 0 for good."""
    case = next(case for case in CASES if case.name == NAME)
    model = relaxify(case.make(), case.group, include=case.include)
    theta = Constant(model, 1, until=1)
    theta.step()
    start = time.process_time()
    for _ in range(repeats):
        penalty(model)
        theta.step()
    return 1e3 * (time.process_time() - start) / repeats


def main(rounds: int = 100, warm_up: int = 4) -> None:
    torch.set_num_threads(1)
    case = next(case for case in CASES if case.name == NAME)
    kinds = steps(case, torch.device("cpu"), ("plain", "ended"))
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for round_ in range(warm_up + rounds):
        for kind in list(kinds)[:: 1 if round_ % 2 else -1]:
            elapsed = processor_seconds(kinds[kind])
            if round_ >= warm_up:
                times[kind].append(elapsed)
    found = {
        "case": NAME,
        "rounds": rounds,
        "plain, ms": 1e3 * statistics.median(times["plain"]),
        "ended": ratio(times["ended"], times["plain"]),
        "ended, medians": statistics.median(times["ended"]) / statistics.median(times["plain"]),
        "error": 1.25 * statistics.stdev(a / b for a, b in zip(times["ended"], times["plain"], strict=True)) / rounds**0.5,
        "calls, ms": calls(),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(found)


if __name__ == "__main__":
    main()
