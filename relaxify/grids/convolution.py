"""The geometry of convolutions: which input pixel each tap of each output pixel reads, for every setting that torch knows.

On each axis tap q of output pixel p reads input pixel stride p - low + dilation q; of a transposed convolution it is
(p + low - dilation q) / stride, where that is a whole number. `low` is the padding before the first pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Space = tuple[int, ...]
"""The lengths of the pixel axes."""

CONVOLUTIONS: dict[type[nn.Module], int] = {
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
"""torch's own convolutions, and how many pixel axes they have."""

PADDING_MODES = ("zeros", "circular", "replicate", "reflect")

G = TypeVar("G", bound="Geometry")

_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class Geometry:
    """Settings of a convolution. All tuples have an entry for each pixel axis; without any axis, it is a linear layer.

    `padding` has a pair for each axis, before the first pixel and after the last; stride and dilation are 1, paddings 0
    where nothing else is given.

    ValueError for an unknown padding mode, and for a transposed convolution with padding other than torch's.

    >>> Geometry((3, 3), padding=((1, 1), (1, 1))).patches(torch.ones(2, 5, 8, 8))[torch.tensor([0])].shape
    torch.Size([1, 45])
    """

    size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    padding_mode: str = "zeros"
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        dims = len(self.size)
        unset = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,), "output_padding": (0,)}
        for name, value in unset.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value * dims)
        if self.padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode={self.padding_mode!r} is unknown; pass one of {', '.join(PADDING_MODES)}.")
        if self.transposed and self.padding_mode != "zeros":
            raise ValueError(
                f"a transposed convolution pads with zeros only, not {self.padding_mode!r}; leave padding_mode out."
            )
        if self.transposed and not self._pads_alike:
            raise ValueError(f"a transposed convolution pads both sides alike, not by {self.padding}; pass equal pairs.")

    @classmethod
    def from_torch(
        cls: type[G],
        size: tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        output_padding: int | tuple[int, ...] = 0,
        **others: Any,
    ) -> G:
        """From settings as torch takes them: one number for all axes or one for each; padding also "same" or "valid".

        >>> Geometry.from_torch((2, 3), padding="same").padding
        ((0, 1), (1, 1))
        """
        dims = len(size)
        dilation = _each(dilation, dims)
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
            sides = tuple((total // 2, total - total // 2) for total in totals)
        else:
            sides = tuple((n, n) for n in _each(0 if isinstance(padding, str) else padding, dims))
        strides, extra = _each(stride, dims), _each(output_padding, dims)
        return cls(size, stride=strides, padding=sides, dilation=dilation, output_padding=extra, **others)

    @classmethod
    def of(cls: type[G], layer: nn.Module, **others: Any) -> G:
        """Of one of torch's own convolutions.

        >>> Geometry.of(nn.Conv2d(4, 8, 3, stride=2, padding=1)).space_out((7, 8))
        (4, 4)
        """
        conv: Any = layer
        names = ("stride", "padding", "dilation", "padding_mode", "groups", "transposed", "output_padding")
        return cls.from_torch(tuple(conv.kernel_size), **{name: getattr(conv, name) for name in names}, **others)

    @property
    def taps(self) -> int:
        return math.prod(self.size)

    @property
    def reach(self) -> tuple[int, ...]:
        """How many pixels a kernel spans on each axis, from its first tap to its last."""
        return tuple(dilation * (size - 1) + 1 for dilation, size in zip(self.dilation, self.size, strict=True))

    @property
    def shift(self) -> tuple[float, ...]:
        """How far the padding moves the output's middle from the input's, in input pixels along each axis."""
        return tuple((high - low) / 2 for low, high in self.padding)

    @property
    def _pads_alike(self) -> bool:
        return all(low == high for low, high in self.padding)

    def in_groups(self: G, groups: int) -> G:
        """The same geometry with its channels in this many groups."""
        return self if groups == self.groups else replace(self, groups=groups)

    def space_out(self, space: Space) -> Space:
        """The pixel axes after the convolution. ValueError if the kernel does not fit."""
        lengths = tuple(self._length_out(axis, length) for axis, length in enumerate(space))
        if min(lengths, default=1) < 1:
            raise ValueError(
                f"a kernel that reaches over {max(self.reach)} points does not fit {space}; pass a larger space."
            )
        return lengths

    def _length_out(self, axis: int, length: int) -> int:
        padding, reach = sum(self.padding[axis]), self.reach[axis]
        if self.transposed:
            return (length - 1) * self.stride[axis] - padding + reach + self.output_padding[axis]
        return (length + padding - reach) // self.stride[axis] + 1

    def left_over(self, axis: int, length: int) -> int:
        """How many pixels after the last window no window reads."""
        return (length + sum(self.padding[axis]) - self.reach[axis]) % self.stride[axis]

    def reads(self, space: Space, points: Int[Tensor, "*points"]) -> Int[Tensor, "*points taps"]:
        """The input pixel that each tap reads for these output pixels, all counted row by row; -1 for a padded zero.

        >>> Geometry((2,), padding=((1, 0),)).reads((3,), torch.arange(3)).tolist()
        [[-1, 0], [0, 1], [1, 2]]
        """
        flat, pitch, space_out = torch.zeros_like(points)[..., None], 1, self.space_out(space)
        # so low that no other axis makes up for it
        absent = -math.prod(space)
        # the last axis varies fastest, among pixels as among taps
        for axis in reversed(range(len(space))):
            place = self._reads_on(axis, space[axis], points % space_out[axis], absent)
            flat = (place[..., :, None] * pitch + flat[..., None, :]).flatten(-2)
            points, pitch = points // space_out[axis], pitch * space[axis]
        return flat.clamp(min=-1)

    def _reads_on(self, axis: int, length: int, out: Int[Tensor, "*points"], absent: int) -> Int[Tensor, "*points size"]:
        """Which pixel the taps along one axis read; `absent` where there is none."""
        low, stride = self.padding[axis][0], self.stride[axis]
        tap = torch.arange(self.size[axis], device=out.device) * self.dilation[axis]
        if self.transposed:
            ahead = out[..., None] + low - tap
            place = torch.where(ahead % stride == 0, ahead // stride, absent)
        else:
            place = out[..., None] * stride - low + tap
        if self.padding_mode == "circular":
            return place % length
        if self.padding_mode == "reflect":
            return (length - 1) - (place.abs() - (length - 1)).abs()
        inside = place.clamp(0, length - 1)
        return inside if self.padding_mode == "replicate" else torch.where(inside == place, place, absent)

    def padded(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The input with its padding."""
        # F.pad takes the last axis first
        sides = [side for pair in reversed(self.padding) for side in pair]
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, sides, mode) if any(sides) else x

    def apply(
        self, x: Float[Tensor, "..."], kernel: Float[Tensor, "..."], bias: Tensor | None = None
    ) -> Float[Tensor, "..."]:
        """The convolution with this kernel, by torch."""
        dims, padding = len(self.size), tuple(low for low, _ in self.padding)
        if not dims:
            return F.linear(x, kernel, bias)
        if self.transposed:
            return _TRANSPOSED[dims](x, kernel, bias, self.stride, padding, self.output_padding, self.groups, self.dilation)
        if self.padding_mode != "zeros" or not self._pads_alike:
            x, padding = self.padded(x), (0,) * dims
        return _CONVOLVE[dims](x, kernel, bias, self.stride, padding, self.dilation, self.groups)

    def as_matrix(self, kernel: Float[Tensor, "..."]) -> Float[Tensor, "c_out group_in"]:
        """A kernel as the matrix that acts on a patch, of one group's input channels if there are groups."""
        if self.transposed:
            kernel = kernel.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        return kernel.flatten(1)

    def as_kernel(self, matrix: Float[Tensor, "c_out group_in"]) -> Float[Tensor, "..."]:
        """The inverse of `as_matrix`."""
        kernel = matrix.reshape(len(matrix), -1, *self.size)
        if self.transposed:
            kernel = kernel.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        return kernel

    def blocks(self, matrix: Float[Tensor, "c_out group_in"]) -> Float[Tensor, "c_out n_in"]:
        """The matrix that acts on a patch of all channels: each group's outputs read its own inputs."""
        return matrix if self.groups == 1 else torch.block_diag(*matrix.chunk(self.groups))

    def patches(self, x: Float[Tensor, "..."]) -> Patches:
        """The patches of x, one for each pixel of the output."""
        return Patches(self, x.detach())


@dataclass(frozen=True)
class Patches:
    """All patches of a batch of images, batch by batch and row by row; indexing gathers those asked for, and no others.

    A patch is what the kernel reads for one output pixel. Its feature vector has the channels outside and the taps inside,
    as the kernel's matrix multiplies it.
    """

    geometry: Geometry
    x: Float[Tensor, "batch channels *pixels"]

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def pixels(self) -> int:
        """How many pixels an output image has."""
        return math.prod(self.geometry.space_out(tuple(self.x.shape[2:])))

    def __len__(self) -> int:
        return len(self.x) * self.pixels

    def __getitem__(self, index: Int[Tensor, " k"]) -> Float[Tensor, "k n"]:
        """The patches at these places among all, as rows."""
        image, pixels = self.x.flatten(2) if self.x.ndim > 2 else self.x[..., None], self.pixels
        pixel = self.geometry.reads(tuple(self.x.shape[2:]), index % pixels)
        found = image.mT[(index // pixels)[:, None], pixel.clamp(min=0)]
        return torch.where(pixel[..., None] >= 0, found, 0).mT.flatten(1)

    def all(self) -> Float[Tensor, "rows n"]:
        """Every patch: an image for each tap."""
        return self[torch.arange(len(self), device=self.device)]


def _each(value: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * dims
    return tuple(value) * dims if len(value) == 1 else tuple(value)
