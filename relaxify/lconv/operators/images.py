"""Rotation, translations and scaling of images of any resolution, as differential operators on the pixel grid.

With r = (y, x) from the image's centre and h(r) -> h(g^-1 r), in pixels: rotation y d/dx - x d/dy, translations -d/dy and
-d/dx, scaling -(y d/dy + x d/dx).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from relaxify.grids.derivatives import from_centre, spectral
from relaxify.groups import Group
from relaxify.lconv.operators.family import Generators, Space
from relaxify.lconv.operators.matrices import Dense

NAMES = ("rotation", "translation_y", "translation_x", "scaling")


class ImageAlgebra(Generators):
    """The named generators on (batch, channels, height, width).

    `derivative="spectral"` differentiates by FFT, exact for what a periodic grid can hold; `"bilinear"` is the derivative of
    bilinear interpolation, central differences, with zeros outside.

    >>> ImageAlgebra(("rotation",)).act(torch.ones(1, 1, 5, 7)).abs().max() < 1e-5
    tensor(True)
    """

    def __init__(
        self, names: tuple[str, ...] = ("rotation",), derivative: Literal["spectral", "bilinear"] = "spectral"
    ) -> None:
        super().__init__(len(names), None, ndim=2)
        if unknown := [name for name in names if name not in NAMES]:
            raise ValueError(f"unknown image generators {unknown}; the known ones are {', '.join(NAMES)}.")
        if derivative not in ("spectral", "bilinear"):
            raise ValueError(f"derivative={derivative!r} is unknown; pass 'spectral' or 'bilinear'.")
        self.names, self.derivative, self.sign = names, derivative, 1.0

    def act(self, h: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "count batch channels height width"]:
        y, x = (from_centre(size, h) for size in h.shape[2:])
        if self.sign < 0:
            # (y d/dx)^T = -d/dx y for antisymmetric derivatives
            return torch.stack([self._transposed(name, h, y[:, None], x) for name in self.names])
        down, right = self._differentiate(h, 2), self._differentiate(h, 3)
        fields = {
            "rotation": lambda: y[:, None] * right - x * down,
            "translation_y": lambda: -down,
            "translation_x": lambda: -right,
            "scaling": lambda: -(y[:, None] * down + x * right),
        }
        return torch.stack([fields[name]() for name in self.names])

    def _transposed(self, name: str, h: Tensor, y: Tensor, x: Tensor) -> Tensor:
        if name == "rotation":
            return self._differentiate(x * h, 2) - self._differentiate(y * h, 3)
        if name == "scaling":
            return self._differentiate(y * h, 2) + self._differentiate(x * h, 3)
        return self._differentiate(h, 2 if name == "translation_y" else 3)

    def _differentiate(self, h: Tensor, axis: int) -> Tensor:
        return spectral(h, axis) if self.derivative == "spectral" else _central(h, axis)

    def transpose(self, space: Space | None = None) -> ImageAlgebra:
        twin = ImageAlgebra(self.names, self.derivative)
        twin.sign = -self.sign
        return twin

    def extra_repr(self) -> str:
        return f"{', '.join(self.names)}, {self.derivative}"


def algebra(name: str, *, learnable: bool = False) -> Dense:
    """The defining generators of a named Lie group, as `Group.parse` knows them: so(2), so(3), so(1,3), sl(2), ...

    >>> algebra("so(1,3)").dense().shape
    torch.Size([6, 4, 4])
    """
    generators = Group.parse(name).generators
    if not len(generators):
        raise ValueError(f"{name!r} is a finite group, without a Lie algebra; name a continuous one, such as 'so(3)'.")
    return Dense(generators.to(torch.get_default_dtype()), learnable=learnable)


def _central(h: Tensor, axis: int) -> Tensor:
    padded = F.pad(h.movedim(axis, -1), (1, 1))
    return ((padded[..., 2:] - padded[..., :-2]) / 2).movedim(-1, axis)
