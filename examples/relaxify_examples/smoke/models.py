"""The rows of CR Table 2 as networks of velocity frames: (batch, 2 * frames, h, w) -> (batch, 2, h, w).

All but the MLP are five convolutions with ReLU between them and no norms, so that rows differ in their layers only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify_examples.smoke.equivariant import ELEMENTS, Between, steered
from relaxify_examples.smoke.generation import Symmetry

LAYERS = 5
KERNEL = 3
KINDS: tuple[Between, ...] = (("velocity", "hidden"), *[("hidden", "hidden")] * (LAYERS - 2), ("hidden", "velocity"))

# Side of the picture that Lift's encoder sees: the whole frame at a resolution that leaves parameters for the rest.
GLANCE = 8

# An MLP reads every pixel with every unit: within the others' budget it would be left with one or two of these.
NARROWEST = {"MLP": 8}


class MLP(nn.Module):
    """Linear layers on all pixels of all frames at once: no symmetry, and none of translation either.

    >>> MLP(10, 4, 16)(torch.zeros(3, 20, 16, 16)).shape
    torch.Size([3, 2, 16, 16])
    """

    def __init__(self, frames: int, width: int, size: int) -> None:
        super().__init__()
        sides = [2 * frames * size**2, *[width] * (LAYERS - 1), 2 * size**2]
        self.layers = nn.ModuleList(nn.Linear(into, out) for into, out in pairwise(sides))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 2 h w"]:
        return _chain(self.layers, x.flatten(1)).reshape(len(x), 2, *x.shape[2:])


class Conv(nn.Module):
    """Convolutions: equivariant to translation alone.

    >>> Conv(10, 4)(torch.zeros(3, 20, 16, 16)).shape
    torch.Size([3, 2, 16, 16])
    """

    def __init__(self, frames: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(free(into, out) for into, out in pairwise([2 * frames, *[width] * (LAYERS - 1), 2]))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 2 h w"]:
        return _chain(self.layers, x)


class Pathways(nn.Module):
    """One layer of a residual pathway prior: an equivariant convolution plus a free one."""

    def __init__(self, steered: nn.Module, free: nn.Conv2d) -> None:
        super().__init__()
        self.steered, self.free = steered, free

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch out h w"]:
        return self.steered(x) + self.free(x)


class RPP(nn.Module):
    """Residual pathway priors (Finzi, Benton, Wilson 2021): f = f_e + f_0 in each layer, f_0 under the narrower prior.

    The priors are Gaussian: weight decays that differ, see `decays`.
    """

    def __init__(self, symmetry: Symmetry, frames: int, width: int) -> None:
        super().__init__()
        channels = pairwise([2 * frames, *[ELEMENTS[symmetry] * width] * (LAYERS - 1), 2])
        counts = pairwise([frames, *[width] * (LAYERS - 1), 1])
        self.layers = nn.ModuleList(
            Pathways(steered(symmetry, kinds, count, KERNEL), free(*between))
            for kinds, count, between in zip(KINDS, counts, channels, strict=True)
        )

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 2 h w"]:
        return _chain(self.layers, x)


class Lift(nn.Module):
    """Lift expansion (Wang et al. 2021): a plain encoder sees the whole picture and adds channels to an equivariant net.

    Its output is spread over all pixels and read by the third layer as more hidden fields, which they are not: that alone
    breaks the symmetry. The encoder sees means over 8 x 8 parts of the frames where the published one sees all pixels.
    """

    def __init__(self, symmetry: Symmetry, frames: int, width: int) -> None:
        super().__init__()
        lifted = max(1, width // 4)
        counts = [(frames, width), (width, width), (width + lifted, width), *[(width, width)] * (LAYERS - 4), (width, 1)]
        layers = [steered(symmetry, kinds, count, KERNEL) for kinds, count in zip(KINDS, counts, strict=True)]
        self.stem, self.tail = nn.ModuleList(layers[:2]), nn.ModuleList(layers[2:])
        sides = pairwise([2 * frames * GLANCE**2, width, width, ELEMENTS[symmetry] * lifted])
        self.encoder = nn.ModuleList(nn.Linear(into, out) for into, out in sides)
        self.glance = nn.AdaptiveAvgPool2d(GLANCE)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 2 h w"]:
        local = torch.relu(_chain(self.stem, x))
        lifted = _chain(self.encoder, self.glance(x).flatten(1))
        return _chain(self.tail, torch.cat([local, lifted[..., None, None].expand(-1, -1, *local.shape[2:])], dim=1))


def free(into: int, out: int) -> nn.Conv2d:
    """A convolution that keeps the picture's size."""
    return nn.Conv2d(into, out, KERNEL, padding=KERNEL // 2)


def _chain(layers: nn.ModuleList, x: Tensor) -> Tensor:
    *hidden, last = layers
    for layer in hidden:
        x = torch.relu(layer(x))
    return last(x)


def _steerable(symmetry: Symmetry, frames: int, width: int, *, relaxed: bool) -> nn.Module:
    from relaxify_examples.models.relaxed_steerable import steerable_net

    return steerable_net(symmetry, frames=frames, width=width, layers=LAYERS, kernel_size=KERNEL, relaxed=relaxed)


def own_regulariser(name: str) -> Callable[[nn.Module], Tensor] | None:
    """What a network adds to its loss by itself: relaxed steerable convolutions, a measure of how far they are relaxed."""
    if name != "RSteer":
        return None
    from relaxify_examples.models.relaxed_convolution import approximate_equivariance_loss

    return approximate_equivariance_loss


Make = Callable[[Symmetry, int, int, int], nn.Module]

MODELS: dict[str, Make] = {
    "MLP": lambda _, frames, width, size: MLP(frames, width, size),
    "Conv": lambda _, frames, width, __: Conv(frames, width),
    "Equiv": lambda symmetry, frames, width, _: _steerable(symmetry, frames, width, relaxed=False),
    "RPP": lambda symmetry, frames, width, _: RPP(symmetry, frames, width),
    "Lift": lambda symmetry, frames, width, _: Lift(symmetry, frames, width),
    "RSteer": lambda symmetry, frames, width, _: _steerable(symmetry, frames, width, relaxed=True),
}


def parameter_count(model: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(p.numel() for p in model.parameters())


@cache
def fitting_width(name: str, symmetry: Symmetry, frames: int, size: int, budget: int) -> int:
    """The largest width with which that model has no more than `budget` parameters, but no less than NARROWEST."""

    def fits(width: int) -> bool:
        return parameter_count(MODELS[name](symmetry, frames, width, size)) <= budget

    low = NARROWEST.get(name, 1)
    high = low + 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def decays(model: nn.Module, decay: float, free_decay: float) -> Iterator[dict[str, Any]]:
    """Parameter groups for an optimiser: free pathways of an RPP under `free_decay`, and all else under `decay`."""
    apart = [p for module in model.modules() if isinstance(module, Pathways) for p in module.free.parameters()]
    marked = {id(p) for p in apart}
    yield {"params": [p for p in model.parameters() if id(p) not in marked], "weight_decay": decay}
    if apart:
        yield {"params": apart, "weight_decay": free_decay}
