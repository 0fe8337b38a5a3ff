"""RECM: theta of each layer as a recurrent state that follows how far from symmetric the layer has been taught to be.

After Recurrent Equivariant Constraint Modulation (arXiv 2602.02853), as far as its public summary determines it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from relaxify.interrupts import completed
from relaxify.modules.sharding import sharded_modules
from relaxify.relaxation.controllers.attaching import Attachable
from relaxify.relaxation.controllers.controller import SavedState, Span
from relaxify.relaxation.controllers.lengthening import resumed
from relaxify.relaxation.distributed import replicas_of
from relaxify.relaxation.pitfalls import Lookout
from relaxify.relaxation.real_numbers import is_real
from relaxify.relaxation.switching import end_terms, set_each
from relaxify.relaxation.terms.term import Term, terms_of


class RECM(Attachable):
    """theta_i <- (1 - beta) theta_i + beta min(1, s_i), from theta_i = 1, with s_i = |theta_i (W - P_H W) x| / |f_e(x)|.

    s_i is what of the layer's output is not equivariant, rms over the last sketch. Where the target is symmetric W has no
    reason to stay outside the intertwiners, s_i < theta_i, and theta_i falls to 0 like (1 - beta (1 - |(W - P_H W) x| /
    |f_e(x)|))^t. Where it is not, theta_i (W - P_H W) stays what the target asks for, so theta_i comes to the symmetry gap.

    What the summary says: one level a layer, a recurrent state, learned from the training signal and from how symmetric the
    layer's inputs and targets are, with no level asked for; it comes to at most the symmetry gap, and to 0 where there is
    none. What it leaves open, and is of this implementation: the estimate s_i, the linear recurrence and its `rate` beta,
    `every` how many steps it moves (each costs a projection of every W, on the CPU in float64), the start at 1, and `until`
    (see `ACE`). In data-parallel training (hand over the wrapped model) s_i is that of all rows together.

    RuntimeError if the model is not relaxed; ValueError for a rate outside (0, 1], or an `every` below 1, or a model that
    is sharded.

        theta = RECM(model, total_steps)
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        *,
        rate: float = 0.1,
        every: int = 10,
        until: float | None = 0.5,
        optimizer: Optimizer | None = None,
    ) -> None:
        if not terms_of(model):
            raise RuntimeError(
                "the model has no relaxation terms for a controller to set; call relaxify(model, group) first."
            )
        if not (is_real(rate) and 0 < rate <= 1):
            raise ValueError(f"RECM(rate={rate!r}): a part of the way, above 0 and at most 1.")
        if not (is_real(every) and every >= 1):
            raise ValueError(f"RECM(every={every!r}): a number of steps, at least one.")
        if sharded_modules(model):
            raise ValueError("RECM cannot learn theta of a sharded model, whose layers no process has whole; use Triangle.")
        self.model = model
        self.span = Span.checked(total_steps, until, endless=True)
        self.rate, self.every = float(rate), int(every)
        self.steps = 0
        self.remainder: dict[str, float] = {}
        self._theta = dict.fromkeys(terms_of(model), 1.0)
        self._lookout = Lookout(model, optimizer)
        self._apply()

    def _step(self) -> None:
        steps, theta = self.steps + 1, dict(self._theta)
        if steps % self.every == 0 and not self.remainder:
            for path, gap in self._gaps().items():
                theta[path] += self.rate * (min(gap, 1.0) - theta[path])
        completed(lambda: self._move_to(steps, theta))
        self._lookout.step()
        self._lookout.look_at_end(steps, self.span.total_steps, self.span.end)

    def _move_to(self, steps: int, theta: dict[str, float]) -> None:
        self.steps, self._theta = steps, theta
        self._apply()

    def _gaps(self) -> dict[str, float]:
        """The layers' symmetry gaps over the rows of all processes, but for layers that saw nothing finite."""
        terms = terms_of(self.model)
        sums = torch.stack([_sums_of_squares(term) for term in terms.values()])
        if (replicas := replicas_of(self.model)) is not None:
            sums = sums.to(next(iter(terms.values())).theta.device)
            dist.all_reduce(sums, group=replicas)
        gaps = {path: (rest / output) ** 0.5 for path, (rest, output) in zip(terms, sums.tolist(), strict=True) if output}
        # a step with NaN is left out, as scalers do
        return {path: gap for path, gap in gaps.items() if math.isfinite(gap)}

    def _apply(self) -> None:
        if self.steps < self.span.end:
            set_each(terms_of(self.model), self._theta)
            return
        self.remainder = self.remainder or dict(self._theta)
        end_terms(self.model)

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs; the model's own state_dict holds theta itself."""
        return {
            "schedule": "RECM",
            "steps": self.steps,
            "total_steps": self.span.total_steps,
            "until": self.span.until,
            "theta": dict(self._theta),
            "remainder": dict(self.remainder),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved.

        ValueError, and nothing changes, if it was saved by another controller, of other layers, or has numbers that make
        no sense.
        """
        own = self.state_dict()
        saved = SavedState(state, own)
        steps, span = saved.steps, saved.span(endless=True)
        theta, remainder = (
            saved.levels(name, self._theta, may_be_empty=name == "remainder") for name in ("theta", "remainder")
        )
        resumed(own, state, lambda: self._resume(steps, span, theta, remainder))

    def _resume(self, steps: int, span: Span, theta: dict[str, float], remainder: dict[str, float]) -> None:
        self.span, self.remainder = span, remainder
        self._move_to(steps, theta)


@torch.no_grad()
def _sums_of_squares(term: Term) -> Float[Tensor, "2"]:
    """|theta (W - P_H W) x|^2 and |f_e(x)|^2, summed over the rows of the last sketch; zeros before training."""
    moment, output = term.sketch.moment, term.output_square()
    if moment is None or output is None:
        return torch.zeros(2, dtype=torch.float64)
    rest = (term.matrix.double().cpu() - term.equivariant_part()) * float(term.theta)
    size = torch.einsum("ij,ij->", rest @ moment.double().cpu(), rest).clamp(min=0)
    return torch.stack([size, output.double().cpu()]) * term.sketch.seen
