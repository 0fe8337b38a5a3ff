"""Monitor: what the terms of a relaxed model do over training, written every few steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from relaxify.inspection.sinks import Sink, sink_of
from relaxify.relaxation.penalties import penalties
from relaxify.relaxation.pitfalls import Lookout
from relaxify.relaxation.real_numbers import is_real
from relaxify.relaxation.summary import in_evaluation, summary
from relaxify.relaxation.switching import relaxed
from relaxify.relaxation.terms.term import terms_of

QUANTITIES = ("theta", "norm", "share", "equivariant")
PENALTY = "penalty"


class Monitor:
    """Logs, every `every` steps, for each term of a model: theta, |W|, its share of the output, and |P_H W| / |W|.

    It also warns, once each, of what spoils a relaxed training without an error, and says how to fix it.

    - `to`: a CSV file's path (one row a step and layer), a logger of Lightning, a run of Weights and Biases, a TensorBoard
      writer, the module mlflow, an Accelerator, a callback (step, values), or a list of these. Of a logger what counts is
      what it can do (`log_metrics`, `log`, `add_scalar`).
    - `quantities`: which of "theta", "norm", "share", "equivariant" (see `relaxify.summary`), and "penalty", what each layer
      adds to `penalty(model)`.
    - `prefix`: before every name that is written, as "relaxation/"; a CSV file has none.
    - `loss`: such as `lambda: criterion(model(x), y)` on a batch kept for it; "loss/relaxed" and "loss/projected" are
      written too, side by side, in `eval()`. What lies between them is what projecting would cost now.
    - `error`: such as `lambda: equivariance_error(model, "O(3)", x)` of `relaxify.testing`; "error/relaxed" is what it
      returns with the terms acting, in `eval()`, every `error_every` steps: by default whenever something is written.
    - `resume`: go on in a CSV file that exists. What it has of steps after the one that `load_state_dict` goes on from, or
      of a step that was cut short, is written anew.
    - `optimizer`: only looked at, to tell if it does not hold the terms, or if its rate ends while they still act.

    Costs one `summary` each time it writes: products of each W with itself and with small matrices; and, with `loss`, two
    forward passes of that batch.
    ValueError for an unknown quantity, a step of zero, or a file that exists, unless it is resumed. RuntimeError if the
    model is not relaxed.

        monitor = Monitor(model, to="terms.csv")
        for x, y in loader:
            ...
            monitor.step()
    """

    def __init__(
        self,
        model: nn.Module,
        to: str | Path | Sink | Any,
        *,
        every: int = 100,
        quantities: tuple[str, ...] = QUANTITIES,
        prefix: str = "",
        loss: Callable[[], Tensor] | None = None,
        error: Callable[[], float] | None = None,
        error_every: int | None = None,
        resume: bool = False,
        optimizer: Optimizer | None = None,
    ) -> None:
        if unknown := [name for name in quantities if name not in (*QUANTITIES, PENALTY)]:
            raise ValueError(f"Monitor knows no {unknown[0]!r}; choose among {', '.join((*QUANTITIES, PENALTY))}.")
        for name, steps in (("every", every), ("error_every", error_every)):
            if steps is not None and not (is_real(steps) and steps >= 1):
                raise ValueError(f"{name}={steps!r}: give a number of steps, at least one.")
        summary(model)
        self.model = model
        self.every = every
        self.quantities = quantities
        self.loss, self.error = loss, error
        self.error_every = error_every or every
        self.steps = 0
        self._lookout = Lookout(model, optimizer)
        self._sink: Sink = sink_of(to, prefix=prefix, resume=resume)

    def step(self) -> None:
        """Count one optimiser step, and write if it is time. The first step is written."""
        step, is_due = self.steps, self.steps % self.every == 0
        values: dict[str, float] = {}
        if is_due:
            values |= self.values()
        if self.error is not None and step % self.error_every == 0:
            values["error/relaxed"] = self._relaxed_error(self.error)
        # counted before it is written: what is interrupted is not written twice
        self.steps += 1
        if values:
            self._sink(step, values)
        if is_due:
            self._lookout.look_at_theta()
        self._lookout.step()

    def values(self) -> dict[str, float]:
        """The quantities now, under "layer/quantity"; those that are not known yet are left out."""
        found = summary(self.model, loss=self.loss)
        names = [name for name in self.quantities if name != PENALTY]
        values = {f"{path}/{name}": getattr(layer, name) for path, layer in found.layers.items() for name in names}
        if PENALTY in self.quantities:
            values |= {f"{path}/{PENALTY}": value for path, value in self._penalties().items()}
        values |= {"loss/relaxed": found.relaxed_loss, "loss/projected": found.projected_loss}
        return {name: float(value) for name, value in values.items() if value is not None}

    @torch.no_grad()
    def _penalties(self) -> dict[str, float]:
        """What each layer adds to the penalty; of a term that has ended nothing, and none before training."""
        terms = terms_of(self.model)
        if all(term.sketch.is_empty for term in terms.values()):
            return {}
        found = penalties(self.model)
        return {path: 0.0 if term.finished else float(found[path].total) for path, term in terms.items()}

    def _relaxed_error(self, error: Callable[[], float]) -> float:
        def measured() -> float:
            with relaxed(self.model):
                return float(error())

        return in_evaluation(self.model, measured)

    def state_dict(self) -> dict[str, Any]:
        """How many steps it has counted, as plain data."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting where `state` was saved. ValueError if it is none of a Monitor's."""
        steps: object = dict(state).get("steps")
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise ValueError(f"this state has steps = {steps!r}, not a number of steps; pass what state_dict() returned.")
        self.steps = steps
