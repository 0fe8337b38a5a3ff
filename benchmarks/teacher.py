"""What relaxing does where poses are uniform: a student of two Vector Neurons layers learns what a teacher of its kind says.

    python -m benchmarks.teacher --seeds 20

Measured is log10 of the test's mean square error over that of a zero output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import mse_loss

from benchmarks.arms import ARMS, Budget, Task, fitted
from benchmarks.evidence.teacher import VectorNet
from benchmarks.pairs import arguments, completed, table


@dataclass(frozen=True)
class Vectors(Budget):
    """So many inputs of so many vectors, white; `width` is that of both networks."""

    steps: int = 400
    batch: int = 32
    rate: float = 3e-2
    clouds: int = 512
    points: int = 4
    width: int = 4


BUDGET = Vectors()


def train(name: str, seed: int) -> dict[str, Any]:
    """One arm with one seed."""
    torch.manual_seed(1_000 + seed)
    teacher = VectorNet(BUDGET.points, BUDGET.width).requires_grad_(False)
    x, test = torch.randn(2, BUDGET.clouds, BUDGET.points, 3)
    torch.manual_seed(seed)
    student = VectorNet(BUDGET.points, BUDGET.width)
    found = fitted(student, ARMS[name], BUDGET, Task((x,), teacher(x), mse_loss), seed)
    with torch.no_grad():
        error = mse_loss(found.model(test), teacher(test)) / teacher(test).square().mean()
    return {"log10": math.log10(float(error)), "share": found.share}


def main() -> None:
    options = arguments("teacher")
    runs = completed(train, BUDGET, options.arms, options.seeds, options.out)
    print(table(runs, "log10 error", lambda run: float(run["log10"]), ".3f"))


if __name__ == "__main__":
    main()
