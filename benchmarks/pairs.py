"""Files of runs, one a line, that can be gone on with, and what they say of an arm beside plain training of its seeds."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from benchmarks.arms import ARMS, Budget

Run = Mapping[str, Any]
RESULTS = Path(__file__).parent / "results"


def completed(
    train: Callable[[str, int], Run], budget: Budget, arms: Sequence[str], seeds: Sequence[int], path: Path
) -> list[Run]:
    """All runs of this budget in the file, after the missing ones were added: arm after arm of a seed, then the next seed.

    `train(arm, seed)` makes a run's numbers. So whatever is there of a file that was broken off is a paired comparison.
    """
    written = path.read_text().splitlines() if path.exists() else []
    runs = [run for run in map(json.loads, written) if run["budget"] == asdict(budget)]
    done = {(run["arm"], run["seed"]) for run in runs}
    with path.open("a") as file:
        for seed in seeds:
            for arm in arms:
                if (arm, seed) not in done:
                    runs.append({"arm": arm, "seed": seed, **train(arm, seed), "budget": asdict(budget)})
                    file.write(json.dumps(runs[-1]) + "\n")
                    file.flush()
    return runs


def table(runs: Sequence[Run], column: str, value: Callable[[Run], float], form: str) -> str:
    """Each arm's mean `value`, and its difference to plain over the seeds that both have, with a 95 % interval."""
    head = ("arm", "seeds", column, "difference to plain", "below plain in", "largest share")
    lines = [head, ("---",) * len(head)]
    plain = {run["seed"]: value(run) for run in runs if run["arm"] == "plain"}
    for arm in ARMS:
        found = [run for run in runs if run["arm"] == arm and run["seed"] in plain]
        if found:
            pairs = [value(run) - plain[run["seed"]] for run in found]
            mean, share = (statistics.fmean(map(key, found)) for key in (value, lambda run: run["share"]))
            rest = ("", "") if arm == "plain" else (difference(pairs, form), f"{sum(pair < 0 for pair in pairs)}")
            lines.append((arm, f"{len(found)}", f"{mean:{form}}", *rest, f"{share:.2f}"))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def difference(pairs: Sequence[float], form: str) -> str:
    """Their mean, with the 95 % interval of it.

    >>> difference([1.0, 2.0, 3.0], ".1f")
    '+2.0 ± 2.5'
    """
    half_width = math.nan
    if len(pairs) > 1:
        half_width = float(stats.t.ppf(0.975, len(pairs) - 1)) * statistics.stdev(pairs) / len(pairs) ** 0.5
    return f"{statistics.fmean(pairs):+{form}} ± {half_width:{form}}"


def arguments(name: str, seeds: int = 20) -> argparse.Namespace:
    """The command line of such a benchmark: `arms`, `seeds` and `out`; and one thread."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=seeds, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.jsonl")
    found = parser.parse_args()
    found.seeds = range(found.first, found.first + found.seeds)
    torch.set_num_threads(1)
    return found
