"""Training on the rollout that a model makes from its own predictions, and its error over longer ones.

The loss is the mean square error over the first `horizon` predicted frames, the step size falls by a factor an epoch, and
what is tested is the model of the epoch that was best in validation (CR appendix A.1).
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify import RelaxConfig, Triangle, penalty, project, relaxify
from relaxify_examples.smoke.data import Windows
from relaxify_examples.smoke.models import decays

Regulariser = Callable[[nn.Module], Tensor]

# Early stopping compares the validation errors of this many epochs with those of as many before.
STOP_WINDOW = 5


@dataclass(frozen=True)
class Budget:
    """What every network gets.

    Training stops early when the mean validation error of the last 5 epochs is not below that of the 5 before, once
    `settle` epochs are done. `decay` is Adam's weight decay, `free_decay` that of an RPP's free pathways; `own_weight`
    weighs the regulariser that a network brings along.
    """

    epochs: int = 16
    settle: int = 10
    batch_size: int = 4
    learning_rate: float = 1e-3
    learning_rate_decay: float = 0.95
    decay: float = 4e-4
    free_decay: float = 4e-3
    own_weight: float = 1e-5

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ValueError(f"{self} trains nothing; give at least 1 epoch and 1 window a batch, and a positive step size.")


@dataclass(frozen=True)
class Relaxing:
    """CR's framework around a network: relaxed under this group; kept relaxed in the end, or projected."""

    group: str
    keep_relaxed: bool


@dataclass(frozen=True)
class Epoch:
    """Root mean square errors over `horizon` frames, in training and after the epoch, and theta at its end (0 if none)."""

    train: float
    valid: float
    theta: float


@dataclass(frozen=True)
class Trained:
    """The model of the epoch that was best in validation, counted from 1, and how training went."""

    model: nn.Module
    best_epoch: int
    epochs: tuple[Epoch, ...]


def rollout(
    model: Callable[[Tensor], Tensor], seen: Float[Tensor, "batch c h w"], horizon: int
) -> Float[Tensor, "batch horizon 2 h w"]:
    """The next `horizon` frames, each predicted from the frames before it, whether seen or predicted.

    >>> rollout(lambda x: x[:, -2:] + 1, torch.zeros(1, 20, 1, 1), 3)[0, :, 0, 0, 0]
    tensor([1., 2., 3.])
    """
    frames = []
    for _ in range(horizon):
        frame = model(seen)
        frames.append(frame)
        seen = torch.cat([seen[:, frame.shape[1] :], frame], dim=1)
    return torch.stack(frames, dim=1)


@torch.no_grad()
def rmse(model: nn.Module, windows: Windows, batch_size: int = 32) -> float:
    """Root of the mean square error over all windows, frames, components and cells, in `eval()`; the mode is put back."""
    training = model.training
    model.eval()
    total = 0.0
    try:
        for rows in torch.arange(len(windows)).split(batch_size):
            seen, asked = windows.batch(rows)
            total += float((rollout(model, seen, windows.horizon) - asked).double().square().sum())
    finally:
        model.train(training)
    return math.sqrt(total / (len(windows) * windows.horizon * windows.velocity[0, 0].numel()))


def train(
    model: nn.Module,
    data: tuple[Windows, Windows],
    budget: Budget,
    seed: int,
    *,
    relaxing: Relaxing | None = None,
    own: Regulariser | None = None,
) -> Trained:
    """Train on the first windows, choose the epoch on the second. ValueError if training diverges.

    A relaxed network is trained for all epochs, as theta is back at 0 with the last one only. In validation it is as it will
    be used: with its terms if they are kept, without them if it will be projected.
    """
    training, validation = data
    trainer = _Trainer(model, budget, budget.epochs * math.ceil(len(training) / budget.batch_size), relaxing, own)
    order = torch.Generator().manual_seed(seed)
    epochs: list[Epoch] = []
    for _ in range(budget.epochs):
        rows = torch.randperm(len(training), generator=order).split(budget.batch_size)
        errors = [trainer.step(*training.batch(chosen)) for chosen in rows]
        trainer.schedule.step()
        valid = rmse(model, validation)
        if not math.isfinite(valid):
            raise ValueError(f"training diverged: the validation error became {valid}; use a smaller learning rate.")
        if not epochs or valid < min(epoch.valid for epoch in epochs):
            best, best_epoch = copy.deepcopy(model.state_dict()), len(epochs) + 1
        epochs.append(Epoch(math.sqrt(statistics.fmean(errors)), valid, trainer.theta.theta if trainer.theta else 0.0))
        if relaxing is None and stops([epoch.valid for epoch in epochs], budget.settle):
            break
    model.load_state_dict(best)
    finished = project(model) if relaxing and not relaxing.keep_relaxed else model
    return Trained(finished, best_epoch, tuple(epochs))


def stops(errors: list[float], settle: int) -> bool:
    """Whether validation errors, one an epoch, have ceased to fall.

    >>> stops([5, 4, 3, 2, 1, 1, 1, 1, 1, 1], 10), stops([1] * 10, 10), stops([1] * 10, 11)
    (False, True, False)
    """
    if len(errors) < max(settle, 2 * STOP_WINDOW):
        return False
    return statistics.fmean(errors[-STOP_WINDOW:]) >= statistics.fmean(errors[-2 * STOP_WINDOW : -STOP_WINDOW])


class _Trainer:
    """A model, its optimiser and, if it is relaxed, its theta."""

    def __init__(
        self, model: nn.Module, budget: Budget, steps: int, relaxing: Relaxing | None, own: Regulariser | None
    ) -> None:
        self.model, self.budget, self.own = model, budget, own
        self.theta = None
        if relaxing is not None:
            # CR sec. 4.4 as printed: no bound on what a model that stays approximate may keep
            relaxify(model, relaxing.group, keep_relaxed=relaxing.keep_relaxed, config=RelaxConfig(share=None))
            self.theta = Triangle(model, total_steps=steps, until=1)
        self.optimizer = torch.optim.Adam(decays(model, budget.decay, budget.free_decay), budget.learning_rate)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, budget.learning_rate_decay)

    def step(self, seen: Tensor, asked: Tensor) -> float:
        """One step of the optimiser; the mean square error before it."""
        error = (rollout(self.model, seen, asked.shape[1]) - asked).square().mean()
        loss = error
        if self.own is not None:
            loss = loss + self.budget.own_weight * self.own(self.model)
        if self.theta is not None:
            loss = loss + penalty(self.model)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.theta is not None:
            self.theta.step()
        return error.item()
