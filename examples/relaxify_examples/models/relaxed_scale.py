"""Relaxed convolutions over scales: steerable, with coefficients that vary over taps, and of filter banks of each scale.

After "Approximately Equivariant Networks for Imperfectly Symmetric Dynamics" (Wang, Walters and Yu, ICML 2022, arXiv
2201.11969). An image enters a stack of such layers repeated at every scale, and their mean over the scales leaves it; both
are exact but for the ladder's ends.
"""

from __future__ import annotations

import abc
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.grids.taps import tap_positions
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify_examples.models.relaxed_convolution import Options, PerElement, PerTap, RelaxedConv
from relaxify_examples.models.scale_steerable import Functions, Ladder, hermite_gauss, interpolated


class RepeatOverScales(nn.Module):
    """Channels -> fields with the same at every scale: [batch, c, h, w] -> [batch, c * scales, h, w].

    >>> RepeatOverScales(3)(torch.zeros(1, 2, 8, 8)).shape
    torch.Size([1, 6, 8, 8])
    """

    def __init__(self, scales: int) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, x: Float[Tensor, "batch c height width"]) -> Float[Tensor, "batch c_scales height width"]:
        return x.repeat_interleave(self.scales, 1)


class MeanOverScales(nn.Module):
    """The mean of each field over its scales: [batch, c * scales, h, w] -> [batch, c, h, w].

    >>> MeanOverScales(3)(torch.zeros(1, 6, 8, 8)).shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(self, scales: int) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, x: Float[Tensor, "batch c_scales height width"]) -> Float[Tensor, "batch c height width"]:
        return x.unflatten(1, (-1, self.scales)).mean(2)


class _OnLadder(RelaxedConv):
    """Fields with an axis of scales, whose kernels are one function dilated to each scale."""

    def __init__(
        self, fields: tuple[int, int], kernel_size: int, ladder: Ladder, rule: PerTap | PerElement, options: Options
    ) -> None:
        size = ladder.size(kernel_size)
        kernels = ladder.kernels(self.functions(kernel_size), tap_positions(size))
        super().__init__(fields, kernels, torch.ones(ladder.scales, 1), size=size, rule=rule, **options)
        self.ladder, self.kernel_size = ladder, kernel_size

    @abc.abstractmethod
    def functions(self, kernel_size: int) -> Functions:
        """The functions psi on the plane, for a kernel of this size at the finest scale."""

    def sample(self, positions: Tensor) -> Tensor:
        return self.ladder.kernels(self.functions(self.kernel_size), positions)

    def representations(self, group: Group) -> tuple[Representation, Representation]:
        into, out = (self.ladder.representation(group, fields) for fields in self.fields)
        return into, out


class RelaxedScaleConv(_OnLadder):
    """K_(s,s+d)(x) = d_s^-2 sum_b (w_(d,b) + v_(d,b)(x)) psi_b(x / d_s) with Hermite-Gauss functions psi_b.

    `kernel_size` is that of the finest scale; there are as many taps as the coarsest needs. `scales`, `step` and `reach` are
    the ladder's (see Ladder). The bias is the same at all scales. Departs from the published code, whose coefficients are
    random at each tap from the start on, whose dilations are no powers of one, and which cuts all scales' kernels off at the
    same size; and from Sosnovik et al. in that a scale reads itself and finer ones, not coarser.

    >>> RelaxedScaleConv(2, 4, 3)(torch.zeros(1, 6, 16, 16)).shape
    torch.Size([1, 12, 16, 16])
    """

    def __init__(
        self,
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        scales: int = 3,
        step: float = 2**0.5,
        reach: int = 1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__((in_fields, out_fields), kernel_size, Ladder(scales, step, reach), PerTap(), options)

    def functions(self, kernel_size: int) -> Functions:
        return hermite_gauss(kernel_size)


class RelaxedScaleGroupConv(_OnLadder):
    """K_(s,t)(x) = d_s^-2 sum_l w_l(t) psi_(l,t-s)(x / d_s): `banks` banks of filters psi_l, weights of each scale t read.

    A filter has values at the taps of a kernel of `kernel_size` and is bilinear between them, so that all scales' kernels
    are one function. For the other arguments see RelaxedScaleConv. Departs from the published code, whose kernels are made
    once and never trained and are resampled to one size by rules of thumb, and whose scales are inputs blurred by hand.

    >>> RelaxedScaleGroupConv(2, 4, 3)(torch.zeros(1, 6, 16, 16)).shape
    torch.Size([1, 12, 16, 16])
    """

    def __init__(
        self,
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        scales: int = 3,
        step: float = 2**0.5,
        reach: int = 1,
        banks: int = 2,
        **options: Unpack[Options],
    ) -> None:
        rule = PerElement(banks, "in", cyclic=False)
        super().__init__((in_fields, out_fields), kernel_size, Ladder(scales, step, reach), rule, options)

    def functions(self, kernel_size: int) -> Functions:
        return interpolated(kernel_size)
