"""What relaxing does to accuracy: a narrow VN-PointNet on procedural clouds, plain and in several ways, paired by seed.

    PYTHONPATH=examples python -m benchmarks.clouds --seeds 20 --out benchmarks/results/clouds.jsonl

Every run is a line of the file, and runs that are there are not run again. A learning rate falls to 0 as a cosine, there is
no model selection, and the projected model is tested once, after the last step. A pair shares its seed: weights, data and
batches, and all arms of a seed are run before the next one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.classifier import NarrowPointNet, neighbourhoods
from benchmarks.shapes import SHAPES, clouds
from relaxify import ACE, RECM, Controller, RelaxConfig, Triangle, penalty, project, relaxify, summary


@dataclass(frozen=True)
class Arm:
    """One way to train. `theta` makes the controller, if it is not plain; `relative` scales the penalty by the loss.

    `start` is the fraction of the steps that are left out at the beginning: as if relaxed steps taught nothing.
    """

    theta: Callable[[nn.Module, int], Controller] | None = None
    relative: bool = True
    config: RelaxConfig = RelaxConfig()
    start: float = 0.0


FREE = RelaxConfig(share=None)

ARMS: dict[str, Arm] = {
    "plain": Arm(),
    "README": Arm(Triangle),
    "no share": Arm(Triangle, config=FREE),
    "as printed": Arm(lambda model, steps: Triangle(model, steps, until=1), relative=False, config=FREE),
    "plain, second half": Arm(start=0.5),
    "share=0.02": Arm(Triangle, config=RelaxConfig(share=0.02)),
    "share=0.1": Arm(Triangle, config=RelaxConfig(share=0.1)),
    "until=1": Arm(lambda model, steps: Triangle(model, steps, until=1)),
    "until=0.25": Arm(lambda model, steps: Triangle(model, steps, until=0.25)),
    "no share, until=0.25": Arm(lambda model, steps: Triangle(model, steps, until=0.25), config=FREE),
    "no share, weight=0.1": Arm(Triangle, config=RelaxConfig(share=None, weight=0.1)),
    "refold": Arm(lambda model, steps: Triangle(model, steps, refold_every=50)),
    "ACE": Arm(ACE),
    "RECM": Arm(RECM),
}


@dataclass(frozen=True)
class Budget:
    """What all arms get."""

    steps: int = 400
    batch: int = 16
    rate: float = 1e-2
    clouds: int = 600
    points: int = 32
    width: int = 8


@dataclass(frozen=True)
class Run:
    """One training: test accuracy of the projected model, and what the terms did on the way."""

    arm: str
    seed: int
    accuracy: float
    loss: float
    share: float
    seconds: float


def train(name: str, seed: int, budget: Budget) -> Run:
    """One arm with one seed."""
    start = time.process_time()
    x, y = _data(budget, seed)
    torch.manual_seed(seed)
    found = fitted(NarrowPointNet(len(SHAPES), budget.width), ARMS[name], budget, (x, y), cross_entropy, seed)
    test, labels = _data(budget, 10_000 + seed)
    with torch.no_grad():
        accuracy = float((found.model(test).argmax(1) == labels).float().mean())
    return Run(name, seed, accuracy, found.loss, found.share, time.process_time() - start)


@dataclass(frozen=True)
class Fitted:
    """A model after training, in `eval()` and projected; its last batch's loss, and the largest mean share of its terms."""

    model: nn.Module
    loss: float
    share: float


def fitted(
    model: nn.Module,
    arm: Arm,
    budget: Budget,
    data: tuple[Tensor, Tensor],
    criterion: Callable[[Tensor, Tensor], Tensor],
    seed: int,
) -> Fitted:
    """A model trained in the way of one arm."""
    x, y = data
    if arm.theta is not None:
        relaxify(model, "SO(3)", config=arm.config)
    theta = None if arm.theta is None else arm.theta(model, budget.steps)
    optimizer = torch.optim.Adam(model.parameters(), budget.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    share, loss = 0.0, torch.zeros(())
    for step, rows in enumerate(_batches(len(x), budget, seed)):
        if step < arm.start * budget.steps:
            schedule.step()
            continue
        loss = criterion(model(x[rows]), y[rows])
        total = loss
        if theta is not None:
            total = loss + (penalty(model, relative_to=loss) if arm.relative else penalty(model))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        if theta is not None:
            theta.step()
            if step % 20 == 0:
                share = max(share, summary(model).share or 0.0)
    return Fitted((model if theta is None else project(model)).eval(), loss.item(), share)


def _data(budget: Budget, seed: int) -> tuple[Tensor, Tensor]:
    x, y = clouds(budget.clouds, budget.points, seed)
    return neighbourhoods(x), y


def _batches(count: int, budget: Budget, seed: int) -> list[Tensor]:
    order = torch.Generator().manual_seed(seed)
    epochs = math.ceil(budget.steps * budget.batch / count) + 1
    rows = torch.cat([torch.randperm(count, generator=order) for _ in range(epochs)])
    return list(rows[: budget.steps * budget.batch].split(budget.batch))


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy of each arm, and its difference to plain over the seeds that both have, with a 95 % interval."""
    by_arm = {arm: {run["seed"]: run for run in runs if run["arm"] == arm} for arm in ARMS}
    lines = ["| arm | seeds | accuracy, % | difference to plain, points | largest share |", "|---|---|---|---|---|"]
    for arm, found in by_arm.items():
        if not found:
            continue
        mean = 100 * statistics.fmean(run["accuracy"] for run in found.values())
        share = statistics.fmean(run["share"] for run in found.values())
        lines.append(f"| {arm} | {len(found)} | {mean:.1f} | {_difference(found, by_arm['plain'])} | {share:.2f} |")
    return "\n".join(lines)


def _difference(found: Mapping[int, Mapping[str, Any]], plain: Mapping[int, Mapping[str, Any]]) -> str:
    pairs = [100 * (found[seed]["accuracy"] - plain[seed]["accuracy"]) for seed in found if seed in plain]
    if len(pairs) < 2 or found is plain:
        return ""
    return f"{statistics.fmean(pairs):+.1f} ± {half_width(pairs):.1f}"


def half_width(pairs: Sequence[float]) -> float:
    """Of the 95 % interval of their mean.

    >>> round(half_width([1.0, 2.0, 3.0]), 2)
    2.48
    """
    if len(pairs) < 2:
        return math.nan
    return float(stats.t.ppf(0.975, len(pairs) - 1)) * statistics.stdev(pairs) / len(pairs) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=Budget.steps)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "clouds.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(steps=arguments.steps)
    written = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    runs = [run for run in map(json.loads, written) if run["budget"] == asdict(budget)]
    done = {(run["arm"], run["seed"]) for run in runs}
    with arguments.out.open("a") as file:
        for seed in range(arguments.seeds):
            for arm in arguments.arms:
                if (arm, seed) not in done:
                    runs.append({**asdict(train(arm, seed, budget)), "budget": asdict(budget)})
                    file.write(json.dumps(runs[-1]) + "\n")
                    file.flush()
    print(table(runs))


if __name__ == "__main__":
    main()
