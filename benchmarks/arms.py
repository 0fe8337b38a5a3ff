"""What the benchmarks of accuracy share: the ways to train that they compare, and one training in such a way.

A learning rate falls to 0 as a cosine, there is no model selection, and what is tested is the projected model after the last
step, or the relaxed one of an arm that keeps its terms. A pair shares its seed: weights, data and batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.evidence.system import batches
from relaxify import RPP, Controller, RelaxConfig, penalty, project, relaxify, summary
from relaxify.modules.patterns import Pattern
from relaxify.relaxation.projecting import Mode


@dataclass(frozen=True)
class Arm:
    """One way to train. `theta` makes the controller, if it is not plain; `relative` scales the penalty by the loss.

    `mode` is of `project`, which nothing is if the arm is to `keep` its terms (CR sec. 4.4).
    """

    theta: Callable[[nn.Module, int], Controller] | None = None
    relative: bool = True
    config: RelaxConfig = RelaxConfig()
    mode: Mode = "drop"
    keep: bool = False


@dataclass(frozen=True)
class Budget:
    """What all arms get: Adam, its rate falling to 0."""

    steps: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Task:
    """Inputs of a model and their targets, and by what loss and symmetry it is trained; `include` is of `relaxify`."""

    inputs: tuple[Tensor, ...]
    targets: Tensor
    criterion: Callable[[Tensor, Tensor], Tensor]
    group: str = "SO(3)"
    include: tuple[Pattern, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """A model after training, `finished` and in `eval()`; its last batch's loss, and the largest mean share of its terms."""

    model: nn.Module
    loss: float
    share: float


def fitted(model: nn.Module, arm: Arm, budget: Budget, task: Task, seed: int) -> Fitted:
    """A model trained in the way of one arm."""
    if arm.theta is not None:
        relaxify(model, task.group, include=task.include, config=arm.config, keep_relaxed=arm.keep)
    theta = None if arm.theta is None else arm.theta(model, budget.steps)
    optimizer = torch.optim.Adam(model.parameters(), budget.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    share, loss = 0.0, torch.zeros(())
    for step, rows in enumerate(batches(len(task.targets), budget.steps, budget.batch, seed)):
        loss = task.criterion(model(*(x[rows] for x in task.inputs)), task.targets[rows])
        total = loss
        if theta is not None:
            total = loss + (penalty(model, relative_to=loss) if arm.relative else penalty(model))
        if isinstance(theta, RPP):
            total = total + theta.loss_term()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        if theta is not None:
            theta.step()
            if step % 20 == 0:
                share = max(share, summary(model).share or 0.0)
    return Fitted(finished(model, arm).eval(), loss.item(), share)


def finished(model: nn.Module, arm: Arm) -> nn.Module:
    """What is tested of a trained model: itself if it is plain or keeps its terms, and else what it is projected to."""
    return model if arm.theta is None or arm.keep else project(model, mode=arm.mode)
