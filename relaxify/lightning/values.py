"""What goes to the loggers, every few steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from relaxify.lightning.framework import LightningModule, Trainer
from relaxify.lightning.replay import Replay
from relaxify.relaxation.penalties import penalties
from relaxify.relaxation.shares import relaxed_share
from relaxify.relaxation.terms.term import terms_of

PREFIX = "relaxation/"


class Values:
    """theta, share, penalty and losses of the steps that loggers keep; each layer's too (`what="layers"`), or nothing."""

    def __init__(self, what: bool | str) -> None:
        self.what = what
        self.penalty: Tensor | None = None
        self._every, self._has_loggers, self._prefix = 1, False, PREFIX
        self._losses: dict[str, float] = {}
        self._replay = Replay()

    def begin(self, trainer: Trainer, prefix: str) -> None:
        self._every = getattr(trainer, "log_every_n_steps", 0) or 1
        self._has_loggers = bool(trainer.loggers)
        self._prefix, self.penalty, self._losses = prefix, None, {}

    def are_due(self, clock: int) -> bool:
        """Whether the loggers keep the step that ends at the clock."""
        return bool(self.what) and self._has_loggers and clock % self._every == 0

    def of_step(
        self, module: LightningModule, model: nn.Module, clock: int, step: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """What a training step returns; the losses are kept of the first batch of one that is due at the clock."""
        if not self.are_due(clock) or self._losses:
            return step(*args, **kwargs)
        output, self._losses = self._replay.compared(module, model, step, args, kwargs)
        return output

    def taken(self, model: nn.Module) -> dict[str, float]:
        """All of them, under the names that the loggers are given."""
        found = _of_terms(model, layers=self.what == "layers") | self._losses
        if self.penalty is not None:
            found["penalty"] = float(self.penalty)
        self._losses = {}
        return {f"{self._prefix}{name}": value for name, value in found.items()}


def _of_terms(model: nn.Module, *, layers: bool) -> dict[str, float]:
    """The largest |theta| and share of a term in its layer's output; with `layers` each layer's, and its penalty."""
    terms = terms_of(model)
    theta = {path: float(term.theta) for path, term in terms.items()}
    share = {path: relaxed_share(term) for path, term in terms.items() if not term.finished}
    shares = {path: value for path, value in share.items() if value is not None}
    found = {"theta": max(theta.values(), key=abs), "share": max(shares.values(), default=0.0)}
    if layers:
        each = {path: float(layer.total) for path, layer in penalties(model).items()}
        for name, values in (("theta", theta), ("share", shares), ("penalty", each)):
            found |= {f"{path or 'model'}/{name}": value for path, value in values.items()}
    return found
