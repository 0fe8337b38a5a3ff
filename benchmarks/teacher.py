"""What relaxing does where poses are uniform: a student of two Vector Neurons layers learns what a teacher of its kind says.

    PYTHONPATH=examples python -m benchmarks.teacher --seeds 20 --out benchmarks/results/teacher.jsonl

As `clouds.py`, with log10 of the test's mean square error over that of a zero output in the place of accuracy.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.clouds import ARMS, Budget, fitted, half_width
from models.vector_neurons import VNLeakyReLU, VNLinear

BUDGET = Budget(steps=400, batch=32, rate=3e-2, clouds=512, points=4, width=4)


class VectorNet(nn.Module):
    """Vectors [B, C, 3] to vectors [B, 2, 3]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first, self.act, self.second = VNLinear(channels, width), VNLeakyReLU(width), VNLinear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.act(self.first(x)))
        return out


def train(name: str, seed: int) -> dict[str, Any]:
    """One arm with one seed."""
    torch.manual_seed(1_000 + seed)
    teacher = VectorNet(BUDGET.points, BUDGET.width).requires_grad_(False)
    x, test = torch.randn(2, BUDGET.clouds, BUDGET.points, 3)
    torch.manual_seed(seed)
    found = fitted(VectorNet(BUDGET.points, BUDGET.width), ARMS[name], BUDGET, (x, teacher(x)), mse_loss, seed)
    with torch.no_grad():
        error = mse_loss(found.model(test), teacher(test)) / teacher(test).square().mean()
    return {"arm": name, "seed": seed, "log10": math.log10(float(error)), "share": found.share}


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """log10 of the error of each arm, and its difference to plain over the seeds that both have, with a 95 % interval."""
    lines = ["| arm | seeds | log10 error | difference to plain | better in |", "|---|---|---|---|---|"]
    plain = {run["seed"]: run["log10"] for run in runs if run["arm"] == "plain"}
    for arm in ARMS:
        own = {run["seed"]: run["log10"] for run in runs if run["arm"] == arm and run["seed"] in plain}
        if own:
            pairs = [own[seed] - plain[seed] for seed in own]
            better = sum(pair < 0 for pair in pairs)
            change = "" if arm == "plain" else f"{statistics.fmean(pairs):+.3f} ± {half_width(pairs):.3f}"
            lines.append(f"| {arm} | {len(own)} | {statistics.fmean(own.values()):.2f} | {change} | {better} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "teacher.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    done = {(run["arm"], run["seed"]) for run in runs}
    with arguments.out.open("a") as file:
        for seed in range(arguments.seeds):
            for arm in arguments.arms:
                if (arm, seed) not in done:
                    runs.append({**train(arm, seed), "budget": asdict(BUDGET)})
                    file.write(json.dumps(runs[-1]) + "\n")
                    file.flush()
    print(table(runs))


if __name__ == "__main__":
    main()
