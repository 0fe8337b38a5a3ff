"""What the benchmarks of accuracy share: the ways to train that they compare, and one training in such a way.

A learning rate falls to 0 as a cosine, there is no model selection, and what is tested is the projected model after the last
step. A pair shares its seed: weights, data and batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.evidence.system import batches
from relaxify import ACE, RECM, RPP, Controller, RelaxConfig, Triangle, penalty, project, relaxify, summary
from relaxify.modules.patterns import Pattern
from relaxify.relaxation.projecting import Mode


@dataclass(frozen=True)
class Arm:
    """One way to train. `theta` makes the controller, if it is not plain; `relative` scales the penalty by the loss.

    `mode` is of `project`. `start` is the fraction of the steps that are left out at the beginning: as if relaxed steps
    taught nothing.
    """

    theta: Callable[[nn.Module, int], Controller] | None = None
    relative: bool = True
    config: RelaxConfig = RelaxConfig()
    start: float = 0.0
    mode: Mode = "drop"


def triangle(until: float, share: float | None, refold_every: int | None = None, weight: float = 0.01) -> Arm:
    """Triangle with these options, and a penalty relative to the loss."""
    return Arm(partial(Triangle, until=until, refold_every=refold_every), config=RelaxConfig(share=share, weight=weight))


# arms say what they set, so that results keep their names whatever the defaults become
ARMS: dict[str, Arm] = {
    "plain": Arm(),
    "until=0.5": triangle(0.5, 0.05),
    "until=0.25": triangle(0.25, 0.05),
    "as printed": replace(triangle(1, None), relative=False),
    "ACE": Arm(partial(ACE, until=0.5), config=RelaxConfig(share=0.05)),
    "RECM": Arm(partial(RECM, until=0.5), config=RelaxConfig(share=0.05)),
    "refold": triangle(0.5, 0.05, refold_every=50),
    "until=0.25, refold": triangle(0.25, 0.05, refold_every=25),
    "no share": triangle(0.5, None),
    "no share, until=0.25": triangle(0.25, None),
    "no share, weight=0.1": triangle(0.5, None, weight=0.1),
    "share=0.02": triangle(0.5, 0.02),
    "share=0.1": triangle(0.5, 0.1),
    "until=1": triangle(1, 0.05),
    "plain, second half": Arm(start=0.5),
}


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
    """A model after training, in `eval()` and projected; its last batch's loss, and the largest mean share of its terms."""

    model: nn.Module
    loss: float
    share: float


def fitted(model: nn.Module, arm: Arm, budget: Budget, task: Task, seed: int) -> Fitted:
    """A model trained in the way of one arm."""
    if arm.theta is not None:
        relaxify(model, task.group, include=task.include, config=arm.config)
    theta = None if arm.theta is None else arm.theta(model, budget.steps)
    optimizer = torch.optim.Adam(model.parameters(), budget.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    share, loss = 0.0, torch.zeros(())
    for step, rows in enumerate(batches(len(task.targets), budget.steps, budget.batch, seed)):
        if step < arm.start * budget.steps:
            schedule.step()
            continue
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
    return Fitted((model if theta is None else project(model, mode=arm.mode)).eval(), loss.item(), share)
