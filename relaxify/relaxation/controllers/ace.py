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

from relaxify.modules.sharding import sharded_modules
from relaxify.relaxation.controllers.controller import Span, check_state
from relaxify.relaxation.distributed import replicas_of
from relaxify.relaxation.pitfalls import Lookout
from relaxify.relaxation.switching import end_terms, set_each
from relaxify.relaxation.terms.term import Term, terms_of


class ACE:
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
        form: Literal["strict", "partial"] = "strict",
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
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"ACE({name}={value}): a positive number.")
        if not (math.isfinite(damping) and damping >= 0):
            raise ValueError(f"ACE(damping={damping}): a number >= 0; 0 is the algorithm as printed.")
        if form not in ("strict", "partial"):
            raise ValueError(f"ACE(form={form!r}): unknown; use 'strict' or 'partial'.")
        if sharded_modules(model):
            raise ValueError(
                "ACE cannot learn theta of a sharded model, whose gradients no process has whole; use Triangle."
            )
        self.model = model
        self.span = Span.checked(total_steps, until, endless=True)
        self.rates = (float(primal_rate), float(dual_rate))
        self.form, self.damping, self.slack_cost = form, float(damping), float(slack_cost)
        self.normalise, self.scaler = normalise, scaler
        self.steps = 0
        self.remainder: dict[str, float] = {}
        self._theta = dict.fromkeys(terms_of(model), 1.0)
        self._multiplier = dict.fromkeys(self._theta, 0.0)
        self.slack = dict.fromkeys(self._theta, 0.0)
        self._lookout = Lookout(model, optimizer)
        self._apply()

    def step(self) -> None:
        """Move on by one optimizer step."""
        self.steps += 1
        if not self.remainder:
            for path, gradient in self._gradients().items():
                if math.isfinite(gradient):
                    self._move(path, gradient)
            if self.normalise:
                self._bound_weights()
        self._apply()
        self._lookout.step()

    def _move(self, path: str, gradient: float) -> None:
        primal, dual = self.rates
        theta, multiplier = self._theta[path], self._multiplier[path]
        if self.form == "strict":
            self._theta[path] -= primal * (gradient + multiplier + self.damping * theta)
            self._multiplier[path] += dual * self._theta[path]
            return
        slack = self.slack[path]
        pull = multiplier + self.damping * max(abs(theta) - slack, 0)
        self._theta[path] -= primal * (gradient + math.copysign(pull, theta))
        self.slack[path] -= primal * (self.slack_cost * slack - multiplier)
        self._multiplier[path] = max(multiplier + dual * (abs(self._theta[path]) - self.slack[path]), 0)

    def _gradients(self) -> dict[str, float]:
        """dJ/dtheta of each term since the last step, which are forgotten."""
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
    def _bound_weights(self) -> None:
        for path, term in terms_of(self.model).items():
            size = float(term.matrix.norm()) / term.map.rep_out.dim**0.5
            if size > 1:
                (term.weight if term.config.rank is None else term.up).div_(size)
                self._theta[path] *= size

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
        """Go on where `state` was saved. ValueError if it was saved by another controller, or of other layers."""
        check_state(state, self.state_dict())
        check_layers(state["theta"], self._theta)
        self.steps, self.form = state["steps"], state["form"]
        self.span = Span(state["total_steps"], state["until"])
        self._theta, self._multiplier = dict(state["theta"]), dict(state["multiplier"])
        self.slack, self.remainder = dict(state["slack"]), dict(state["remainder"])
        self._apply()


def _gradient_of(term: Term) -> torch.Tensor:
    if term.nudge is None or term.nudge.grad is None:
        return torch.zeros_like(term.theta)
    gradient = term.nudge.grad
    term.nudge.grad = None
    return gradient


def check_layers(saved: Mapping[str, float], own: Mapping[str, float]) -> None:
    """ValueError unless a state is one of the same layers."""
    if other := saved.keys() ^ own.keys():
        raise ValueError(
            f"this state is one of other layers ({', '.join(sorted(other)[:3])}); "
            "relax the model as it was when it was saved."
        )
