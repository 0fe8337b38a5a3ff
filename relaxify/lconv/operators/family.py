"""The interface that every form of the generators L_i has: linear operators on the space axes, applied and never formed."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.lconv.operators.exponential import exponential_action

Space = tuple[int, ...]

LARGEST_DENSE = 2**30
"""Bytes that `dense` forms without being told a higher limit."""


class Generators(nn.Module):
    """n_L linear operators L_i from a space of `space` points (an image's pixels, a graph's nodes) to another.

    They act on `(batch, channels, *space)`, on the space axes alone. A family whose `space` is None, such as shifts, acts
    on a space of any size. What a form must define is `act`; what it can do faster than by `act` it overrides. `act` is
    not named `apply`, by which nn.Module lets initialisers walk its children.
    """

    def __init__(self, count: int, space: Space | None, *, ndim: int | None = None, space_out: Space | None = None) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"a family of {count} generators generates nothing; pass at least one.")
        self.count = count
        self.space = space
        self.ndim = len(space) if space is not None else ndim or 1
        self._space_out = space_out

    def act(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "count batch channels *out"]:
        """All L_i h, stacked."""
        raise NotImplementedError

    def transpose(self, space: Space | None = None) -> Generators:
        """The family of the L_i^T. `space`, the input's, is needed where the family acts on any."""
        raise NotImplementedError

    def space_out(self, space: Space | None = None) -> Space:
        """The space that the L_i map into."""
        return self._space_out or self.space_of(space)

    def mix(
        self, h: Float[Tensor, "batch channels *space"], weight: Tensor, groups: int = 1
    ) -> Float[Tensor, "batch channels_out *out"]:
        """sum_i L_i h W^i (LC eq. 6), in the cheapest order that this form has."""
        return mix_channels(self.act(h), self.per_generator(weight, groups), groups)

    def weight_shape(self, channels_out: int, channels_in: int, groups: int = 1) -> tuple[int, ...]:
        """Shape of the weights W that `mix` takes."""
        return self.count, channels_out, channels_in // groups

    def per_generator(self, weight: Tensor, groups: int = 1) -> Float[Tensor, "count channels_out group_in"]:
        """W^i as one matrix for each generator, from `mix`'s weights."""
        return weight

    def combine(
        self, coefficients: Float[Tensor, " count"], h: Float[Tensor, "batch channels *space"]
    ) -> Float[Tensor, "batch channels *out"]:
        """sum_i t_i L_i h."""
        return torch.einsum("n,n...->...", coefficients.to(h.dtype), self.act(h))

    def expm_apply(
        self, coefficients: Float[Tensor, " count"], h: Float[Tensor, "batch channels *space"]
    ) -> Float[Tensor, "batch channels *space"]:
        """exp(sum_i t_i L_i) h, without a matrix. ValueError if the L_i map into another space."""
        space = tuple(h.shape[2:])
        if self.space_out(space) != space:
            raise ValueError(
                f"generators from {space} to {self.space_out(space)} have no exponential; use ones of one space."
            )
        return exponential_action(lambda v: self.combine(coefficients, v), h)

    def dense(
        self, space: Space | None = None, *, dtype: torch.dtype | None = None, limit: int = LARGEST_DENSE
    ) -> Float[Tensor, "count d_out d_in"]:
        """The matrices themselves. ValueError, with the size they would take, above `limit` bytes."""
        space = self.space_of(space)
        dtype = dtype or self.numbers.dtype
        d_in, d_out = math.prod(space), math.prod(self.space_out(space))
        check_size(self.count, d_out, d_in, dtype, limit)
        basis = torch.eye(d_in, dtype=dtype, device=self.numbers.device).reshape(1, d_in, *space)
        return self.act(basis).reshape(self.count, d_in, d_out).mT

    def power(self, space: Space | None = None) -> Float[Tensor, " count"]:
        """The mean squared norm of each L_i's rows: how much L_i multiplies the variance of independent inputs.

        `space`, the input's, is needed where the family acts on any and its rows are not alike on all.
        """
        space = self.space_of(space)
        noise = torch.randn(1, 32, *space, generator=torch.Generator().manual_seed(0)).to(self.numbers)
        return self.act(noise).detach().flatten(1).square().mean(1).to(torch.get_default_dtype())

    @property
    def power_depends_on_space(self) -> bool:
        """Whether `power` needs the space of the inputs, because rows are not alike on all."""
        return False

    @property
    def numbers(self) -> Tensor:
        """One of the tensors that say what the L_i are: it has their type and device. Empty if there are none."""
        return next((t for t in (*self.parameters(), *self.buffers()) if t.is_floating_point()), torch.empty(0))

    def space_of(self, space: Space | None) -> Space:
        """The input's space: the family's own, or the one given. ValueError if there is none, or if they disagree."""
        if space is None and self.space is None:
            raise ValueError(f"{type(self).__name__} acts on a space of any size; say which, as space=(height, width).")
        if space is not None and self.space is not None and tuple(space) != self.space:
            raise ValueError(f"{type(self).__name__} acts on a space of {self.space}, not {tuple(space)}; pass that.")
        return tuple(space or self.space or ())

    def flat(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels d"]:
        """h with its space axes as one. ValueError unless they are this family's."""
        if tuple(h.shape[2:]) != self.space:
            raise ValueError(
                f"{type(self).__name__} acts on a space of {self.space}, and the input is {tuple(h.shape)}; "
                f"pass (batch, channels, {', '.join(map(str, self.space or ()))})."
            )
        return h.flatten(2)

    def extra_repr(self) -> str:
        return f"{self.count}" + (f", space={self.space}" if self.space else "")


def mix_channels(
    stack: Float[Tensor, "count batch channels *out"],
    weight: Float[Tensor, "count channels_out group_in"],
    groups: int = 1,
) -> Float[Tensor, "batch channels_out *out"]:
    """sum_i W^i (L_i h), W^i on channels (in `groups` blocks, as in a convolution)."""
    count, batch, channels, *out = stack.shape
    blocks = stack.reshape(count, batch, groups, channels // groups, math.prod(out))
    kernels = weight.unflatten(1, (groups, weight.shape[1] // groups))
    return torch.einsum("nbgcs,ngoc->bgos", blocks, kernels).reshape(batch, weight.shape[1], *out)


def check_size(count: int, d_out: int, d_in: int, dtype: torch.dtype, limit: int) -> None:
    """ValueError if `count` matrices of d_out x d_in take more than `limit` bytes."""
    size = count * d_out * d_in * dtype.itemsize
    if size > limit:
        raise ValueError(
            f"{count} dense generators of {d_out} x {d_in} would take {size / 1e9:.1f} GB, and the limit is "
            f"{limit / 1e9:.1f} GB; apply them with `act` or `mix`, or pass limit={size}."
        )
