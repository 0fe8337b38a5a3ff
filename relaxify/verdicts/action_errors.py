"""What an action is, and that it cannot be told how a group moves the inputs."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from torch import Tensor

InputAction = Callable[[Tensor, Any], Any]
"""(matrix of the defining representation, inputs) -> transformed inputs, in the form in which they were given."""

OutputAction = Callable[[Tensor, Any], Any]
"""(matrix of the defining representation, output) -> transformed output."""


class Remedy(enum.Enum):
    """What the user can do about inputs of which it cannot be told how they move, in the words of Python."""

    FUNCTION = "pass input_action=lambda g, inputs: ..., or input_irreps for features"
    SIZES = "pass input_action=lambda g, inputs: ..., input_irreps that say what it carries, or inputs of other sizes"
    PIXELS = "pass input_action=relaxify.MovePixels(), MovePixels({{'{name}': axis}}) for vectors on pixels, or other sizes"
    FLOATS = "pass floating-point positions"
    SQUARE = "quarter turns need height = width: pass square images"
    QUARTERS = "try 'C(4)' or 'D(4)', or pass input_action=lambda g, inputs: ..."
    ONE = "pass the one or the other"
    POINTS = "name the others in input_irreps, as {{'v': '1xvector'}}, or pass input_action=lambda g, inputs: ..."
    GIVEN = "pass inputs to move"


class ActionError(ValueError):
    """It cannot be told how a group moves the inputs: `why`, of the input `name`, and what to do about it."""

    def __init__(self, why: str, remedy: Remedy, name: str = "") -> None:
        self.why, self.remedy, self.name = why, remedy, name
        super().__init__(f"{why}; {remedy.value.format(name=name)}.")
