"""Shift operators S_k, one for each tap of a convolution's kernel (LC Prop. 4), executed as the convolution itself.

[S_k]_{mu nu} = 1 where nu is the input point that tap k of output point mu reads after padding; where it reads a padded
zero, row mu is empty. A transposed convolution's are the transposes.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from relaxify.lconv.operators.family import Generators, Space
from relaxify.lconv.operators.matrices import Sparse

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
PADDING_MODES = ("zeros", "circular", "replicate", "reflect")


class Shifts(Generators):
    """The taps of a kernel as generators, on a space of any size.

    `mix` takes the convolution's own weights, (out, in / groups, *kernel_size) or (in, out / groups, *kernel_size) where
    `transposed`, and calls the convolution.

    >>> Shifts((2,), padding=((1, 0),)).dense((3,)).int().tolist()
    [[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]
    """

    def __init__(
        self,
        kernel_size: Space,
        *,
        stride: Space | None = None,
        padding: tuple[tuple[int, int], ...] | None = None,
        dilation: Space | None = None,
        padding_mode: str = "zeros",
        transposed: bool = False,
        output_padding: Space | None = None,
    ) -> None:
        ndim = len(kernel_size)
        super().__init__(math.prod(kernel_size), None, ndim=ndim)
        if not 1 <= ndim <= 3:
            raise ValueError(f"a kernel of {ndim} axes has no convolution; pass one, two or three sizes.")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode={padding_mode!r} is unknown; pass one of {', '.join(PADDING_MODES)}.")
        if transposed and padding_mode != "zeros":
            raise ValueError(f"a transposed convolution pads with zeros only, not {padding_mode!r}; leave padding_mode out.")
        self.kernel_size = kernel_size
        self.stride = stride or (1,) * ndim
        self.padding = padding or ((0, 0),) * ndim
        self.dilation = dilation or (1,) * ndim
        self.padding_mode = padding_mode
        self.transposed = transposed
        self.output_padding = output_padding or (0,) * ndim
        # F.pad counts axes from the last, and takes what a convolution's own padding cannot express
        self._pad = [amount for pair in reversed(self.padding) for amount in pair]
        symmetric = padding_mode == "zeros" and all(low == high for low, high in self.padding)
        self._convolution_padding = tuple(low for low, _ in self.padding) if symmetric else None

    def mix(
        self, h: Float[Tensor, "batch channels *space"], weight: Tensor, groups: int = 1
    ) -> Float[Tensor, "batch channels_out *out"]:
        """The convolution with kernel `weight`."""
        return self.convolve(h, weight, None, groups)

    def convolve(self, h: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """The convolution with its bias, which it adds more cheaply than a sum would."""
        run: Any = (_TRANSPOSED if self.transposed else _CONVOLUTIONS)[self.ndim - 1]
        padding = self._convolution_padding
        if self.transposed:
            return run(h, weight, bias, self.stride, padding, self.output_padding, groups, self.dilation)
        if padding is None:
            h, padding = self._padded(h), (0,) * self.ndim
        return run(h, weight, bias, self.stride, padding, self.dilation, groups)

    def act(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "count batch channels *out"]:
        if self.transposed:
            index = self.index(tuple(h.shape[2:]), h.device)
            reads = h.flatten(2)[..., index.clamp(min=0).flatten()].reshape(*h.shape[:2], *index.shape)
            return (reads * (index >= 0)).movedim(2, 0)
        out, padded = self.space_out(tuple(h.shape[2:])), self._padded(h)
        taps = itertools.product(*map(range, self.kernel_size))
        return torch.stack([padded[self._reads(tap, out)] for tap in taps])

    def _reads(self, tap: Space, out: Space) -> tuple[slice, ...]:
        """Where in the padded input a tap reads, for every sample and channel."""
        first = [i * dilation for i, dilation in zip(tap, self.dilation, strict=True)]
        axes = zip(first, self.stride, out, strict=True)
        return (slice(None), slice(None), *(slice(low, low + stride * (n - 1) + 1, stride) for low, stride, n in axes))

    def _padded(self, h: Tensor) -> Tensor:
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(h, self._pad, mode=mode) if any(self._pad) else h

    def index(self, space: Space, device: torch.device | None = None) -> Int[Tensor, "count *out"]:
        """The flat input point that each tap reads for each output point; -1 for a padded zero."""
        if self.transposed:
            return self._transposed_index(space, device)
        return _index(self, space, device)

    def _transposed_index(self, space: Space, device: torch.device | None) -> Int[Tensor, "count *out"]:
        """S_k^T of the convolution that goes the other way: where that reads nu for mu, this reads mu for nu."""
        out = self.space_out(space)
        forward = _index(self, out, device).flatten(1)
        # output padding may leave the other way with more points than there are
        points = torch.arange(math.prod(space), device=device)
        index = points.new_full((self.count, math.prod(out)), -1)
        kept = self._kept(out, space, device)
        for taken, read in zip(index, forward[:, kept], strict=True):
            taken[read[read >= 0]] = points[read >= 0]
        return index.reshape(self.count, *out)

    def _kept(self, out: Space, space: Space, device: torch.device | None) -> Int[Tensor, " points"]:
        """Which points of the other way's output are this family's input."""
        sizes = [_length(self, out, axis) for axis in range(self.ndim)]
        grid = torch.arange(math.prod(sizes), device=device).reshape(sizes)
        return grid[tuple(slice(0, size) for size in space)].flatten()

    def space_out(self, space: Space | None = None) -> Space:
        space = self.space_of(space)
        if not self.transposed:
            return tuple(_length(self, space, axis) for axis in range(self.ndim))
        return tuple(
            (size - 1) * self.stride[i]
            - sum(self.padding[i])
            + self.dilation[i] * (self.kernel_size[i] - 1)
            + self.output_padding[i]
            + 1
            for i, size in enumerate(space)
        )

    def transpose(self, space: Space | None = None) -> Sparse:
        index = self.index(self.space_of(space)).flatten(1)
        generator, mu = (index >= 0).nonzero().T
        rows = generator * math.prod(self.space_of(space)) + index[generator, mu]
        values = torch.ones(len(rows))
        return Sparse(torch.stack([rows, mu]), values, self.count, self.space_out(space), space_out=self.space_of(space))

    def weight_shape(self, channels_out: int, channels_in: int, groups: int = 1) -> tuple[int, ...]:
        first, second = (channels_in, channels_out) if self.transposed else (channels_out, channels_in)
        return first, second // groups, *self.kernel_size

    def per_generator(self, weight: Tensor, groups: int = 1) -> Float[Tensor, "count channels_out group_in"]:
        if self.transposed:
            by_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], self.count)
            return by_group.permute(3, 0, 2, 1).flatten(1, 2)
        return weight.flatten(2).movedim(2, 0)

    def pack(self, per_generator: Float[Tensor, "count channels_out group_in"], groups: int = 1) -> Tensor:
        """The convolution's weight from one matrix for each tap: what `per_generator` undoes."""
        if self.transposed:
            by_group = per_generator.unflatten(1, (groups, -1)).permute(1, 3, 2, 0)
            return by_group.reshape(-1, by_group.shape[2], *self.kernel_size)
        return per_generator.movedim(0, 2).reshape(*per_generator.shape[1:], *self.kernel_size)

    def act_cost(self, channels: int, space: Space | None = None) -> int:
        return 0

    def power(self) -> Float[Tensor, " count"]:
        # a tap of a transposed convolution reaches only one output point in stride^ndim
        return torch.ones(self.count) / (math.prod(self.stride) if self.transposed else 1)

    def extra_repr(self) -> str:
        given = f"{self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        return f"{given}, padding_mode={self.padding_mode!r}" + (", transposed=True" if self.transposed else "")


def _length(shifts: Shifts, space: Space, axis: int) -> int:
    reach = shifts.dilation[axis] * (shifts.kernel_size[axis] - 1) + 1
    length = (space[axis] + sum(shifts.padding[axis]) - reach) // shifts.stride[axis] + 1
    if length < 1:
        raise ValueError(f"a kernel that reaches over {reach} points does not fit {space}; pass a larger space.")
    return length


def _index(shifts: Shifts, space: Space, device: torch.device | None) -> Int[Tensor, "count *out"]:
    """The reads along each axis, then all of their combinations."""
    flat = torch.zeros((), dtype=torch.long, device=device)
    inside = torch.ones((), dtype=torch.bool, device=device)
    ndim = len(space)
    for axis in range(ndim):
        read, valid = _axis_index(shifts, space, axis, device)
        shape = [1] * (2 * ndim)
        shape[axis], shape[ndim + axis] = read.shape
        flat = flat * space[axis] + read.reshape(shape)
        inside = inside & valid.reshape(shape)
    flat, inside = torch.broadcast_tensors(flat, inside)
    return torch.where(inside, flat, -1).flatten(0, ndim - 1)


def _axis_index(shifts: Shifts, space: Space, axis: int, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """(taps, out): the point that each tap reads along one axis, and whether there is one."""
    size, low = space[axis], shifts.padding[axis][0]
    out = torch.arange(_length(shifts, space, axis), device=device) * shifts.stride[axis]
    taps = torch.arange(shifts.kernel_size[axis], device=device) * shifts.dilation[axis]
    read = taps[:, None] + out - low
    inside = (read >= 0) & (read < size)
    if shifts.padding_mode == "zeros":
        return read.clamp(0, size - 1), inside
    if shifts.padding_mode == "circular":
        return read % size, torch.ones_like(inside)
    if shifts.padding_mode == "replicate":
        return read.clamp(0, size - 1), torch.ones_like(inside)
    mirrored = read.abs()
    return torch.where(mirrored >= size, 2 * (size - 1) - mirrored, mirrored), torch.ones_like(inside)
