"""How a group element acts on a model's inputs: the default, and the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.graph.inputs import Inputs, map_tensors, tensors_of
from relaxify.groups import Group

InputAction = Callable[[Tensor, Any], Any]
"""(matrix of the defining representation, inputs) -> transformed inputs, in the form in which they were given."""


def default_action(group: Group, inputs: Inputs) -> InputAction:
    """Every axis of a floating-point input that has the size of the group's matrices is a vector.

    ValueError if no input has such an axis, or one has several: then only the user can say.
    """
    axes: dict[str, int] = {}
    for name, tensor in tensors_of(inputs):
        if not tensor.is_floating_point():
            continue
        found = [axis for axis, size in enumerate(tensor.shape) if size == group.dim]
        if len(found) > 1:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: which axis of size {group.dim} carries vectors of {group.name} is "
                "ambiguous; pass input_action=lambda g, inputs: ..., or example inputs with other sizes."
            )
        if found:
            axes[name] = found[0]
    if not axes:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors_of(inputs))
        raise ValueError(
            f"no example input has an axis of size {group.dim} that {group.name} could act on ({shapes}); "
            "pass input_action=lambda g, inputs: ... ."
        )

    def action(g: Float[Tensor, "d d"], values: Inputs) -> Inputs:
        def move(name: str, tensor: Tensor) -> Tensor:
            if name not in axes:
                return tensor
            return torch.tensordot(tensor, g.to(tensor), dims=([axes[name]], [1])).movedim(-1, axes[name])

        moved: Inputs = map_tensors(move, values)
        return moved

    return action
