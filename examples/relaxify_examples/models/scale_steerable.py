"""Kernels on a ladder of scales: K_s(x) = d_s^-2 psi(x / d_s) with dilations d_s = a^(S-1-s), from coarse to fine.

After "Scale-Equivariant Steerable Networks" (Sosnovik, Szmaja and Smeulders, ICLR 2020, arXiv 1910.11093), whose psi are
Hermite polynomials times Gaussians. psi is the finest scale's kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.grids.taps import tap_positions
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify_examples.models.relaxed_convolution import NoActionError, hats, square

Functions = Callable[[Float[Tensor, "*points 2"]], Float[Tensor, "*points functions"]]


@dataclass(frozen=True)
class Ladder:
    """`scales` scales, each `step` times finer than the one before; kernels lead from scales s, s+1, ... s+reach-1 to s.

    An image enlarged by a has at scale s what the image had at scale s+1: (rho(a) x)_s = x_(s+1), and nothing at the last.
    Since no scale is read that is coarser than the one written, kernels commute with this although it loses a scale.
    """

    scales: int = 3
    step: float = 2**0.5
    reach: int = 1

    def __post_init__(self) -> None:
        if self.step <= 1 or not 1 <= self.reach <= self.scales:
            raise ValueError(f"{self} is not a ladder; pass a step above 1 and a reach from 1 to the number of scales.")

    @property
    def dilations(self) -> Float[Tensor, " scales"]:
        return self.step ** torch.arange(self.scales - 1, -1, -1, dtype=torch.float64)

    def size(self, kernel_size: int) -> tuple[int, int]:
        """As many taps as lie within what the first tap beyond a kernel of this size is at the coarsest scale."""
        reach = (kernel_size // 2 + 1) * self.step ** (self.scales - 1)
        return square(2 * math.ceil(reach - 1 - 1e-9) + 1)

    def kernels(self, functions: Functions, positions: Float[Tensor, "points 2"]) -> Float[Tensor, "b scales scales points"]:
        """For each step from a scale to a finer one that is read, and each function psi, the kernels K_s."""
        dilations = self.dilations
        values = functions(positions / dilations[:, None, None]) / dilations[:, None, None].square()
        steps = torch.arange(self.scales) - torch.arange(self.scales)[:, None]
        read = (steps == torch.arange(self.reach)[:, None, None]).double()
        return torch.einsum("dst,spb->dbstp", read, values).flatten(0, 1)

    def representation(self, group: Group, fields: int) -> Representation:
        """How dilations by powers of the step shift the scales. NoActionError for another group."""
        shifts = [self._shift(matrix, group) for matrix in group.finite]
        if not shifts or len(group.generators):
            raise NoActionError(f"its features have scales, on which {group.name} does not act")
        return Representation.of(group, "scales", fields, torch.stack(shifts))

    def _shift(self, matrix: Tensor, group: Group) -> Float[Tensor, "scales scales"]:
        factor = float(matrix[0, 0])
        if matrix.shape != (2, 2) or factor <= 0 or not torch.allclose(matrix, factor * torch.eye(2).double()):
            raise NoActionError(f"its features have scales, on which {group.name} does not act")
        steps = round(math.log(factor) / math.log(self.step))
        if steps == 0 or abs(steps) >= self.scales or abs(self.step**steps / factor - 1) > 1e-6:
            ladder = f"{self.scales} scales with a factor of {self.step:.4g} between them"
            raise NoActionError(f"its features have {ladder}, of which {group.name} takes none to another")
        if steps < 0 and self.reach > 1:
            raise NoActionError(f"scales read finer ones, which {group.name} takes off the ladder; pass a factor above 1")
        return torch.diag(torch.ones(self.scales - abs(steps), dtype=torch.float64), steps)


def hermite_gauss(kernel_size: int) -> Functions:
    """H_m(x/w) H_n(y/w) exp(-|x|^2 / 2w^2) for m, n < kernel_size and w a fifth of it, of norm 1 on a kernel's taps."""
    taps, width = tap_positions(square(kernel_size)), kernel_size / 5

    def functions(positions: Tensor) -> Tensor:
        along = _hermite(positions / width, kernel_size) * (-(positions / width).square() / 2).exp()[..., None]
        return (along[..., 0, :, None] * along[..., 1, None, :]).flatten(-2)

    return lambda positions: functions(positions) / functions(taps).norm(dim=0)


def _hermite(x: Float[Tensor, "*points"], count: int) -> Float[Tensor, "*points count"]:
    """The first of He_0 = 1, He_1 = x, He_(n+1) = x He_n - n He_(n-1)."""
    polynomials = [torch.ones_like(x), x]
    for n in range(1, count - 1):
        polynomials.append(x * polynomials[n] - n * polynomials[n - 1])
    return torch.stack(polynomials[:count], -1)


def interpolated(kernel_size: int) -> Functions:
    """A kernel of any values at its taps, bilinear between them and falling to 0 around."""
    return lambda positions: hats(positions, square(kernel_size))
