"""Convolutions as linear maps on patches: y(p) = sum over taps q of K(q) x(p + q), one patch of x for each output pixel.

A patch is what the kernel reads for one output pixel, and its feature vector has the channels outside and the taps inside,
as a kernel flattened to (channels_out, channels_in * taps) multiplies it. No image is unfolded to look at some patches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class Kernel(Protocol):
    """What an adapter knows of a library's convolutions: an object without state of its own, which must pickle."""

    parameter: str
    """The name of the parameter that a kernel is linear in."""

    def expand(self, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
        """The layer's kernel, as torch's convolutions take it, and its bias, from its parameters."""
        ...

    def of(self, layer: nn.Module, parameter: Tensor) -> Tensor:
        """The kernel that the layer would have with another value of its parameter."""
        ...

    def tensor(self, value: Any) -> Tensor:
        """The tensor in what the layer is called with."""
        ...

    def wrap(self, layer: nn.Module, tensor: Tensor, value: Any) -> Any:
        """What the layer returns for an output `tensor` of the input `value`."""
        ...

    def refresh(self, layer: nn.Module) -> None:
        """Make anew, without gradients, what the layer keeps of its parameters in eval mode.

        Or, if the convolution is `symmetrised`, write the symmetric part of the parameter into it. Such a kernel has that
        part's orthonormal basis B as `symmetriser`: P = B^T B, for `symmetrised`.
        """
        ...

    def cached(self) -> tuple[str, ...]:
        """The names of the buffers that exist in eval mode only."""
        ...


def symmetrised(
    kernel: Float[Tensor, "first second *taps"], projection: Float[Tensor, "all_taps all_taps"]
) -> Float[Tensor, "first second *taps"]:
    """K P: of each pair of channels what an orthogonal projection leaves of its taps."""
    return (kernel.flatten(2) @ projection.to(kernel)).view_as(kernel)


@dataclass(frozen=True)
class Convolution:
    """How a layer convolves. All tuples have an entry for each pixel axis; without any, it is a linear layer.

    `symmetrised`: the layer's parameter is any kernel, of which `kernel.expand` gives the symmetric part.

    >>> Convolution(kernel=None, size=(3, 3), padding=(1, 1)).patches(torch.ones(2, 5, 8, 8))[torch.tensor([0])].shape
    torch.Size([1, 45])
    """

    kernel: Any
    size: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    padding_mode: str = "zeros"
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = (0, 0)
    symmetrised: bool = False

    @property
    def taps(self) -> int:
        return math.prod(self.size)

    @property
    def padded(self) -> tuple[int, ...]:
        """The padding as torch.nn.functional.pad takes it: the last axis first, both sides."""
        return tuple(side for amount in reversed(self.padding) for side in (amount, amount))

    def apply(
        self, x: Float[Tensor, "..."], kernel: Float[Tensor, "..."], bias: Tensor | None = None
    ) -> Float[Tensor, "..."]:
        """The convolution with this kernel."""
        dims = len(self.size)
        if not dims:
            return F.linear(x, kernel, bias)
        if self.transposed:
            return _TRANSPOSED[dims](
                x, kernel, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
            )
        if self.padding_mode == "zeros":
            return _CONVOLVE[dims](x, kernel, bias, self.stride, self.padding, self.dilation, self.groups)
        x = F.pad(x, self.padded, self.padding_mode)
        return _CONVOLVE[dims](x, kernel, bias, self.stride, 0, self.dilation, self.groups)

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

    def output_size(self, axis: int, length: int) -> int:
        """The length of a pixel axis after the convolution."""
        reach = self.dilation[axis] * (self.size[axis] - 1) + 1
        if self.transposed:
            return (length - 1) * self.stride[axis] - 2 * self.padding[axis] + reach + self.output_padding[axis]
        return (length + 2 * self.padding[axis] - reach) // self.stride[axis] + 1


@dataclass(frozen=True)
class Patches:
    """All patches of a batch of images, batch by batch and row by row; indexing gathers those asked for, and no others."""

    convolution: Convolution
    x: Float[Tensor, "batch channels *pixels"]

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def grid(self) -> tuple[int, ...]:
        """The output's pixel axes."""
        return tuple(self.convolution.output_size(axis, n) for axis, n in enumerate(self.x.shape[2:]))

    def __len__(self) -> int:
        return len(self.x) * math.prod(self.grid)

    def __getitem__(self, index: Int[Tensor, " k"]) -> Float[Tensor, "k n"]:
        """The patches at these places among all, as rows."""
        where: list[Tensor] = []
        valid = None
        for axis in reversed(range(len(self.grid))):
            place, inside = self._read(axis, index % self.grid[axis])
            where.insert(0, place)
            valid = inside if valid is None else valid & inside
            index = index // self.grid[axis]
        found = self.x.movedim(1, -1)[(index[:, None] if where else index, *where)]
        if valid is None:
            return found
        return torch.where(valid[..., None], found, 0).transpose(1, 2).flatten(1)

    def all(self) -> Float[Tensor, "rows n"]:
        """Every patch: an image for each tap."""
        return self[torch.arange(len(self), device=self.device)]

    def _read(self, axis: int, out: Int[Tensor, " k"]) -> tuple[Int[Tensor, "k taps"], Bool[Tensor, "k taps"]]:
        """Which input pixel each tap of these output pixels reads on one axis, and whether there is one."""
        convolution, length = self.convolution, self.x.shape[2 + axis]
        tap = self._taps(axis, out.device) * convolution.dilation[axis]
        if convolution.transposed:
            place = out[:, None] + convolution.padding[axis] - tap
            inside = place % convolution.stride[axis] == 0
            place = place // convolution.stride[axis]
        else:
            place = out[:, None] * convolution.stride[axis] - convolution.padding[axis] + tap
            inside = torch.ones_like(place, dtype=torch.bool)
        mode = convolution.padding_mode
        if mode == "circular":
            return place % length, inside
        if mode == "reflect":
            return (length - 1) - (place.abs() - (length - 1)).abs(), inside
        clamped = place.clamp(0, length - 1)
        return clamped, inside if mode == "replicate" else inside & (clamped == place)

    def _taps(self, axis: int, device: torch.device) -> Int[Tensor, " taps"]:
        """The position on one axis of each tap, the last axis's varying fastest."""
        size = self.convolution.size
        return torch.tensor([tap[axis] for tap in itertools.product(*map(range, size))], device=device)
