"""Controllers: what sets theta over training. Call `step()` after every optimiser step.

A schedule of your own is a subclass of `Schedule` with its `value(step)`; nothing else needs to know of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from relaxify.relaxation.switching import set_theta
from relaxify.relaxation.terms.term import terms_of


class Schedule:
    """theta as a function of the step alone; subclasses say which by `value(step)`.

    - `model`: the relaxed model, every term of which gets the same theta, from the moment the schedule is made.
    - `total_steps`: N, the optimiser steps of the whole training.
    - `peak`: the largest theta.

    RuntimeError if the model is not relaxed; ValueError if `total_steps` is no integer >= 1 or `peak` not finite.
    """

    def __init__(self, model: nn.Module, total_steps: int, peak: float = 1.0) -> None:
        if not terms_of(model):
            raise RuntimeError(
                "the model has no relaxation terms for a controller to set; call relaxify(model, group) first."
            )
        if total_steps < 1 or total_steps != int(total_steps):
            raise ValueError(f"total_steps={total_steps}: count the optimiser steps of the whole training, at least one.")
        if not math.isfinite(peak):
            raise ValueError(f"peak={peak}: theta rises to a finite number; 1 is the paper's.")
        self.model = model
        self.total_steps = total_steps
        self.peak = peak
        self.steps = 0
        self._apply()

    def value(self, step: int) -> float:
        """theta for the optimiser step number `step`, counted from 0."""
        raise NotImplementedError

    @property
    def theta(self) -> float:
        """theta now."""
        return self.value(self.steps)

    def step(self) -> None:
        """Move on by one optimiser step."""
        self.steps += 1
        self._apply()

    def _apply(self) -> None:
        set_theta(self.model, self.theta)

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs; the model's own state_dict holds theta itself."""
        return {
            "schedule": type(self).__name__,
            "steps": self.steps,
            "total_steps": self.total_steps,
            "peak": self.peak,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved. ValueError if it was saved by another schedule."""
        if state.get("schedule") != type(self).__name__:
            raise ValueError(
                f"this state belongs to the schedule {state.get('schedule')!r}, not {type(self).__name__!r}; "
                "resume with the controller that saved it."
            )
        if missing := self.state_dict().keys() - state.keys():
            raise ValueError(f"this state has no {', '.join(sorted(missing))}; pass what state_dict() returned.")
        self.steps, self.total_steps, self.peak = state["steps"], state["total_steps"], state["peak"]
        self._apply()


class Constant(Schedule):
    """theta = peak throughout: a residual pathway prior (Finzi et al. 2021). It is not annealed: project with care.

    Errors as of every schedule: see `Triangle`.

    >>> from relaxify import relaxify, summary
    >>> model = relaxify(nn.Sequential(nn.Conv2d(1, 1, 3)), "C(4)")
    >>> Constant(model, peak=0.5).theta, summary(model).layers["0"].theta
    (0.5, 0.5)
    """

    def __init__(self, model: nn.Module, total_steps: int = 1, peak: float = 1.0) -> None:
        super().__init__(model, total_steps, peak)

    def value(self, step: int) -> float:
        return self.peak


class Triangle(Schedule):
    """theta_i = peak * 2i/N for i < N/2, peak * (2 - 2i/N) after (CR sec. 3.2); exactly 0 from the last step on.

    RuntimeError if the model is not relaxed; ValueError if `total_steps` (N) is no integer >= 1 or `peak` not finite.

    >>> from relaxify import relaxify
    >>> theta = Triangle(relaxify(nn.Sequential(nn.Conv2d(1, 1, 3)), "C(4)"), total_steps=4)
    >>> [theta.value(step) for step in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    >>> theta.step()
    >>> theta.theta
    0.5
    """

    def value(self, step: int) -> float:
        rise = 2 * step / self.total_steps
        return self.peak * max(0.0, min(rise, 2 - rise))


class Cosine(Schedule):
    """theta_i = peak * (1 + cos(pi i/N)) / 2: from peak at the start to exactly 0 from the last step on.

    Errors as of every schedule: see `Triangle`.

    >>> from relaxify import relaxify
    >>> theta = Cosine(relaxify(nn.Sequential(nn.Conv2d(1, 1, 3)), "C(4)"), total_steps=4, peak=2.0)
    >>> [round(theta.value(step), 2) for step in range(6)]
    [2.0, 1.71, 1.0, 0.29, 0.0, 0.0]
    """

    def value(self, step: int) -> float:
        if step >= self.total_steps:
            return 0.0
        return self.peak * (1 + math.cos(math.pi * step / self.total_steps)) / 2
