"""What a controller is: anything that moves theta, one step after the other, and can be saved and resumed."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from relaxify.relaxation.real_numbers import is_real
from relaxify.relaxation.switching import is_theta


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
    def checked(cls, total_steps: Any, until: Any, *, endless: bool = False) -> Span:
        """Of numbers of any kind. `endless`: whether None makes sense for `until`."""
        if not (is_real(total_steps) and total_steps >= 1 and float(total_steps).is_integer()):
            raise ValueError(f"total_steps={total_steps!r}: count the optimiser steps of the whole training, at least one.")
        if not (endless if until is None else is_real(until) and 0 < until <= 1):
            raise ValueError(
                f"until={until!r}: theta is 0 from this fraction of total_steps on, above 0 and at most 1 (the paper's)."
            )
        return cls(int(total_steps), None if until is None else float(until))

    @property
    def end(self) -> float:
        """The step from which on theta is 0 for good."""
        return math.inf if self.until is None else self.until * self.total_steps


class SavedState:
    """The state of a controller as it comes from a checkpoint: every entry is checked before anything is set.

    ValueError, one sentence, unless it is that of a controller whose own state is `own`.

    >>> saved = SavedState({"schedule": "RPP", "steps": 3}, {"schedule": "RPP", "steps": 0})
    >>> saved.steps
    3
    """

    def __init__(self, state: object, own: Mapping[str, Any], *, optional: frozenset[str] = frozenset()) -> None:
        if not isinstance(state, Mapping):
            raise ValueError(f"this state is a {type(state).__name__}; pass what state_dict() returned.")
        if state.get("schedule") != own["schedule"]:
            raise ValueError(
                f"this state belongs to the schedule {state.get('schedule')!r}, not {own['schedule']!r}; "
                "resume with the controller that saved it."
            )
        if missing := own.keys() - state.keys() - optional:
            raise ValueError(f"this state has no {', '.join(sorted(missing))}; pass what state_dict() returned.")
        self._state = state

    @property
    def steps(self) -> int:
        steps = self._state["steps"]
        if not _is_number(steps, numbers.Integral) or steps < 0:
            raise _invalid("steps", steps, "a number of steps")
        return int(steps)

    def number(self, name: str, *, low: float = -math.inf) -> float:
        value = self._state[name]
        if not _is_number(value) or not low <= value:
            raise _invalid(name, value, "a finite number" if low == -math.inf else f"a finite number >= {low:g}")
        return float(value)

    def choice(self, name: str, choices: Collection[str]) -> Any:
        value = self._state[name]
        if not isinstance(value, str) or value not in choices:
            raise _invalid(name, value, " or ".join(map(repr, choices)))
        return value

    def span(self, *, endless: bool, default: float | None = None) -> Span:
        """`total_steps` and `until`, which is `default` if the state has none."""
        total_steps, until = self._state["total_steps"], self._state.get("until", default)
        for name, value in (("total_steps", total_steps), ("until", until)):
            if not _is_number(value) and not (name == "until" and value is None):
                raise _invalid(name, value, "a finite number")
        return Span.checked(total_steps, until, endless=endless)

    def levels(self, name: str, layers: Collection[str], *, may_be_empty: bool = False) -> dict[str, float]:
        """A finite number for each of the same layers, or for none."""
        saved = self._state[name]
        if not isinstance(saved, Mapping) or not all(map(_is_number, saved.values())):
            raise _invalid(name, saved, "a finite number for each layer")
        if other := saved.keys() ^ set(layers) if saved or not may_be_empty else set():
            raise ValueError(
                f"this state is one of other layers ({', '.join(map(str, sorted(other, key=str)[:3]))}); "
                "relax the model as it was when it was saved."
            )
        return {path: float(saved[path]) for path in layers if path in saved}


def _is_number(value: object, kind: type = numbers.Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and is_theta(value)


def _invalid(name: str, value: object, what: str) -> ValueError:
    return ValueError(f"this state has {name} = {reprlib.repr(value)}, not {what}; pass what state_dict() returned.")
