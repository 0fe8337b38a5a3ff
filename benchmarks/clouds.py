"""What relaxing does to accuracy: a narrow VN-PointNet on procedural clouds in one pose, plain and in several ways.

python -m benchmarks.clouds --seeds 20
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.arms import ARMS, Budget, Task, fitted
from benchmarks.classifier import NarrowPointNet, neighbourhoods
from benchmarks.pairs import arguments, completed, table
from benchmarks.shapes import SHAPES, clouds


@dataclass(frozen=True)
class Shapes(Budget):
    """So many clouds of so many points; `width` is the first layer's."""

    steps: int = 400
    batch: int = 16
    rate: float = 1e-2
    clouds: int = 600
    points: int = 32
    width: int = 8


BUDGET = Shapes()


def train(name: str, seed: int) -> dict[str, Any]:
    """One arm with one seed."""
    start = time.process_time()
    x, y = _data(seed)
    torch.manual_seed(seed)
    model = NarrowPointNet(len(SHAPES), BUDGET.width)
    found = fitted(model, ARMS[name], BUDGET, Task((x,), y, cross_entropy), seed)
    test, labels = _data(10_000 + seed)
    with torch.no_grad():
        accuracy = float((found.model(test).argmax(1) == labels).float().mean())
    return {"accuracy": accuracy, "loss": found.loss, "share": found.share, "seconds": time.process_time() - start}


def _data(seed: int) -> tuple[Tensor, Tensor]:
    x, y = clouds(BUDGET.clouds, BUDGET.points, seed)
    return neighbourhoods(x), y


def main() -> None:
    options = arguments("clouds")
    runs = completed(train, BUDGET, options.arms, options.seeds, options.out)
    print(table(runs, "accuracy, %", lambda run: 100 * float(run["accuracy"]), ".1f"))


if __name__ == "__main__":
    main()
