"""Training a model plainly and its twin relaxed, step by step in turn: same seed, batches and budget, at the same time.

The relaxed twin minimises CR eq. 5 with terms in the update nets only (CR sec. 3.4). theta rises and falls
(sec. 3.2) in the first half of the training, and the penalty is relative to the loss.
"""

import copy
import math
import statistics
import time
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from relaxify import Triangle, UncheckedWarning, penalty, relaxify, summary
from relaxify_examples.nbody.evaluate import Batch, equivariance_error, mean_square_error

UPDATE_NETS = ("layers.*.update*",)

# The first steps of each model compile its kernels.
WARM_UP = 5

# Reading the share projects every W onto the intertwiners: too slow for every step, and it changes slowly.
SHARE_EVERY = 10


@dataclass(frozen=True)
class Budget:
    """What both models get: Adam, its rate falling from `learning_rate` to 0 as a cosine."""

    epochs: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Step:
    """Where training stands: losses without the penalty, and what the relaxation does.

    `share` is |theta W x| / |f(x)| as last measured, mean over the relaxed layers.
    """

    seed: int
    step: int
    steps: int
    plain_loss: float
    relaxed_loss: float
    penalty: float
    theta: float
    share: float


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean training losses, errors on the validation set in `eval()`, and the relaxation at its end."""

    plain_loss: float
    relaxed_loss: float
    plain_validation: float
    projected_validation: float
    penalty: float
    theta: float
    share: float


@dataclass(frozen=True)
class Pair:
    """Both models after training.

    `step_time_ratio` is the median over pairs of steps, relaxed over plain; `peak_equivariance_error` that of the
    relaxed model in `train()` where theta is largest.
    """

    plain: nn.Module
    relaxed: nn.Module
    epochs: tuple[Epoch, ...]
    step_time_ratio: float
    peak_equivariance_error: float


class Trainer:
    """One model, its optimiser and, if it is relaxed, its theta."""

    def __init__(self, model: nn.Module, budget: Budget, steps: int, *, relaxed: bool) -> None:
        self.model = model
        self.theta = Triangle(model, total_steps=steps) if relaxed else None
        self.optimizer = torch.optim.Adam(model.parameters(), budget.learning_rate)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def step(self, batch: tuple[torch.Tensor, ...]) -> tuple[float, float, float]:
        """One optimiser step: the loss without the penalty, the penalty, and the seconds taken. ValueError on divergence."""
        start = time.perf_counter()
        *inputs, target = batch
        loss = (self.model(*inputs) - target).square().mean()
        extra = loss.new_zeros(()) if self.theta is None else penalty(self.model, relative_to=loss)
        (loss + extra).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.theta is not None:
            self.theta.step()
        seconds = time.perf_counter() - start
        self.schedule.step()
        task_loss = loss.item()
        if not math.isfinite(task_loss):
            raise ValueError(f"training diverged: the loss became {task_loss}; use a smaller learning rate.")
        return task_loss, extra.item(), seconds


def train_pair(model: nn.Module, train: Batch, validation: Batch, budget: Budget, seed: int) -> Generator[Step, None, Pair]:
    """Train `model` plainly and a relaxed copy of it, yielding after every pair of steps."""
    with warnings.catch_warnings():
        # that the model as a whole has the symmetry is measured once it is trained
        warnings.simplefilter("ignore", UncheckedWarning)
        relaxed_model = relaxify(copy.deepcopy(model), "O(3)", include=UPDATE_NETS)
    steps = budget.epochs * math.ceil(len(train[0]) / budget.batch_size)
    plain = Trainer(model, budget, steps, relaxed=False)
    relaxed = Trainer(relaxed_model, budget, steps, relaxed=True)
    order = torch.Generator().manual_seed(seed)
    share_every = max(1, min(SHARE_EVERY, steps // 20))
    step, share, peak_error = 0, 0.0, math.nan
    ratios: list[float] = []
    epochs: list[Epoch] = []
    for _ in range(budget.epochs):
        taken: list[Step] = []
        for batch in _batches(train, budget.batch_size, order):
            if relaxed.theta and step == int(relaxed.theta.end / 2):
                peak_error = equivariance_error(relaxed.model, validation)
            theta = relaxed.theta.theta if relaxed.theta else 0.0
            # Which of the two goes first alternates, so that neither always finds the caches warm.
            first, second = (plain, relaxed) if step % 2 else (relaxed, plain)
            outcome = {first: first.step(batch), second: second.step(batch)}
            ratios.append(outcome[relaxed][2] / outcome[plain][2])
            step += 1
            if step % share_every == 0:
                share = summary(relaxed.model).share or 0.0
            taken.append(Step(seed, step, steps, outcome[plain][0], *outcome[relaxed][:2], theta, share))
            yield taken[-1]
        epochs.append(
            _epoch(taken, mean_square_error(plain.model, validation), mean_square_error(relaxed.model, validation))
        )
    return Pair(plain.model, relaxed.model, tuple(epochs), statistics.median(ratios[WARM_UP:] or ratios), peak_error)


def _batches(data: Batch, size: int, order: torch.Generator) -> Iterator[tuple[torch.Tensor, ...]]:
    for rows in torch.randperm(len(data[0]), generator=order).split(size):
        yield tuple(values[rows] for values in data)


def _epoch(taken: list[Step], plain_validation: float, projected_validation: float) -> Epoch:
    return Epoch(
        plain_loss=statistics.fmean(step.plain_loss for step in taken),
        relaxed_loss=statistics.fmean(step.relaxed_loss for step in taken),
        plain_validation=plain_validation,
        projected_validation=projected_validation,
        penalty=taken[-1].penalty,
        theta=taken[-1].theta,
        share=taken[-1].share,
    )
