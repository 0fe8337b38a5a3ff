"""Shift operators S_k, one for each tap of a convolution's kernel (LC Prop. 4), executed as the convolution itself.

[S_k]_{mu nu} = 1 where nu is the input point that tap k of output point mu reads after padding; where it reads a padded
zero, row mu is empty. A transposed convolution's are the transposes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.grids.convolution import Geometry
from relaxify.lconv.operators.family import Generators, Space
from relaxify.lconv.operators.matrices import Sparse


def _is_fill(more: int, stride: int) -> bool:
    return 0 <= more < stride


class Shifts(Generators):
    """The taps of a kernel as generators, on a space of any size.

    `mix` takes the convolution's own weights, (out, in / groups, *kernel_size) or (in, out / groups, *kernel_size) where
    `transposed`, and calls the convolution. `padding` has a pair for each axis, before the first point and after the last.

    >>> Shifts((2,), padding=((1, 0),)).dense((3,)).int().tolist()
    [[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]]
    """

    def __init__(
        self,
        kernel_size: Space,
        *,
        stride: Space = (),
        padding: tuple[tuple[int, int], ...] = (),
        dilation: Space = (),
        padding_mode: str = "zeros",
        transposed: bool = False,
        output_padding: Space = (),
    ) -> None:
        super().__init__(math.prod(kernel_size), None, ndim=len(kernel_size))
        if not 1 <= self.ndim <= 3:
            raise ValueError(f"a kernel of {self.ndim} axes has no convolution; pass one, two or three sizes.")
        self.geometry = Geometry(
            kernel_size, stride, padding, dilation, padding_mode, transposed=transposed, output_padding=output_padding
        )

    @classmethod
    def of(cls, geometry: Geometry) -> Shifts:
        """The taps of a convolution, which may be in groups.

        >>> Shifts.of(Geometry.of(torch.nn.Conv2d(3, 8, 3, padding="same")))
        Shifts((3, 3), stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), padding_mode='zeros')
        """
        shifts = cls(geometry.size)
        shifts.geometry = geometry.in_groups(1)
        return shifts

    def mix(
        self, h: Float[Tensor, "batch channels *space"], weight: Tensor, groups: int = 1
    ) -> Float[Tensor, "batch channels_out *out"]:
        """The convolution with kernel `weight`."""
        return self.convolve(h, weight, None, groups)

    def convolve(self, h: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """The convolution with its bias, which it adds more cheaply than a sum would."""
        return self.geometry.in_groups(groups).apply(h, weight, bias)

    def sized(self, shape: Space, output_size: Space) -> Shifts:
        """The same that pad their output such that input of this shape has this output. ValueError if none does."""
        smallest = replace(self.geometry, output_padding=(0,) * self.ndim).space_out(shape[-self.ndim :])
        wanted = output_size[-self.ndim :]
        more = tuple(large - small for large, small in zip(wanted, smallest, strict=False))
        if not self.geometry.transposed or len(more) < self.ndim or not all(map(_is_fill, more, self.geometry.stride)):
            raise ValueError(
                f"output_size={tuple(output_size)} is none of a convolution whose smallest is {smallest} here; pass one "
                f"that is less than a stride of {self.geometry.stride} larger."
            )
        return Shifts.of(replace(self.geometry, output_padding=more))

    def act(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "count batch channels *out"]:
        space = tuple(h.shape[2:])
        if self.geometry.transposed:
            index = self.index(space, h.device)
            reads = h.flatten(2)[..., index.clamp(min=0).flatten()].reshape(*h.shape[:2], *index.shape)
            return torch.where(index >= 0, reads, 0).movedim(2, 0)
        # slices of the padded input, whose gradients cost less than those of an index
        out, padded = self.space_out(space), self.geometry.padded(h)
        return torch.stack([padded[self._slices(tap, out)] for tap in itertools.product(*map(range, self.geometry.size))])

    def _slices(self, tap: Space, out: Space) -> tuple[slice, ...]:
        """Where in the padded input a tap reads, for every sample and channel."""
        axes = zip(tap, self.geometry.dilation, self.geometry.stride, out, strict=True)
        return (
            slice(None),
            slice(None),
            *(slice(q * dilation, q * dilation + stride * (n - 1) + 1, stride) for q, dilation, stride, n in axes),
        )

    def index(self, space: Space, device: torch.device | None = None) -> Int[Tensor, "count *out"]:
        """The flat input point that each tap reads for each output point; -1 for a padded zero."""
        out = self.space_out(space)
        points = torch.arange(math.prod(out), device=device).reshape(out)
        return self.geometry.reads(space, points).movedim(-1, 0)

    def space_out(self, space: Space | None = None) -> Space:
        return self.geometry.space_out(self.space_of(space))

    def transpose(self, space: Space | None = None) -> Sparse:
        index = self.index(self.space_of(space)).flatten(1)
        generator, mu = (index >= 0).nonzero().T
        rows = generator * math.prod(self.space_of(space)) + index[generator, mu]
        values = torch.ones(len(rows))
        return Sparse(torch.stack([rows, mu]), values, self.count, self.space_out(space), space_out=self.space_of(space))

    def weight_shape(self, channels_out: int, channels_in: int, groups: int = 1) -> tuple[int, ...]:
        first, second = (channels_in, channels_out) if self.geometry.transposed else (channels_out, channels_in)
        return first, second // groups, *self.geometry.size

    def per_generator(self, weight: Tensor, groups: int = 1) -> Float[Tensor, "count channels_out group_in"]:
        matrix = self.geometry.in_groups(groups).as_matrix(weight)
        return matrix.unflatten(1, (-1, self.count)).movedim(-1, 0)

    def pack(self, per_generator: Float[Tensor, "count channels_out group_in"], groups: int = 1) -> Tensor:
        """The convolution's weight from one matrix for each tap: what `per_generator` undoes."""
        return self.geometry.in_groups(groups).as_kernel(per_generator.movedim(0, -1).flatten(1))

    def power(self, space: Space | None = None) -> Float[Tensor, " count"]:
        # a tap of a transposed convolution reaches only one output point in stride^ndim
        return torch.ones(self.count) / (math.prod(self.geometry.stride) if self.geometry.transposed else 1)

    def extra_repr(self) -> str:
        own = self.geometry
        given = f"{own.size}, stride={own.stride}, padding={own.padding}, dilation={own.dilation}"
        return f"{given}, padding_mode={own.padding_mode!r}" + (", transposed=True" if own.transposed else "")
