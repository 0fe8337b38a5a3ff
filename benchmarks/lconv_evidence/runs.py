"""Files of runs, one a line, that can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Run = Mapping[str, Any]
RESULTS = Path(__file__).parent.parent / "results"


def completed(
    train: Callable[[str, int], Run], budget: DataclassInstance, arms: Sequence[str], seeds: Sequence[int], path: Path
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
