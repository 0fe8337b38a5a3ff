"""What relaxing does to accuracy on N-body: a narrow SEGNN with terms in its update nets, plain and in several ways.

    python -m benchmarks.nbody --seeds 20

The simulated trajectories are the same for all seeds; weights and batches are a seed's own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import mse_loss

from benchmarks.arms import ARMS, Budget, Task, fitted
from benchmarks.pairs import arguments, completed, table
from relaxify_examples.models.segnn import SEGNN
from relaxify_examples.nbody.evaluate import Batch, mean_square_error, tensors
from relaxify_examples.nbody.simulate import ChargedParticles, load


@dataclass(frozen=True)
class Particles(Budget):
    """The rate is the best of 0.005, 0.01 and 0.02 for plain training of 600 to 1,000 steps, by a seed of no pair."""

    steps: int = 400
    batch: int = 50
    rate: float = 1e-2
    trajectories: int = 500
    width: int = 8
    layers: int = 2


BUDGET = Particles()


def train(name: str, seed: int, task: Task, test: Batch) -> dict[str, Any]:
    """One arm with one seed: the mean square error, in thousandths."""
    start = time.process_time()
    torch.manual_seed(seed)
    found = fitted(SEGNN(BUDGET.width, BUDGET.layers), ARMS[name], BUDGET, task, seed)
    error = 1e3 * mean_square_error(found.model, test)
    return {"error": error, "loss": found.loss, "share": found.share, "seconds": time.process_time() - start}


def main() -> None:
    options = arguments("nbody")
    *inputs, targets = tensors(load(ChargedParticles(), "train", BUDGET.trajectories))
    task = Task(tuple(inputs), targets, mse_loss, "O(3)", include=("layers.*.update*",))
    test = tensors(load(ChargedParticles(), "test", 1000))
    runs = completed(lambda arm, seed: train(arm, seed, task, test), BUDGET, options.arms, options.seeds, options.out)
    print(table(runs, "error, thousandths", lambda run: float(run["error"]), ".2f"))


if __name__ == "__main__":
    main()
