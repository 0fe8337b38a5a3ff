"""The Lie derivative of a model as a sum over its steps: L(f2 f1) = Df2 (L f1) + (L f2) f1 (Gruver et al. 2023, sec. 4).

Each step's own L f = Df [X x] - X f(x) is carried to the output by the model's derivative behind it. What is carried is
read off by probes z: <z, Df L> = <Df^T z, L>, one backward pass for all steps, samples and transformations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.graph.inputs import map_tensors, tensors_of
from relaxify.grids.derivatives import Scheme
from relaxify.grids.flows import Flow, PixelPositions, apply
from relaxify.inspection.derivatives import Curve, Differentiation, by_differences
from relaxify.inspection.images.steps import Step

STEP = 1e-6
"""Small, for differences must not step over the kinks of rectifiers."""


@dataclass(frozen=True)
class Motion:
    """X, for the values of one model: a flow on their pixels, with a way to differentiate."""

    flow: Flow
    positions: PixelPositions
    scheme: Scheme

    def __call__(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return apply(self.flow, value, self.positions, self.scheme)


def learn_positions(positions: PixelPositions, steps: Sequence[Step]) -> None:
    """What the steps, in their order, say of the sizes of maps."""
    for step in steps:
        before = [value for name, value in tensors_of(step.args) if name in step.reached]
        positions.learn(before, step.outputs, stretches=step.stretches)


def own_term(step: Step, motion: Motion, derive: Differentiation) -> list[Tensor]:
    """L f = Df [X x] - X f(x) of a step alone, for each of its outputs. What does not depend on the images stands still."""
    velocities = {name: motion(value) for name, value in tensors_of(step.args) if name in step.reached}
    speed = math.sqrt(sum(float(velocity.square().mean()) for velocity in velocities.values())) or 1.0

    def curve(t: Tensor) -> list[Tensor]:
        def moved(name: str, value: Tensor) -> Tensor:
            # a step may write to its arguments
            return value + (t / speed) * velocities[name] if name in velocities else value.clone()

        return step(map_tensors(moved, step.args))

    velocity_of_outputs = _derivative(curve, derive)
    return [speed * forward - motion(value) for forward, value in zip(velocity_of_outputs, step.outputs, strict=True)]


def _derivative(curve: Curve, derive: Differentiation) -> list[Tensor]:
    """By differences where a step has no forward derivative."""
    try:
        return derive(curve)[1]
    except (NotImplementedError, RuntimeError):
        return by_differences(curve, STEP)[1]


def directions(count: int | None, images: int, size: int) -> Iterator[Float[Tensor, "images size"]]:
    """Random directions of the output, one for each image; all unit vectors, which make it exact, if no more or `None`."""
    if count is None or size <= count:
        yield from (unit.expand(images, size) for unit in torch.eye(size))
        return
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(images, size, generator=generator, dtype=torch.get_default_dtype())


def carried(
    outputs: Sequence[Tensor], steps: Sequence[Step], terms: Sequence[Sequence[Tensor]], probe: Tensor
) -> Float[Tensor, "flows steps images"]:
    """<z, D L> of each flow's term of each step, carried to the output, for each image: z one row of the probe for each.

    `terms`: for each step and each of its outputs, L f under all flows, stacked.
    """
    images = len(probe)
    sizes = [value[0].numel() for value in outputs]
    along = [z.reshape(value.shape) for z, value in zip(probe.split(sizes, dim=1), outputs, strict=True)]
    edges = [edge for step in steps for edge in step.edges]
    gradients = iter(torch.autograd.grad(outputs, edges, along, retain_graph=True, allow_unused=True))
    of_steps = [[next(gradients) for _ in step.edges] for step in steps]
    return torch.stack([_inner(gradients, own, images) for gradients, own in zip(of_steps, terms, strict=True)], dim=1)


def _inner(gradients: Sequence[Tensor | None], own: Sequence[Tensor], images: int) -> Float[Tensor, "flows images"]:
    total = torch.zeros(len(own[0]), images)
    for gradient, term in zip(gradients, own, strict=True):
        if gradient is not None:
            total = total + torch.einsum("fbn,bn->fb", term.reshape(len(term), images, -1), gradient.reshape(images, -1))
    return total


def check_batched(steps: Sequence[Step], outputs: Sequence[Tensor], images: int) -> None:
    """ValueError if a value within the model, or an output, does not keep the images apart."""
    values = [(f"{step.op} in {step.path or 'the model'}", value) for step in steps for value in step.outputs]
    for name, value in (*values, *(("the model", output) for output in outputs)):
        if value.ndim == 0 or len(value) % images or (name == "the model" and len(value) != images):
            raise ValueError(
                f"{name} returns {tuple(value.shape)}, in which {images} images are not apart; pass them one at a time."
            )
