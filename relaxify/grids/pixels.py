"""Groups that map a grid of pixels to itself: quarter turns and flips, and shifts around a torus, exactly.

(g f)(r) = f(g^-1 r) with r = (x, y) from the grid's centre, x to the right and y up, as escnn turns images and `taps` turns
kernels: a quarter turn is counter-clockwise as displayed. A map of features moves its pixels this way, and may also carry
a representation on its channels, which a fit finds once the pixels are moved back.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.graph.inputs import Inputs, map_tensors
from relaxify.groups import Group
from relaxify.random_elements import shortest_words


@dataclass(frozen=True)
class Pixels:
    """Where a value has its size x size pixels: on the axes `axis` and `axis` + 1 (from the end), or flattened in `axis`."""

    axis: int
    size: int
    flat: bool = False

    @property
    def axes(self) -> frozenset[int]:
        return frozenset({self.axis} if self.flat else {self.axis, self.axis + 1})

    def move(self, g: Float[Tensor, "d d"], value: Float[Tensor, "..."], image: int) -> Float[Tensor, "..."]:
        """The pixels moved by g, a matrix of the defining representation; shifts count pixels of an image of size `image`.

        >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> Pixels(-2, 2).move(quarter, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 2).tolist()
        [[2.0, 4.0], [1.0, 3.0]]
        """
        if self.flat:
            parts = value.unflatten(self.axis, (-1, self.size, self.size))
            moved = _move(g, parts, self.axis - 1, self.axis, image)
            return moved.flatten(self.axis - 2 + moved.ndim, self.axis + moved.ndim)
        return _move(g, value, self.axis, self.axis + 1, image)


def _move(g: Tensor, value: Tensor, rows: int, columns: int, image: int) -> Tensor:
    inverse = torch.linalg.inv(g[:2, :2].double())
    if not torch.allclose(inverse, inverse.round(), atol=1e-6):
        angle = math.degrees(math.atan2(float(g[1, 0]), float(g[0, 0])))
        raise ValueError(
            f"a turn by {angle:.0f} degrees moves pixels between pixels; name a group of quarter turns and flips, such as "
            "'C(4)' or 'D(4)', or pass input_action=lambda g, inputs: ... ."
        )
    # x = a x' + b y', y = c x' + d y', where columns go along x and rows against y
    (a, b), (c, d) = inverse.round().tolist()
    if b:
        value, a, d = value.transpose(rows, columns), -c, -b
    flipped = [axis for axis, sign in ((rows, d), (columns, a)) if sign < 0]
    value = value.flip(flipped) if flipped else value
    for axis, shift in ((columns, g[0, 2]), (rows, -g[1, 2])) if len(g) == 3 else ():
        value = _shifted(value, axis, float(shift), image)
    return value


def _shifted(value: Tensor, axis: int, shift: float, image: int) -> Tensor:
    """Pixels shifted around the torus; a map larger than the image is its continuation, a smaller one is coarser."""
    size = value.shape[axis]
    period = min(size, image)
    first = (size - period) // 2
    at = torch.arange(size) - first - round(shift * period / image)
    return value.index_select(axis, at % period + first)


def possible_pixels(shape: torch.Size, sizes: Collection[int]) -> Iterator[Pixels]:
    """Where a value of this shape may have pixels: on two axes of one size, or flattened maps of one of the `sizes`."""
    pairs = [axis for axis in range(-2, -len(shape), -1) if shape[axis] == shape[axis + 1] > 1]
    yield from (Pixels(axis, shape[axis]) for axis in pairs)
    for axis in range(-1, -len(shape), -1):
        yield from (Pixels(axis, n, flat=True) for n in sizes if shape[axis] % (n * n) == 0)


def acts_on_grid(group: Group) -> bool:
    """Whether the group is made of quarter turns and flips of the plane, or of shifts."""
    if group.name == "T(2)":
        return True
    if group.dim != 2 or len(group.generators):
        return False
    whole = group.finite.round()
    is_signed_permutation = (whole.abs().sum(-1) == 1).all() and (whole.abs().sum(-2) == 1).all()
    return bool(is_signed_permutation) and torch.allclose(whole, group.finite, atol=1e-9)


def is_image(tensor: Tensor) -> bool:
    """Whether a tensor is (batch, channels, height, width) with height = width."""
    return tensor.ndim == 4 and tensor.is_floating_point() and tensor.shape[-1] == tensor.shape[-2] > 1


def on_pixels(group: Group) -> Group:
    """The group as it acts on pixels: T(2) by whole pixels."""
    if group.name != "T(2)" or not len(group.generators):
        return group
    shifts = torch.eye(3, dtype=torch.float64) + group.generators
    return Group("T(2)", group.generators[:0], shifts, compact=False)


@dataclass(frozen=True)
class MovePixels:
    """(g, inputs) -> inputs in which every image has moved its pixels; axes of vectors, by their inputs' names, with g.

    (g f)(r) = f(g^-1 r), x to the right and y up: quarter turns are counter-clockwise as displayed, as escnn's are. An image
    that is named is a field of vectors, (g f)(r) = g f(g^-1 r), such as a wind: two channels, along x and along y (up).

    >>> MovePixels()(torch.diag(torch.tensor([-1.0, 1.0])), (torch.arange(4.0).reshape(1, 1, 2, 2),))[0][0, 0].tolist()
    [[1.0, 0.0], [3.0, 2.0]]
    >>> wind = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 3)  # to the right everywhere
    >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> MovePixels({"input.0": 1})(quarter, (wind,))[0][0, :, 0, 0].tolist()  # then up
    [0.0, 1.0]
    """

    vectors: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, g: Float[Tensor, "d d"], inputs: Inputs) -> Inputs:
        def move(name: str, tensor: Tensor) -> Tensor:
            moved = Pixels(-2, tensor.shape[-1]).move(g, tensor, tensor.shape[-1]) if is_image(tensor) else tensor
            if name not in self.vectors:
                return moved
            axis = self.vectors[name]
            return torch.tensordot(moved, g.to(moved), dims=([axis], [1])).movedim(-1, axis)

        moved: Inputs = map_tensors(move, inputs)
        return moved


def order(group: Group) -> int:
    """The number of elements of a finite group; 0 if it has more than can act on pixels.

    >>> order(Group.parse("D(4)"))
    8
    """
    is_infinite = len(group.generators) or group.name == "T(2)"
    return 0 if is_infinite else len(shortest_words(group.finite))
