"""ACE: theta of each layer by constrained optimisation, from the loss itself (arXiv 2505.13631, Algorithms 1 and 2).

theta_i = 0 is a constraint with a multiplier: theta_i descends on the Lagrangian, the multiplier ascends. The gradient of
the loss by theta_i comes with the one backward pass: theta acts as theta + 0, and the 0 has a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from relaxify.interrupts import completed
from relaxify.modules.sharding import sharded_modules
from relaxify.relaxation.controllers.attaching import Attachable
from relaxify.relaxation.controllers.controller import SavedState, Span
from relaxify.relaxation.controllers.lengthening import resumed
from relaxify.relaxation.distributed import replicas_of
from relaxify.relaxation.pitfalls import Lookout
from relaxify.relaxation.projecting import NewValues
from relaxify.relaxation.real_numbers import is_finite
from relaxify.relaxation.refolding import write
from relaxify.relaxation.switching import end_terms, is_theta, set_each
from relaxify.relaxation.terms.term import Term, terms_of

Levels = dict[str, float]
"""A number for each layer."""
Form = Literal["strict", "partial"]


class ACE(Attachable):
    """Learned relaxation of each layer, at theta_i = 1 and multipliers of 0 in the beginning.

    `strict` (Algorithm 1) is theta_i = 0 as a constraint, with eta_p = `primal_rate` and eta_d = `dual_rate`:

        theta_i  <- theta_i - eta_p (dJ/dtheta_i + lambda_i + c theta_i),    lambda_i <- lambda_i + eta_d theta_i

    `partial` (Algorithm 2) is |theta_i| <= u_i, with a slack u_i that costs rho u_i^2 / 2 (`slack_cost`), from 0 on:

        theta_i  <- theta_i - eta_p (dJ/dtheta_i + sign(theta_i) (lambda_i + c [|theta_i| - u_i]_+))
        u_i      <- u_i - eta_p (rho u_i - lambda_i),    lambda_i <- [lambda_i + eta_d (|theta_i| - u_i)]_+

    - `damping` is c, the augmented Lagrangian's: 0 is the algorithms as printed, which ring; at 2, where the rates are equal
      and the loss is flat, theta comes to 0 in the shortest time, and swings to the other side by e^-2 = 0.135.
    - `until`: theta is exactly 0 from this fraction of `total_steps` on; `remainder` keeps what it then still was. None
      leaves it to the constraint alone.
    - `normalise`: a W that outgrows |W|^2 = n_out is scaled down to it, and theta up by as much, which leaves the function
      as it is. Else theta could shrink while theta W grows. This is not in the paper.
    - `scaler`: the GradScaler of a training in mixed precision, whose scale is in the gradients.
    - `optimizer`: see `Triangle`.

    The gradients are those that backward has added up since the last step; in data-parallel training (hand over the wrapped
    model) the mean of all processes'. A step whose gradient is not finite is left out, as scalers do.

    RuntimeError if the model is not relaxed; ValueError for rates or costs that are not positive, an unknown form, or a
    model that is sharded.

        theta = ACE(model, total_steps, primal_rate=0.1, dual_rate=0.01)
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        *,
        primal_rate: float = 0.1,
        dual_rate: float = 0.01,
        form: Form = "strict",
        damping: float = 2.0,
        slack_cost: float = 1.0,
        until: float | None = 0.5,
        normalise: bool = True,
        scaler: torch.amp.GradScaler | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        if not terms_of(model):
            raise RuntimeError(
                "the model has no relaxation terms for a controller to set; call relaxify(model, group) first."
            )
        for name, value in (("primal_rate", primal_rate), ("dual_rate", dual_rate), ("slack_cost", slack_cost)):
            if not (is_finite(value) and value > 0):
                raise ValueError(f"ACE({name}={value!r}): a positive number.")
        if not (is_finite(damping) and damping >= 0):
            raise ValueError(f"ACE(damping={damping!r}): a number >= 0; 0 is the algorithm as printed.")
        if form not in ("strict", "partial"):
            raise ValueError(f"ACE(form={form!r}): unknown; use 'strict' or 'partial'.")
        if sharded_modules(model):
            raise ValueError(
                "ACE cannot learn theta of a sharded model, whose gradients no process has whole; use Triangle."
            )
        self.model = model
        self.span = Span.checked(total_steps, until, endless=True)
        self.rates = (float(primal_rate), float(dual_rate))
        self.form: Form = form
        self.damping, self.slack_cost = float(damping), float(slack_cost)
        self.normalise, self.scaler = normalise, scaler
        self.steps = 0
        self.remainder: dict[str, float] = {}
        self._theta = dict.fromkeys(terms_of(model), 1.0)
        self._multiplier = dict.fromkeys(self._theta, 0.0)
        self.slack = dict.fromkeys(self._theta, 0.0)
        self._lookout = Lookout(model, optimizer)
        self._apply()

    def _step(self) -> None:
        steps, values = self.steps + 1, []
        theta, multiplier, slack = dict(self._theta), dict(self._multiplier), dict(self.slack)
        if not self.remainder:
            for path, gradient in self._gradients().items():
                moved = self._moved(path, gradient)
                if all(map(is_theta, moved)):
                    theta[path], multiplier[path], slack[path] = moved
            values = self._bounded_weights(theta) if self.normalise else []
        completed(lambda: self._move_to(steps, (theta, multiplier, slack), values))
        self._lookout.step()
        self._lookout.look_at_end(steps, self.span.total_steps, self.span.end)

    def _move_to(self, steps: int, levels: tuple[Levels, Levels, Levels], values: NewValues) -> None:
        self.steps = steps
        self._theta, self._multiplier, self.slack = levels
        write(values)
        for term in terms_of(self.model).values():
            if term.nudge is not None:
                term.nudge.grad = None
        self._apply()

    def _moved(self, path: str, gradient: float) -> tuple[float, float, float]:
        """theta, the multiplier and the slack of a layer after a step."""
        primal, dual = self.rates
        theta, multiplier, slack = self._theta[path], self._multiplier[path], self.slack[path]
        if self.form == "strict":
            theta -= primal * (gradient + multiplier + self.damping * theta)
            return theta, multiplier + dual * theta, slack
        pull = multiplier + self.damping * max(abs(theta) - slack, 0)
        theta -= primal * (gradient + math.copysign(pull, theta))
        slack -= primal * (self.slack_cost * slack - multiplier)
        return theta, max(multiplier + dual * (abs(theta) - slack), 0), slack

    def _gradients(self) -> dict[str, float]:
        """dJ/dtheta of each term since the last step."""
        terms = terms_of(self.model)
        found = [_gradient_of(term) for term in terms.values()]
        together = torch.stack([gradient.to(found[0].device, torch.float64) for gradient in found])
        if (replicas := replicas_of(self.model)) is not None:
            dist.all_reduce(together, group=replicas)
            together /= dist.get_world_size(replicas)
        if self.scaler is not None:
            together /= self.scaler.get_scale()
        return dict(zip(terms, together.tolist(), strict=True))

    @torch.no_grad()
    def _bounded_weights(self, theta: Levels) -> NewValues:
        """Each W that is too large, scaled down, and its theta up."""
        values = []
        for path, term in terms_of(self.model).items():
            size = float(term.matrix.norm()) / term.map.rep_out.dim**0.5
            if 1 < size < math.inf:
                weight = term.weight if term.config.rank is None else term.up
                values.append((weight, weight / size))
                theta[path] *= size
        return values

    def _apply(self) -> None:
        if self.steps < self.span.end:
            for term in terms_of(self.model).values():
                if term.nudge is None:
                    term.nudge = torch.zeros_like(term.theta, requires_grad=True)
            set_each(terms_of(self.model), self._theta)
        elif not self.remainder:
            self.remainder = dict(self._theta)
            self._end()
        else:
            self._end()

    def _end(self) -> None:
        for term in terms_of(self.model).values():
            term.nudge = None
        end_terms(self.model)

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs; the model's own state_dict holds theta itself."""
        return {
            "schedule": "ACE",
            "steps": self.steps,
            "total_steps": self.span.total_steps,
            "until": self.span.until,
            "form": self.form,
            "theta": dict(self._theta),
            "multiplier": dict(self._multiplier),
            "slack": dict(self.slack),
            "remainder": dict(self.remainder),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved.

        ValueError, and nothing changes, if it was saved by another controller, of other layers, or has numbers that make
        no sense.
        """
        own = self.state_dict()
        saved = SavedState(state, own)
        steps, span, form = saved.steps, saved.span(endless=True), saved.choice("form", ("strict", "partial"))
        theta, multiplier, slack = (saved.levels(name, self._theta) for name in ("theta", "multiplier", "slack"))
        remainder = saved.levels("remainder", self._theta, may_be_empty=True)
        resumed(own, state, lambda: self._resume(steps, span, form, (theta, multiplier, slack), remainder))

    def _resume(self, steps: int, span: Span, form: Form, levels: tuple[Levels, Levels, Levels], remainder: Levels) -> None:
        self.span, self.form, self.remainder = span, form, remainder
        self.steps = steps
        self._theta, self._multiplier, self.slack = levels
        self._apply()


def _gradient_of(term: Term) -> torch.Tensor:
    if term.nudge is None or term.nudge.grad is None:
        return torch.zeros_like(term.theta)
    return term.nudge.grad
