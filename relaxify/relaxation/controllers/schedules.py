"""Schedules: theta as a function of the step alone.

Call `step()` after every optimiser step, also after one that a GradScaler has skipped: theta depends on the number of calls.

A schedule of your own is a subclass of `Schedule` with its `value(step)`; nothing else needs to know of it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from relaxify.interrupts import completed
from relaxify.relaxation.controllers.attaching import Attachable
from relaxify.relaxation.controllers.controller import SavedState, Span
from relaxify.relaxation.controllers.lengthening import resumed
from relaxify.relaxation.pitfalls import Lookout
from relaxify.relaxation.projecting import NewValues
from relaxify.relaxation.real_numbers import is_finite, is_real
from relaxify.relaxation.refolding import refolded, write
from relaxify.relaxation.switching import end_terms, is_theta, set_theta
from relaxify.relaxation.terms.term import terms_of


class Schedule(Attachable):
    """theta as a function of the step alone; subclasses say which by `value(step)`.

    - `model`: the relaxed model, every term of which gets the same theta, from the moment the schedule is made.
    - `total_steps`: N, the optimiser steps of the whole training.
    - `peak`: the largest theta.
    - `until`: the fraction of `total_steps` after which theta is 0 for good. The equivariant part is then trained alone
      while the learning rate is still alive, and the terms cost nothing. 1 is CR sec. 3.2 to the letter: theta and an
      annealed learning rate reach 0 together, and what the terms held is lost when they go.
    - `refold_every`: every so many steps `refold(model)`, which leaves the function as it is.
    - `optimizer`: only looked at, to warn once if it does not hold the terms, or if its rate ends while they still act.

    RuntimeError if the model is not relaxed; ValueError for `total_steps` that is no integer >= 1, a `peak` that is not
    finite, an `until` outside (0, 1], or a `refold_every` that is no integer >= 1.
    """

    # whether `until` may be None, for never
    endless = False

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        peak: float = 1.0,
        *,
        until: float | None = 0.5,
        refold_every: int | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        if not terms_of(model):
            raise RuntimeError(
                "the model has no relaxation terms for a controller to set; call relaxify(model, group) first."
            )
        if not is_finite(peak):
            raise ValueError(f"peak={peak!r}: theta rises to a finite number; 1 is the paper's.")
        if refold_every is not None and not (
            is_real(refold_every) and refold_every >= 1 and float(refold_every).is_integer()
        ):
            raise ValueError(
                f"refold_every={refold_every!r}: count the optimiser steps between two refoldings, at least one."
            )
        self.model = model
        self.span = Span.checked(total_steps, until, endless=self.endless)
        self.peak = float(peak)
        self.refold_every = refold_every
        self.steps = 0
        self._lookout = Lookout(model, optimizer)
        self._move_to(0, self._value_at(0), [])

    def value(self, step: int) -> float:
        """theta for the optimiser step number `step`, counted from 0, as long as `step < end`."""
        raise NotImplementedError

    @property
    def end(self) -> float:
        """The step from which on theta is 0 for good."""
        return self.span.end

    @property
    def theta(self) -> float:
        """theta now."""
        return self._value_at(self.steps)

    def _step(self) -> None:
        steps = self.steps + 1
        theta = self._value_at(steps)
        is_due = self.refold_every is not None and steps % self.refold_every == 0 and steps < self.end
        values = refolded(self.model) if is_due else []
        completed(lambda: self._move_to(steps, theta, values))
        self._lookout.step()
        self._lookout.look_at_end(steps, self.span.total_steps, self.span.end)

    def _move_to(self, steps: int, theta: float, values: NewValues) -> None:
        self.steps = steps
        write(values)
        if steps < self.end:
            set_theta(self.model, theta)
        else:
            end_terms(self.model)

    def _value_at(self, step: int) -> float:
        """ValueError if it is not finite."""
        theta = self.value(step) if step < self.end else 0.0
        if not is_theta(theta):
            raise ValueError(f"{type(self).__name__} has theta = {theta} at step {step}: theta is a finite number.")
        return theta

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs; the model's own state_dict holds theta itself."""
        return {
            "schedule": type(self).__name__,
            "steps": self.steps,
            "total_steps": self.span.total_steps,
            "peak": self.peak,
            "until": self.span.until,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved.

        ValueError, and nothing changes, if it was saved by another schedule, or has numbers that make no sense.
        A state without `until` is of a time when schedules had none, and ended with the training.
        """
        own = self.state_dict()
        saved, twin = SavedState(state, own, optional=frozenset({"until"})), copy.copy(self)
        twin.steps, twin.peak = saved.steps, saved.number("peak")
        twin.span = saved.span(endless=self.endless, default=None if self.endless else 1.0)
        theta = twin.theta
        resumed(own, state, lambda: self._resume(twin, theta))

    def _resume(self, saved: Schedule, theta: float) -> None:
        self.peak, self.span = saved.peak, saved.span
        self._move_to(saved.steps, theta, [])


class Constant(Schedule):
    """theta = peak throughout: a residual pathway prior (Finzi et al. 2021). It is not annealed: project with care.

    With `until`, theta is 0 from that fraction of `total_steps` on, in one fall. Errors as of every schedule: see
    `Triangle`.

    >>> from relaxify import relaxify, summary
    >>> model = relaxify(nn.Sequential(nn.Conv2d(1, 1, 3)), "C(4)")
    >>> Constant(model, peak=0.5).theta, summary(model).layers["0"].theta
    (0.5, 0.5)
    """

    endless = True

    def __init__(
        self, model: nn.Module, total_steps: int = 1, peak: float = 1.0, *, until: float | None = None, **options: Any
    ) -> None:
        super().__init__(model, total_steps, peak, until=until, **options)

    def value(self, step: int) -> float:
        return self.peak


class Triangle(Schedule):
    """theta_i = peak * 2i/M for i < M/2, peak * (2 - 2i/M) after, and exactly 0 from M = until * total_steps on.

    CR sec. 3.2 with `until=1`; by default it rises and falls in the first half of the training.

    RuntimeError if the model is not relaxed; ValueError for numbers that make no sense: see `Schedule`.

    >>> from relaxify import relaxify
    >>> theta = Triangle(relaxify(nn.Sequential(nn.Conv2d(1, 1, 3)), "C(4)"), total_steps=8)
    >>> for _ in range(6):
    ...     print(theta.theta, end=" ")
    ...     theta.step()
    0.0 0.5 1.0 0.5 0.0 0.0
    """

    def value(self, step: int) -> float:
        rise = 2 * step / self.end
        return self.peak * max(0.0, min(rise, 2 - rise))


class Cosine(Schedule):
    """theta_i = peak * (1 + cos(pi i/M)) / 2: from peak at the start to exactly 0 from M = until * total_steps on.

    Errors as of every schedule: see `Triangle`.

    >>> from relaxify import relaxify
    >>> theta = Cosine(relaxify(nn.Sequential(nn.Conv2d(1, 1, 3)), "C(4)"), total_steps=8, peak=2.0)
    >>> for _ in range(6):
    ...     print(round(theta.theta, 2), end=" ")
    ...     theta.step()
    2.0 1.71 1.0 0.29 0.0 0.0
    """

    def value(self, step: int) -> float:
        return self.peak * (1 + math.cos(math.pi * step / self.end)) / 2
