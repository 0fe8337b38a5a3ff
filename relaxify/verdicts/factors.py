"""How the factors of a product of groups act on inputs, each on axes of its own: O(3) turns points, S(n) permutes them.

A model commutes with G x H exactly if it commutes with G and with H, so that each factor is measured by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.graph.inputs import Inputs
from relaxify.groups import Group
from relaxify.modules.copies import duplicate
from relaxify.verdicts.draws import draws
from relaxify.verdicts.nearby import tensors_in

Action = Callable[[Tensor, Any], Any]


@dataclass(frozen=True)
class FactorActions:
    """(g, inputs) -> inputs moved by each factor's part of g in turn; `by_default` says which act as without being told."""

    group: Group
    actions: tuple[Action, ...]
    by_default: tuple[bool, ...]

    def __call__(self, g: Float[Tensor, "d d"], inputs: Inputs) -> Inputs:
        for part, action in zip(self.group.parts(g), self.actions, strict=True):
            inputs = action(part, inputs)
        return inputs


@dataclass(frozen=True)
class OneFactor:
    """(g, value) -> what an action of the product does with g in one factor and 1 in the others."""

    group: Group
    number: int
    action: Action

    def __call__(self, g: Float[Tensor, "n n"], value: Any) -> Any:
        return self.action(self.group.of_factor(self.number, g), value)


def of_factor(action: Action | None, group: Group, number: int) -> Action | None:
    """What an action of a product says of one factor; None where that acts by default."""
    if isinstance(action, FactorActions):
        return None if action.by_default[number] else action.actions[number]
    return action and OneFactor(group, number, action)


def of_one_factor(options: Mapping[str, Any], group: Group, number: int) -> dict[str, Any]:
    """The options of a call with the actions among them as they are of one factor."""
    names = {"input_action", "output_action"} & options.keys()
    return {**options, **{name: of_factor(options[name], group, number) for name in names}}


def check_commuting(group: Group, inputs: Inputs, action: Action) -> None:
    """ValueError if two factors do not commute on the inputs, as O(3) and S(3) on one axis do not."""
    elements = [OneFactor(group, number, action) for number in range(len(group.factors))]
    for one, other in itertools.combinations(elements, 2):
        first, second = (draws(group.factors[each.number], 0)[0].matrix for each in (one, other))
        runs = [(one, first, other, second), (other, second, one, first)]
        there, here = (tensors_in(b(h, a(g, duplicate(inputs, doubled, "the input")))) for a, g, b, h in runs)
        for name, value in there.items():
            if name in here and here[name].shape == value.shape and not torch.allclose(here[name], value, atol=1e-6):
                names = " and ".join(group.factors[each.number].name for each in (one, other))
                raise ValueError(
                    f"input{name} has shape {tuple(value.shape)}, on which {names} do not commute, as factors of "
                    f"{group.name} do; pass input_action=lambda g, inputs: ... that moves different axes by the blocks of g."
                )


def doubled(tensor: Tensor) -> Tensor:
    """What is moved to compare it, in float64."""
    return tensor.detach().double() if tensor.is_floating_point() else tensor
