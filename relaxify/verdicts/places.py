"""Where an output moves with its inputs: pixels that turn or shift, or whatever the user's own input action does to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from relaxify.graph.inputs import Inputs
from relaxify.grids.pixels import Pixels, acts_on_grid, is_image, possible_pixels
from relaxify.verdicts.candidates import Carry, Way
from relaxify.verdicts.draws import Draw
from relaxify.verdicts.nearby import are_equal, replaced, tensors_in
from relaxify.verdicts.orbits import Actions

Places = Callable[[Tensor], Sequence[Way]]
"""The ways of being placed that a value of this shape may have; their `axes` carry nothing else."""


def nowhere(value: Tensor) -> Sequence[Way]:
    """Of outputs that do not move."""
    return ()


def of_pixels(inputs: Inputs) -> Places:
    """Maps of pixels made of the images among the inputs."""
    size = next((value.shape[-1] for value in tensors_in(inputs).values() if is_image(value)), 0)

    def found(value: Tensor) -> Sequence[Way]:
        return [_of(pixels, size) for pixels in possible_pixels(value.shape, [size])]

    return found


def _of(pixels: Pixels, image: int) -> Way:
    def carry(g: Draw, value: Tensor) -> Tensor:
        return pixels.move(g.matrix, value, image)

    return Way("", tuple(pixels.axes), place=_remembered(carry), place_name="on pixels that move")


def of_inputs(actions: Actions, inputs: Inputs, g: Draw) -> Places:
    """What moves as an input does that the user's action moves: the output in that input's place, acted on."""
    before, moved = tensors_in(inputs), _moved(actions, inputs, g)
    ways = {name: _like(actions, inputs, name) for name in moved}
    maps = of_pixels(inputs) if turns_images(actions, inputs, g) else nowhere

    def found(value: Tensor) -> Sequence[Way]:
        like = [way for name, way in ways.items() if before[name].ndim == value.ndim and _takes(way, g, value)]
        return [*like, *maps(value)]

    return found


def turns_images(actions: Actions, inputs: Inputs, g: Draw) -> bool:
    """Whether the user's own action does to an image's pixels what `MovePixels` does."""
    before = tensors_in(inputs)
    return any(_moves_pixels(g, before[name], value) for name, value in _moved(actions, inputs, g).items())


def _moved(actions: Actions, inputs: Inputs, g: Draw) -> dict[str, Tensor]:
    """The inputs that g moves, as they are afterwards."""
    before, after = tensors_in(inputs), tensors_in(actions.on_inputs(g, inputs))
    return {
        name: after[name]
        for name, value in before.items()
        if name in after and value.is_floating_point() and not are_equal(value, after[name])
    }


def _moves_pixels(g: Draw, before: Tensor, after: Tensor) -> bool:
    """Whether an image moves its pixels as `MovePixels` does, whatever happens to its channels meanwhile."""
    if not is_image(before) or before.shape != after.shape or not acts_on_grid(g.group):
        return False
    moved = Pixels(-2, before.shape[-1]).move(g.matrix, before, before.shape[-1])
    return torch.allclose(moved.norm(dim=1), after.norm(dim=1), atol=1e-6)


def _takes(way: Way, g: Draw, value: Tensor) -> bool:
    try:
        return way.placed(g, value).shape == value.shape
    except ValueError:
        return False


def _like(actions: Actions, inputs: Inputs, name: str) -> Way:
    def carry(g: Draw, value: Tensor) -> Tensor:
        instead = replaced(inputs, lambda other, tensor: value.clone() if other == name else tensor)
        try:
            return tensors_in(actions.on_inputs(g, instead))[name].detach()
        except Exception as error:
            raise ValueError(f"the input action does not take the output in place of its input: {error}") from error

    return Way("", place=_remembered(carry), place_name=f"moved as input{name} is")


def _remembered(carry: Carry) -> Carry:
    """The same value moved by the same element once, however many ways ask."""
    known: dict[tuple[int, int], tuple[Draw, Tensor, Tensor]] = {}

    def remembering(g: Draw, value: Tensor) -> Tensor:
        key = (id(g), id(value))
        if key not in known:
            # an object's identity is its id only while it lives
            known[key] = (g, value, carry(g, value))
        return known[key][2]

    return remembering
