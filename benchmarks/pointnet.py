"""`clouds.py` with VN-PointNet itself, at a narrow width: all layers of the published network, feature transform too.

python -m benchmarks.pointnet --arms plain until=0.5 until=0.25 "as printed"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.arms import ARMS, Budget, Task, fitted
from benchmarks.pairs import arguments, completed, table
from benchmarks.shapes import SHAPES, clouds
from relaxify_examples.models.vn_pointnet import VNPointNet


@dataclass(frozen=True)
class Narrow(Budget):
    """`width` is that of the published network's 64, of which its vectors have a third."""

    steps: int = 400
    batch: int = 16
    rate: float = 1e-2
    clouds: int = 600
    points: int = 32
    width: int = 12
    neighbours: int = 6


BUDGET = Narrow()


def train(name: str, seed: int) -> dict[str, Any]:
    """One arm with one seed."""
    x, y = clouds(BUDGET.clouds, BUDGET.points, seed)
    torch.manual_seed(seed)
    model = VNPointNet(len(SHAPES), n_knn=BUDGET.neighbours, width=BUDGET.width)
    found = fitted(model, ARMS[name], BUDGET, Task((x,), y, cross_entropy), seed)
    test, labels = clouds(BUDGET.clouds, BUDGET.points, 10_000 + seed)
    with torch.no_grad():
        accuracy = float((found.model(test).argmax(1) == labels).float().mean())
    return {"accuracy": accuracy, "loss": found.loss, "share": found.share}


def main() -> None:
    options = arguments("pointnet")
    runs = completed(train, BUDGET, options.arms, options.seeds, options.out)
    print(table(runs, "accuracy, %", lambda run: 100 * float(run["accuracy"]), ".1f"))


if __name__ == "__main__":
    main()
