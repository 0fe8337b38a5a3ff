"""How a training of MACE is relaxed: the choices of `relaxify`, and of theta's schedule by its name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from relaxify.groups import Group
from relaxify.modules.patterns import Pattern
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.controllers.controller import Span
from relaxify.relaxation.controllers.schedules import Constant, Cosine, Schedule, Triangle

ScheduleName = Literal["triangle", "cosine", "constant"]

SCHEDULES: dict[str, type[Schedule]] = {"triangle": Triangle, "cosine": Cosine, "constant": Constant}


@dataclass(frozen=True)
class Relaxation:
    """How a training of MACE is relaxed.

    - `group`, `include`, `exclude`, `config`: as of `relaxify`.
    - `schedule`: triangle, cosine or constant, with its `peak` and `until`.
    - `lr`: the terms' learning rate; MACE's by default.
    - `checked`: whether it is measured first, on two structures of the training set, that the model has the symmetry.

    ValueError for an unknown group or schedule, or an `until` outside (0, 1].

    >>> Relaxation().group
    'O(3)'
    """

    group: str = "O(3)"
    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    config: RelaxConfig = field(default_factory=RelaxConfig)
    schedule: ScheduleName = "triangle"
    peak: float = 1.0
    until: float = 0.5
    lr: float | None = None
    checked: bool = True

    def __post_init__(self) -> None:
        Group.parse(self.group)
        Span.checked(1, self.until)
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r}: unknown; use {', '.join(SCHEDULES)}.")
