"""Where a training is: the controller, how many steps it has moved on, and going on in another process or length."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from relaxify.relaxation.controllers.controller import Controller
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.switching import thetas

# what the program says when it resumes counts, as the Trainer's own arguments do
_SAID_ANEW = ("total_steps", "until", "peak")


class Progress:
    """A controller, which is to be at the step that a clock shows: optimizer steps from the first that it had to do with."""

    def __init__(self) -> None:
        self.controller: Controller | None = None
        self.steps = self.first = 0
        self.saved: Mapping[str, Any] = {}

    def begin(self) -> None:
        """A fit begins: of the same training or of another, which the clock will tell."""
        self.saved = self.state_dict()
        self.controller, self.steps, self.first = None, 0, 0

    def start(self, make: Callable[[int], Controller], model: nn.Module, total: int, clock: int, *, is_told: bool) -> None:
        """Make the controller for `total` steps of training (of theta, if `is_told`), and bring it to the clock."""
        saved = self.saved if self.saved and self.saved["first"] + self.saved["steps"] <= clock else {}
        self.first = saved.get("first", clock)
        controller = make(total if is_told else max(total - self.first, 1))
        if saved:
            _resume(controller, saved["controller"], model)
        self.controller, self.steps, self.saved = controller, saved.get("steps", 0), {}
        for _ in range(self.due(clock)):
            self.step()

    def due(self, clock: int) -> int:
        """How many steps the controller is behind."""
        return max(clock - self.first - self.steps, 0)

    def step(self) -> None:
        assert self.controller is not None
        self.controller.step()
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        if self.controller is None:
            return dict(self.saved)
        return {"controller": self.controller.state_dict(), "steps": self.steps, "first": self.first}


def _resume(controller: Controller, saved: Mapping[str, Any], model: nn.Module) -> None:
    """Load what was saved, with the length that the training has now, and say what that does to theta."""
    own = controller.state_dict()
    state = {**saved, **{name: own[name] for name in _SAID_ANEW if name in own and name in saved}}
    controller.load_state_dict(saved)
    if state == dict(saved):
        return
    before = _largest(model)
    controller.load_state_dict(state)
    names = [name for name in _SAID_ANEW if state.get(name) != saved.get(name)]
    changes = "; ".join(f"{name} is {state[name]}, and was {saved[name]}" for name in names)
    warnings.warn(
        f"the training goes on otherwise than it began: {changes}. From here, step {saved.get('steps')}, theta is that of a "
        f"training which had been so from its start: {_largest(model):.3g} now, where it was {before:.3g}{_end_of(state)}.",
        PitfallWarning,
        stacklevel=2,
    )


def _largest(model: nn.Module) -> float:
    return max(map(abs, thetas(model).values()))


def _end_of(state: Mapping[str, Any]) -> str:
    """From where on theta is 0, in words."""
    if state.get("until") is None or "total_steps" not in state:
        return ""
    end = state["until"] * state["total_steps"]
    if end <= state["steps"]:
        return ", and 0 from here on, unless a controller with a larger until is given"
    return f", and 0 from step {end:g} on"
