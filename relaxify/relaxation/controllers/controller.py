"""What a controller is: anything that moves theta, one step after the other, and can be saved and resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Controller(Protocol):
    """Moves theta. Call `step()` after every optimizer step; write your own with `set_theta(model, {pattern: value})`."""

    def step(self) -> None:
        """Move on by one optimizer step."""

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs, as plain data; the model's own state_dict holds theta itself."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved."""


@runtime_checkable
class LearningController(Controller, Protocol):
    """A controller that has something to say to the loss as well."""

    def loss_term(self) -> Float[Tensor, ""]:
        """To be added to the loss, in every step."""


@dataclass(frozen=True)
class Span:
    """Over which steps theta acts: `total_steps` of training, and the fraction `until` of them; None for without end.

    ValueError if `total_steps` is no integer >= 1, or `until` outside (0, 1].

    >>> Span.checked(10, 0.5).end
    5.0
    """

    total_steps: int
    until: float | None

    @classmethod
    def checked(cls, total_steps: float, until: float | None, *, endless: bool = False) -> Span:
        """Of numbers of any kind. `endless`: whether None makes sense for `until`."""
        if not (total_steps >= 1 and float(total_steps).is_integer()):
            raise ValueError(f"total_steps={total_steps}: count the optimiser steps of the whole training, at least one.")
        if not (endless if until is None else 0 < until <= 1):
            raise ValueError(
                f"until={until}: theta is 0 from this fraction of total_steps on, above 0 and at most 1 (the paper's)."
            )
        return cls(int(total_steps), None if until is None else float(until))

    @property
    def end(self) -> float:
        """The step from which on theta is 0 for good."""
        return math.inf if self.until is None else self.until * self.total_steps


def check_state(state: Mapping[str, Any], own: Mapping[str, Any], *, optional: frozenset[str] = frozenset()) -> None:
    """ValueError unless a saved state is that of a controller whose own state is `own`."""
    if state.get("schedule") != own["schedule"]:
        raise ValueError(
            f"this state belongs to the schedule {state.get('schedule')!r}, not {own['schedule']!r}; "
            "resume with the controller that saved it."
        )
    if missing := own.keys() - state.keys() - optional:
        raise ValueError(f"this state has no {', '.join(sorted(missing))}; pass what state_dict() returned.")
