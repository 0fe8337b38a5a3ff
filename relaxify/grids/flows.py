"""Translation, rotation, scaling and shear of images as vector fields v, and what they do to maps: X f = v . grad f.

One derivative, the same at every pixel, is used for images and for maps of every resolution: a convolution of stride 1
commutes with it wherever both see no border, so that its translation error is 0 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import exponential
from relaxify.grids.derivatives import Scheme, differentiate, from_centre


@dataclass(frozen=True)
class Flow:
    """The vector field v(r) = A r + b as the generator [[A, b], [0, 0]] of affine maps of r = (x, y).

    x goes to the right and y down, from the image's centre; the unit is the image's longer side. T_t f(r) = f(exp(t v) r).
    """

    name: str
    matrix: Float[Tensor, "3 3"]

    def moved(self, t: float) -> Float[Tensor, "3 3"]:
        """exp(t v), the affine map that carries the positions."""
        return exponential(t * self.matrix)


def _flow(name: str, *rows: tuple[float, float, float]) -> Flow:
    return Flow(name, torch.tensor([*rows, (0.0, 0.0, 0.0)], dtype=torch.float64))


FLOWS = {
    "translation": (_flow("translation_x", (0, 0, 1), (0, 0, 0)), _flow("translation_y", (0, 0, 0), (0, 0, 1))),
    "rotation": (_flow("rotation", (0, -1, 0), (1, 0, 0)),),
    "scale": (_flow("scale", (1, 0, 0), (0, 1, 0)),),
    "shear": (_flow("shear_x", (0, 1, 0), (0, 0, 0)), _flow("shear_y", (0, 0, 0), (1, 0, 0))),
}


def flows_of(names: Sequence[str]) -> tuple[Flow, ...]:
    """The flows of these names: translation, rotation, scale, shear, or one of translation_x, shear_y and so on.

    >>> [flow.name for flow in flows_of(("rotation", "shear"))]
    ['rotation', 'shear_x', 'shear_y']
    """
    single = {flow.name: (flow,) for of_name in FLOWS.values() for flow in of_name}
    known = {**FLOWS, **single}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no transformation {unknown[0]!r}; choose among {', '.join(known)}.")
    return tuple(dict.fromkeys(flow for name in names for flow in known[name]))


def is_map(value: Tensor) -> bool:
    """Whether a value is a map with pixels, (batch, channels, height, width). Everything else stands still."""
    return value.ndim == 4 and value.shape[-1] * value.shape[-2] > 1 and value.is_floating_point()


class PixelPositions:
    """Where in the image the pixels of maps lie: centred, with a spacing, in pixels of the image, for each size of map.

    A layer with stride makes pixels lie further apart; one that only loses the border does not. Sizes tell the two apart:
    the ratio of an output's size to the input's is rounded, unless the layer is known to stretch its grid over the image.
    """

    def __init__(self, height: int, width: int) -> None:
        self.unit = max(height, width)
        self._pitches: dict[tuple[int, int], tuple[float, float]] = {(height, width): (1.0, 1.0)}

    def learn(self, before: Sequence[Tensor], after: Sequence[Tensor], *, stretches: bool = False) -> None:
        """What a layer that reads the maps `before` and returns the maps `after` says of the latter's sizes."""
        sources = [_size(value) for value in before if is_map(value)]
        for size in [_size(value) for value in after if is_map(value)]:
            if sources and size not in self._pitches:
                source = max(sources)
                ratios = [_ratio(n, m, stretches) for n, m in zip(source, size, strict=True)]
                pitch = self.pitch(source)
                self._pitches[size] = (pitch[0] * ratios[0], pitch[1] * ratios[1])

    def pitch(self, size: tuple[int, int]) -> tuple[float, float]:
        """Pixels of the image from one pixel of such a map to the next, down and to the right."""
        image = next(iter(self._pitches))
        return self._pitches.get(size, (_ratio(image[0], size[0], False), _ratio(image[1], size[1], False)))

    def coordinates(self, value: Tensor) -> tuple[Float[Tensor, " width"], Float[Tensor, " height"]]:
        """x and y of a map's pixels, in units of the image."""
        size = _size(value)
        y, x = (from_centre(n, value) * (pitch / self.unit) for n, pitch in zip(size, self.pitch(size), strict=True))
        return x, y


def _size(value: Tensor) -> tuple[int, int]:
    return value.shape[-2], value.shape[-1]


def _ratio(before: int, after: int, stretches: bool) -> float:
    if stretches:
        return before / after
    return round(before / after) if before >= after else 1 / round(after / before)


def apply(flow: Flow, value: Float[Tensor, "..."], positions: PixelPositions, scheme: Scheme) -> Float[Tensor, "..."]:
    """X f = v . grad f for a map, 0 for everything else, in units of the image.

    >>> ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    >>> apply(FLOWS["translation"][0], ramp, PixelPositions(8, 8), "central")[0, 0, 4, 3:5].round()  # 8 pixels make the unit
    tensor([8., 8.])
    """
    if not is_map(value):
        return torch.zeros_like(value)
    (x, y), matrix = positions.coordinates(value), flow.matrix.to(value)
    pitch_y, pitch_x = positions.pitch(_size(value))
    result = torch.zeros_like(value)
    for row, axis, pitch in ((0, -1, pitch_x), (1, -2, pitch_y)):
        velocity = matrix[row, 0] * x + matrix[row, 1] * y[:, None] + matrix[row, 2]
        if velocity.any():
            result = result + velocity * differentiate(value, axis, scheme) * (positions.unit / pitch)
    return result
