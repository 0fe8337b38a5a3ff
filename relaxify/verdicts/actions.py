"""How a group element acts on a model's inputs: the default, and the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from relaxify.graph.inputs import Inputs, map_tensors, tensors_of
from relaxify.grids.pixels import MovePixels, acts_on_grid, is_image
from relaxify.groups import Group
from relaxify.sites import Features

InputAction = Callable[[Tensor, Any], Any]
"""(matrix of the defining representation, inputs) -> transformed inputs, in the form in which they were given."""

OutputAction = Callable[[Tensor, Any], Any]
"""(matrix of the defining representation, output) -> transformed output."""


def default_action(group: Group, inputs: Inputs) -> InputAction:
    """Every axis of a floating-point input that has the size of the group's matrices is a vector.

    Under a group that maps a grid of pixels to itself, (batch, channels, height, width) with height = width is an image.
    ValueError if no input has such an axis or is an image, or one has several: then only the user can say.
    """
    floating = [(name, tensor) for name, tensor in tensors_of(inputs) if tensor.is_floating_point()]
    images = [name for name, tensor in floating if acts_on_grid(group) and is_image(tensor)]
    axes = {name: found[0] for name, tensor in floating if (found := _vector_axes(group, name, tensor, name in images))}
    if images:
        return MovePixels(axes)
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
            return Features((axes[name],)).apply(g.to(tensor), tensor)

        moved: Inputs = map_tensors(move, values)
        return moved

    return action


def _vector_axes(group: Group, name: str, tensor: Tensor, is_image: bool) -> list[int]:
    """The axis on which a tensor carries vectors, if there is one."""
    shape = tuple(tensor.shape)
    found = [axis for axis, size in enumerate(shape) if size == group.dim]
    if found and is_image:
        raise ValueError(
            f"{name} has shape {shape}: whether {group.name} moves its pixels or acts on its axis of size {group.dim} is "
            "ambiguous; pass input_action=relaxify.MovePixels() or a function of your own, or other sizes."
        )
    if len(found) > 1:
        raise ValueError(
            f"{name} has shape {shape}: which axis of size {group.dim} carries vectors of {group.name} is "
            "ambiguous; pass input_action=lambda g, inputs: ..., or example inputs with other sizes."
        )
    return found
