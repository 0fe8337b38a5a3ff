"""Where a training is: the controller, how many steps it has moved on, and going on in another process or length."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from relaxify.relaxation.controllers.controller import Controller
from relaxify.relaxation.controllers.lengthening import go_on
from relaxify.relaxation.pitfalls import PitfallWarning


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
        if saved and (changed := go_on(controller, saved["controller"], model)):
            warnings.warn(changed, PitfallWarning, stacklevel=2)
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
