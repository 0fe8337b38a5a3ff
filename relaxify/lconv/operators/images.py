"""Affine flows of images of any resolution, as differential operators on the pixel grid.

With r = (y, x) from the image's centre and h(r) -> h(g^-1 r), in pixels, dr/dt = A r + b moves an image by -(A r + b) d/dr:
rotation y d/dx - x d/dy, translations -d/dy and -d/dx, scaling -(y d/dy + x d/dx), shears -y d/dx and -x d/dy, and the
stretch x d/dx - y d/dy.
"""

from __future__ import annotations

import functools
import operator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from relaxify.grids.derivatives import from_centre, spectral
from relaxify.groups import Group
from relaxify.lconv.operators.family import Generators, Space
from relaxify.lconv.operators.matrices import Dense

Row = tuple[float, float, float]

FLOWS: dict[str, tuple[Row, Row]] = {
    "rotation": ((0, 1, 0), (-1, 0, 0)),
    "translation_y": ((0, 0, 1), (0, 0, 0)),
    "translation_x": ((0, 0, 0), (0, 0, 1)),
    "scaling": ((1, 0, 0), (0, 1, 0)),
    "stretch": ((1, 0, 0), (0, -1, 0)),
    "shear_y": ((0, 1, 0), (0, 0, 0)),
    "shear_x": ((0, 0, 0), (1, 0, 0)),
}
"""(A | b) of each: how fast a point (y, x, 1) moves down and to the right."""

NAMES = tuple(FLOWS)

AFFINE = ("rotation", "translation_y", "translation_x", "scaling", "stretch", "shear_x")
"""A basis of all affine flows."""


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
        speeds = [_speeds(FLOWS[name], y[:, None], x) for name in self.names]
        if self.sign < 0:
            # (v d/dr)^T = -d/dr v for antisymmetric derivatives
            return torch.stack([_sum([self._differentiate(v * h, 2 + axis) for axis, v in flow]) for flow in speeds])
        needed = {axis for flow in speeds for axis, _ in flow}
        gradient = {axis: self._differentiate(h, 2 + axis) for axis in needed}
        return torch.stack([-_sum([v * gradient[axis] for axis, v in flow]) for flow in speeds])

    def _differentiate(self, h: Tensor, axis: int) -> Tensor:
        return spectral(h, axis) if self.derivative == "spectral" else _central(h, axis)

    def transpose(self, space: Space | None = None) -> ImageAlgebra:
        twin = ImageAlgebra(self.names, self.derivative)
        twin.sign = -self.sign
        return twin

    @property
    def power_depends_on_space(self) -> bool:
        return True

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


def _speeds(flow: tuple[Row, Row], y: Tensor, x: Tensor) -> list[tuple[int, Tensor]]:
    """The axes along which a flow moves, and A r + b there."""
    rows = [(axis, row) for axis, row in enumerate(flow) if any(row)]
    return [(axis, _sum([c * of for c, of in zip(row, (y, x, torch.ones_like(x)), strict=True) if c])) for axis, row in rows]


def _sum(terms: list[Tensor]) -> Tensor:
    return functools.reduce(operator.add, terms)


def _central(h: Tensor, axis: int) -> Tensor:
    padded = F.pad(h.movedim(axis, -1), (1, 1))
    return ((padded[..., 2:] - padded[..., :-2]) / 2).movedim(-1, axis)
