"""What the corpus records of one model: how to make and call it, how its group acts by hand, and what is true of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Action = Callable[[Tensor, Any], Any]
"""(matrix g of the defining representation, in float64, and a value) -> g value."""

SOUND = "sound"
BROKEN = "broken"
LATENT = "latent"
"""Exactly equivariant as initialised, and broken as soon as parameters that are exactly 0 or 1 have been trained."""
NEVER = "never sound"
"""Not finite, or not the same twice: nothing can be said for it."""
UNSEEN = "unseen"
"""The output, or a part of it, holds no tensor that can be reached: undecided, and said how to return tensors."""

FAULTY = frozenset({BROKEN, LATENT})


@dataclass(frozen=True)
class Matrices:
    """A group that has no name, by its generators: those of its Lie algebra, or of a finite or discrete group."""

    name: str
    lie: Tensor | None = None
    finite: Tensor | None = None


@dataclass(frozen=True)
class Entry:
    """One model under a group.

    `make` and `inputs` draw from torch's global generator. `move` and `carry` are the group's action on inputs and outputs,
    written by hand; what a user would have to say is said to relaxify besides, in `input_action`, `output_action` and
    `irreps` (e3nn's notation, by the names of forward's arguments).
    """

    name: str
    group: str | Matrices
    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    """A tuple of arguments, or a dict of them by name."""
    move: Action
    carry: Action
    label: str = SOUND
    fault: str = ""
    """Where a broken one breaks first: "module.path:op", several of them with blanks between where readers would differ."""
    input_action: Action | None = None
    output_action: Action | None = None
    irreps: Mapping[str, str] | None = None
    training: bool = False
    refusal: str = ""
    """Words of the refusal by `plan`, of a model that can be judged and not relaxed."""
    precision: torch.dtype = torch.float64
    """That in which it is measured: not float64 where the model itself casts to another."""

    @property
    def faults(self) -> frozenset[tuple[str, str]]:
        return frozenset((path, op) for path, _, op in (each.rpartition(":") for each in self.fault.split()))

    def model(self) -> nn.Module:
        """The model in the mode in which it is judged."""
        return self.make_seeded().train(self.training)

    def make_seeded(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make()

    def example(self, seed: int = 0) -> Any:
        """Inputs for it."""
        torch.manual_seed(100 + seed)
        return self.inputs()


def told(entry: Entry, *, output: bool = False) -> Entry:
    """An entry whose actions a user would have to write: that on the inputs, and perhaps that on the output."""
    return replace(entry, input_action=entry.move, output_action=entry.carry if output else entry.output_action)


def claimed(entry: Entry) -> Entry:
    """An entry of which the user says how the output transforms: else a fixed W x might pass for x in another basis."""
    return replace(entry, output_action=entry.carry)
