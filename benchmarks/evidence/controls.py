"""theta of every member and site, while members are trained side by side: relaxify's controllers over stacked tensors.

Each follows the controller of one model, whose settings it reads; a test compares them with that controller's own trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify import ACE, RECM, RPP, Controller
from relaxify.relaxation.controllers.schedules import Schedule

Weights = Sequence[Float[Tensor, "members n_out n_in"]]


@dataclass(frozen=True)
class Stepped:
    """What a step told: dJ/dtheta; of each site the second moment of its inputs, and E|f_e(x)|^2 (for RECM alone)."""

    gradient: Float[Tensor, "members sites"]
    moments: Sequence[Float[Tensor, "members n_in n_in"]]
    squares: Float[Tensor, "members sites"]


class Control(Protocol):
    """theta of all members: its value, whether terms still act, and what a step does to it."""

    theta: Float[Tensor, "members sites"]

    @property
    def acts(self) -> bool: ...

    def step(self, told: Stepped | None, weights: Weights) -> None:
        """After the optimizer's step; `told` is None where no term acts."""


class Scheduled:
    """The same theta for all, and each member refolded when its turn has come."""

    def __init__(self, schedule: Schedule, like: Float[Tensor, "members sites"], refold: Callable[[], None]) -> None:
        self.schedule, self.refold = schedule, refold
        self.theta = torch.full_like(like, schedule.theta)

    @property
    def acts(self) -> bool:
        return self.schedule.steps < self.schedule.end

    def step(self, told: Stepped | None, weights: Weights) -> None:
        every, steps = self.schedule.refold_every, self.schedule.steps + 1
        if every is not None and steps % every == 0 and steps < self.schedule.end:
            self.refold()
        self.schedule.refold_every = None
        self.schedule.step()
        self.schedule.refold_every = every
        self.theta.fill_(self.schedule.theta)


class Constrained:
    """ACE in its strict form, with W normalised."""

    def __init__(self, ace: ACE, like: Float[Tensor, "members sites"]) -> None:
        assert ace.form == "strict"
        assert ace.normalise
        self.ace, self.steps = ace, 0
        self.theta, self.multiplier = torch.ones_like(like), torch.zeros_like(like)

    @property
    def acts(self) -> bool:
        return self.steps < self.ace.span.end

    @torch.no_grad()
    def step(self, told: Stepped | None, weights: Weights) -> None:
        self.steps += 1
        if told is None or not self.acts:
            return
        primal, dual = self.ace.rates
        self.theta -= primal * (told.gradient + self.multiplier + self.ace.damping * self.theta)
        self.multiplier += dual * self.theta
        for site, weight in enumerate(weights):
            size = (weight.flatten(1).norm(dim=1) / weight.shape[1] ** 0.5).clamp(min=1)
            weight /= size[:, None, None]
            self.theta[:, site] *= size


class Recurrent:
    """RECM. `nearest(weights)` is P_H W of each."""

    def __init__(self, recm: RECM, like: Float[Tensor, "members sites"], nearest: Callable[[Weights], Weights]) -> None:
        self.recm, self.steps, self.nearest = recm, 0, nearest
        self.theta = torch.ones_like(like)

    @property
    def acts(self) -> bool:
        return self.steps < self.recm.span.end

    @torch.no_grad()
    def step(self, told: Stepped | None, weights: Weights) -> None:
        self.steps += 1
        if told is None or self.steps % self.recm.every:
            return
        rests = [weight - near for weight, near in zip(weights, self.nearest(weights), strict=True)]
        squares = [torch.einsum("bij,bjk,bik->b", r, m, r) for r, m in zip(rests, told.moments, strict=True)]
        gap = self.theta * (torch.stack(squares, dim=1).clamp(min=0) / told.squares).sqrt()
        moved = self.theta + self.recm.rate * (gap.clamp(max=1) - self.theta)
        self.theta = torch.where(gap.isfinite(), moved, self.theta)


class Kept:
    """RPP: theta stays as it is."""

    def __init__(self, rpp: RPP, like: Float[Tensor, "members sites"]) -> None:
        self.theta = torch.full_like(like, rpp.theta)

    @property
    def acts(self) -> bool:
        return True

    def step(self, told: Stepped | None, weights: Weights) -> None:
        """Nothing moves."""


def control_of(
    controller: Controller,
    like: Float[Tensor, "members sites"],
    *,
    refold: Callable[[], None],
    nearest: Callable[[Weights], Weights],
) -> Control:
    """That of a controller, by its kind."""
    if isinstance(controller, Schedule):
        return Scheduled(controller, like, refold)
    if isinstance(controller, ACE):
        return Constrained(controller, like)
    if isinstance(controller, RECM):
        return Recurrent(controller, like, nearest)
    assert isinstance(controller, RPP)
    return Kept(controller, like)
