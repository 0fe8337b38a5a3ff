"""Relaxed group convolutions over rotations C_n, and the lifting convolutions before them.

After "Approximately Equivariant Networks for Imperfectly Symmetric Dynamics" (Wang, Walters and Yu, ICML 2022, arXiv
2201.11969), sec. 4.1.
"""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.grids.taps import tap_positions
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify_examples.models.relaxed_convolution import NoActionError, Options, PerElement, RelaxedConv, hats, square


class RelaxedLiftingConv(RelaxedConv):
    """Channels that rotations leave alone -> regular fields of C_n: psi(g, x) = sum_l w_l(g) psi_l(g^-1 x).

    Quarter turns move taps to taps: with `order` 4 the layer is exactly equivariant while w is the same for all g. Other
    rotations read between taps by bilinear interpolation, and what they carry beyond the kernel's corners is lost: for those
    take escnn's kernels (RelaxedSteerableConv). Departs from the published code, which interpolates for n = 4 as well.

    >>> RelaxedLiftingConv(3, 8, 5)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 32, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_fields: int,
        kernel_size: int,
        *,
        order: int = 4,
        banks: int = 2,
        **options: Unpack[Options],
    ) -> None:
        size = square(kernel_size)
        super().__init__(
            (in_channels, out_fields),
            _lifting(tap_positions(size), order, size),
            torch.ones(order, 1),
            size=size,
            rule=PerElement(banks, "out", cyclic=True),
            **options,
        )

    def sample(self, positions: Tensor) -> Tensor:
        return _lifting(positions, len(self.invariant), self.size)

    def representations(self, group: Group) -> tuple[Representation, Representation]:
        return Representation.trivial(group, self.fields[0]), regular(group, len(self.invariant), self.fields[1])


class RelaxedGroupConv(RelaxedConv):
    """Regular fields of C_n -> regular fields: psi(g, h, x) = sum_l w_l(h) psi_l(g^-1 h, g^-1 x), from element h to g.

    See RelaxedLiftingConv for which n are exact. Departs from the published code, whose w_l depend on g where its paper,
    and this, has h, and which divides the start of w by n as well.

    >>> RelaxedGroupConv(8, 2, 3)(torch.zeros(2, 32, 16, 16)).shape
    torch.Size([2, 8, 16, 16])
    """

    def __init__(
        self,
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        order: int = 4,
        banks: int = 2,
        **options: Unpack[Options],
    ) -> None:
        size = square(kernel_size)
        super().__init__(
            (in_fields, out_fields),
            _between_elements(tap_positions(size), order, size),
            torch.ones(order, 1),
            size=size,
            rule=PerElement(banks, "in", cyclic=True),
            **options,
        )

    def sample(self, positions: Tensor) -> Tensor:
        return _between_elements(positions, len(self.invariant), self.size)

    def representations(self, group: Group) -> tuple[Representation, Representation]:
        into, out = (regular(group, len(self.invariant), fields) for fields in self.fields)
        return into, out


def regular(group: Group, order: int, fields: int) -> Representation:
    """Regular fields of C_n: (rho(g) f)(h) = f(g^-1 h). NoActionError if the group is not one of C_n's subgroups."""
    own = turns(order)
    steps = [[k for k in range(order) if g.shape == (2, 2) and torch.allclose(own[k], g, atol=1e-9)] for g in group.finite]
    if len(group.generators) or not all(steps):
        raise NoActionError(f"it is equivariant under C({order}), which does not contain {group.name}")
    shifts = [torch.eye(order, dtype=torch.float64).roll(found[0], 0) for found in steps]
    return Representation.of(group, "regular", fields, torch.stack(shifts))


def turns(order: int) -> Float[Tensor, "order 2 2"]:
    """The rotations of C_n, anticlockwise where x points to the right and y up."""
    generator = Group.parse(f"C({order})").finite[0]
    return torch.stack([torch.linalg.matrix_power(generator, k) for k in range(order)])


def _lifting(positions: Tensor, order: int, size: tuple[int, int]) -> Float[Tensor, "taps order 1 points"]:
    """hat_t(g^-1 x) for each tap t and each rotation g of C_n."""
    # rows times R are R^-1 times columns
    return hats(positions @ turns(order), size).permute(2, 0, 1)[:, :, None]


def _between_elements(positions: Tensor, order: int, size: tuple[int, int]) -> Float[Tensor, "b order order points"]:
    """hat_t(g^-1 x) where g^-1 h = k, for each k and t."""
    g, h = torch.arange(order)[:, None], torch.arange(order)
    chosen = ((h - g) % order == torch.arange(order)[:, None, None]).double()
    return torch.einsum("kgh,tgp->ktghp", chosen, _lifting(positions, order, size)[:, :, 0]).flatten(0, 1)
