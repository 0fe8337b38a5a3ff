"""Training a model plainly and its twin relaxed, step by step in turn: same seed, same batches, same budget, same moments.

The relaxed twin minimises CR eq. 5 with terms in the update nets only (CR sec. 3.4), theta rising and falling (CR sec. 3.2).
"""

import copy
import statistics
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nbody.evaluate import Batch, equivariance_error, mean_square_error
from relaxify import Triangle, penalty, relaxify, summary

UPDATE_NETS = ("layers.*.update*",)

# The first steps of each model compile its kernels.
WARM_UP = 5

# Reading the share projects every W onto the intertwiners: too slow for every step, and it changes slowly.
SHARE_EVERY = 10


@dataclass(frozen=True)
class Training:
    """The budget that both models get, and how it is spent."""

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
    """One epoch: mean training losses, validation errors in `eval()`, and the relaxation at its end."""

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
    relaxed model in `train()` halfway, where theta is 1.
    """

    plain: nn.Module
    relaxed: nn.Module
    epochs: tuple[Epoch, ...]
    step_time_ratio: float
    peak_equivariance_error: float


def train_pair(
    model: nn.Module, train: Batch, validation: Batch, budget: Training, seed: int
) -> Generator[Step, None, Pair]:
    """Train `model` plainly and a relaxed copy of it, yielding after every pair of steps."""
    plain, relaxed = model, relaxify(copy.deepcopy(model), "O(3)", include=UPDATE_NETS)
    steps = budget.epochs * -(-len(train[0]) // budget.batch_size)
    theta = Triangle(relaxed, total_steps=steps)
    take_plain, take_relaxed = _stepper(plain, budget, steps), _stepper(relaxed, budget, steps, penalty, theta.step)
    order = torch.Generator().manual_seed(seed)
    epochs, ratios, share, peak, step = [], [], 0.0, float("nan"), 0
    for _ in range(budget.epochs):
        losses = []
        for rows in torch.randperm(len(train[0]), generator=order).split(budget.batch_size):
            if step == steps // 2:
                peak = equivariance_error(relaxed, validation)
            batch, theta_now = tuple(a[rows] for a in train), theta.theta
            # Which of the two goes first alternates, so that neither always finds the caches warm.
            takes = (take_plain, take_relaxed) if step % 2 else (take_relaxed, take_plain)
            outcomes = {take: take(batch) for take in takes}
            (plain_loss, _, plain_time), (relaxed_loss, penalty_now, relaxed_time) = outcomes[take_plain], outcomes[take_relaxed]
            ratios.append(relaxed_time / plain_time)
            losses.append((plain_loss, relaxed_loss))
            step += 1
            if step % SHARE_EVERY == 0:
                share = summary(relaxed).share or 0.0
            yield Step(seed, step, steps, plain_loss, relaxed_loss, penalty_now, theta_now, share)
        means = [statistics.fmean(column) for column in zip(*losses, strict=True)]
        validations = [mean_square_error(each, validation) for each in (plain, relaxed)]
        epochs.append(Epoch(*means, *validations, penalty_now, theta_now, share))
    ratio = statistics.median(ratios[WARM_UP:] or ratios)
    return Pair(plain, relaxed, tuple(epochs), ratio, peak)


def _stepper(
    model: nn.Module,
    budget: Training,
    steps: int,
    regulariser: Callable[[nn.Module], Float[Tensor, ""]] | None = None,
    after: Callable[[], None] | None = None,
) -> Callable[[tuple[Tensor, ...]], tuple[float, float, float]]:
    """A function that takes one Adam step on a batch and returns (loss, penalty, seconds); the rate falls as a cosine."""
    optimizer = torch.optim.Adam(model.parameters(), budget.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def take(batch: tuple[Tensor, ...]) -> tuple[float, float, float]:
        start = time.perf_counter()
        *inputs, target = batch
        loss = (model(*inputs) - target).square().mean()
        extra = loss.new_zeros(()) if regulariser is None else regulariser(model)
        (loss + extra).backward()
        optimizer.step()
        optimizer.zero_grad()
        if after is not None:
            after()
        seconds = time.perf_counter() - start
        schedule.step()
        return float(loss.detach()), float(extra.detach()), seconds

    return take
