"""Convolutions whose kernels are equivariant up to weights that vary where they should not.

After "Approximately Equivariant Networks for Imperfectly Symmetric Dynamics" (Wang, Walters and Yu, ICML 2022, arXiv
2201.11969). K_b are equivariant kernels between two fields, `basis`. What varies is a parameter by itself, 0 at the start.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.grids.kernels import Convolution, Kernel
from relaxify.grids.taps import (
    Equivariants,
    acts_exactly,
    fitted,
    grid_actions,
    interpolation_error,
    kernel_representation,
    tap_positions,
)
from relaxify.groups import Group
from relaxify.proof import generic_input, generic_twin, structure
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, Features, Rejected, Site


class NoActionError(ValueError):
    """The group that is asked for does not act on this layer's features."""


@dataclass(frozen=True)
class PerTap:
    """Relaxed steerable: K(x) = sum_b (w_b + v_b(x)) K_b(x), whose coefficients vary with the tap x."""

    def shapes(self, fields: tuple[int, int], basis: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of w and of v."""
        return (*fields, len(basis)), (*fields, len(basis), basis.shape[-1])

    def kernel(
        self, w: Float[Tensor, "out in b"], v: Tensor | None, basis: Float[Tensor, "b d_out d_in taps"]
    ) -> Float[Tensor, "out d_out in d_in taps"]:
        if v is None:
            return torch.einsum("vub,boip->vouip", w, basis)
        return torch.einsum("vubp,boip->vouip", w[..., None] + v, basis)

    def differences(self, v: Tensor, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Between taps that are next to each other."""
        at = v.unflatten(-1, size)
        return at.diff(dim=-1), at.diff(dim=-2)


@dataclass(frozen=True)
class PerElement:
    """Relaxed group convolution: psi(g, h) = sum_l (1/L + v_l(h)) psi_l(g^-1 h), L filter banks, weights of each element.

    `axis` says whose element h is: the one read ("in", the paper's equation), or, as a lifting layer reads none, the one
    written ("out"). `cyclic`: the last element is next to the first.
    """

    banks: int
    axis: Literal["in", "out"]
    cyclic: bool

    def shapes(self, fields: tuple[int, int], basis: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        elements = basis.shape[1 if self.axis == "out" else 2]
        return (self.banks, *fields, len(basis)), (self.banks, elements)

    def kernel(
        self, w: Float[Tensor, "banks out in b"], v: Tensor | None, basis: Float[Tensor, "b d_out d_in taps"]
    ) -> Float[Tensor, "out d_out in d_in taps"]:
        if v is None:
            return torch.einsum("vub,boip->vouip", w.mean(0), basis)
        mixed = torch.einsum("le,lvub->evub", 1 / self.banks + v, w)
        return torch.einsum("ovub,boip->vouip" if self.axis == "out" else "ivub,boip->vouip", mixed, basis)

    def differences(self, v: Tensor, size: tuple[int, ...]) -> tuple[Tensor, ...]:
        return (v - v.roll(1, -1),) if self.cyclic else (v.diff(dim=-1),)


@dataclass(frozen=True)
class BuiltKernel(Kernel):
    """How a relaxed convolution makes its kernel: anew in every forward pass, so nothing is kept."""

    parameter: str = "weights"

    def expand(self, layer: Any) -> tuple[Tensor, Tensor | None]:
        return layer.kernel(), layer.expanded_bias()

    def of(self, layer: Any, parameter: Tensor) -> Tensor:
        """What the parameter makes of the kernel; what varies over taps is added to it whatever the parameter is."""
        return layer.kernel(parameter) - layer.kernel(torch.zeros_like(parameter))


class Options(TypedDict, total=False):
    """What all relaxed convolutions take: `relaxed` and `bias` are True, `padding_mode` is "zeros", unless given."""

    relaxed: bool
    bias: bool
    padding_mode: str


class RelaxedConv(nn.Module, abc.ABC):
    """y = K * x + b on images of the size that they come in; channels are fields one after the other.

    `weights` are the equivariant kernels' coefficients or filters, `variation` is what varies over taps or elements: zero at
    the start, where the layer is exactly equivariant, and absent if not `relaxed`. The bias is invariant.
    """

    weights: nn.Parameter
    variation: nn.Parameter | None
    bias: nn.Parameter | None
    basis: Tensor
    invariant: Tensor

    def __init__(
        self,
        fields: tuple[int, int],
        basis: Float[Tensor, "b d_out d_in taps"],
        invariant: Float[Tensor, "d_out n"],
        *,
        size: tuple[int, int],
        rule: PerTap | PerElement,
        relaxed: bool = True,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        self.fields, self.size, self.rule = fields, size, rule
        middle = (size[0] // 2, size[1] // 2)
        self.convolution = Convolution.from_torch(size, kernel=BuiltKernel(), padding=middle, padding_mode=padding_mode)
        dtype = torch.get_default_dtype()
        self.register_buffer("basis", basis.to(dtype), persistent=False)
        self.register_buffer("invariant", invariant.to(dtype), persistent=False)
        of_weights, of_variation = rule.shapes((fields[1], fields[0]), basis)
        self.weights = nn.Parameter(torch.empty(of_weights))
        self.register_parameter("variation", nn.Parameter(torch.zeros(of_variation)) if relaxed else None)
        has_bias = bias and invariant.shape[1] > 0
        self.register_parameter("bias", nn.Parameter(torch.zeros(fields[1], invariant.shape[1])) if has_bias else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """He's rule for the whole kernel: a ReLU after the layer keeps the second moment."""
        square = float(self.basis.double().square().sum((0, 2, 3)).mean()) * self.fields[0]
        banks = self.rule.banks if isinstance(self.rule, PerElement) else 1
        self.weights.normal_(std=math.sqrt(2 * banks / square))
        for parameter in (self.variation, self.bias):
            if parameter is not None:
                parameter.zero_()

    def kernel(self, weights: Tensor | None = None) -> Float[Tensor, "c_out c_in height width"]:
        """The kernel; or what it would be with these weights, while what varies stays as it is."""
        v = self.variation
        if weights is None:
            own = self.rule.kernel(self.weights, v, self.basis)
        else:
            own = self.rule.kernel(weights, None if v is None else v.detach(), self.basis)
        return own.flatten(2, 3).flatten(0, 1).unflatten(-1, self.size)

    def expanded_bias(self) -> Float[Tensor, " c_out"] | None:
        return None if self.bias is None else (self.bias @ self.invariant.mT).flatten()

    def forward(self, x: Float[Tensor, "batch c_in height width"]) -> Float[Tensor, "batch c_out height width"]:
        return self.convolution.apply(x, self.kernel(), self.expanded_bias())

    def approximate_equivariance_loss(self) -> Float[Tensor, ""]:
        """The mean absolute difference of the weights at neighbouring taps or elements; 0 for an equivariant kernel."""
        if self.variation is None:
            return self.weights.new_zeros(())
        parts = self.rule.differences(self.variation, self.size)
        return torch.stack([part.abs().sum() / max(part.numel(), 1) for part in parts]).sum()

    @abc.abstractmethod
    def sample(self, positions: Float[Tensor, "points 2"]) -> Float[Tensor, "b d_out d_in points"]:
        """The equivariant kernels between two fields anywhere in the plane, in float64."""

    @abc.abstractmethod
    def representations(self, group: Group) -> tuple[Representation, Representation]:
        """How the group acts on the channels read and written. NoActionError if it does not."""

    def relaxify_sites(self, path: str, group: Group) -> Iterator[Site | Rejected]:
        """What relaxify may relax here: the convolution, on patches of its input."""
        op = type(self).__name__
        try:
            rep_in, rep_out = self.representations(group)
        except NoActionError as reason:
            yield Rejected(path, op, str(reason))
            return
        grid, error = self._tap_action(group, rep_in, rep_out)
        rep_in_patches, channels = kernel_representation(rep_in, grid), Features((1,))
        map_ = EquivariantMap("relaxed_convolution", op, rep_in_patches, rep_out, channels, channels)
        map_ = replace(map_, convolution=self.convolution, interpolation=error)
        yield Site(path, self, map_, functools.partial(law_error, self, rep_in, rep_out), structure=structure(self))

    def _tap_action(self, group: Group, rep_in: Representation, rep_out: Representation) -> tuple[Tensor, float]:
        """How the group moves the taps, and the most that an equivariant kernel scores where that is between taps."""
        size = self.size
        grid = grid_actions(group.generators, group.finite, size)
        if acts_exactly(group.generators, group.finite, size):
            return grid, 0.0
        known = [Equivariants(self.sample(tap_positions(size)), rep_in.actions[0], rep_out.actions[0])]
        grid = fitted(grid, known, 0)
        return grid, interpolation_error(grid, known, 0)


def approximate_equivariance_loss(model: nn.Module) -> Float[Tensor, ""]:
    """The sum over a model's relaxed convolutions, the regulariser of Wang et al. 2022; the training weighs it.

    ValueError if it has none.

    >>> from relaxify_examples.models.relaxed_group import RelaxedLiftingConv
    >>> approximate_equivariance_loss(RelaxedLiftingConv(1, 2, 3)).item()
    0.0
    """
    losses = [part.approximate_equivariance_loss() for part in model.modules() if isinstance(part, RelaxedConv)]
    if not losses:
        raise ValueError(f"{type(model).__name__} has no relaxed convolution; regularise a model that has one.")
    return torch.stack(losses).sum()


@torch.no_grad()
def law_error(layer: RelaxedConv, rep_in: Representation, rep_out: Representation) -> float:
    """How far the layer is from its convolution, its twin's kernel from steerable, or its bias from invariant.

    Steerable means |det g| K(g x) rho_in(g) = rho_out(g) K(x), which is tested on the kernel's formula at the taps moved by
    g: nothing is interpolated. The twin has the mean of what varies.
    """
    twin: Any = generic_twin(layer)
    kernel, bias = twin.convolution.kernel.expand(twin)
    x = generic_input(2, kernel.shape[1], *(2 * length + 5 for length in twin.size))
    errors = [_relative(twin.convolution.apply(x, kernel, bias), twin(x)), _bias_error(bias, rep_out)]
    taps, group = tap_positions(twin.size), rep_in.group
    here = mean_kernel(twin, twin.sample(taps))
    errors.append(_relative(mean_kernel(twin, twin.basis), here))
    moved = torch.stack([g.det().abs() * mean_kernel(twin, twin.sample(taps @ g.mT)) for g in group.finite])
    left = rep_in.act(moved.movedim(2, -1), transpose=True, each=True)
    errors.append(_relative(left, rep_out.act(here.movedim(0, -1)).transpose(1, 3)))
    return float(torch.tensor(errors).max())


def mean_kernel(layer: RelaxedConv, basis: Float[Tensor, "b d_out d_in points"]) -> Float[Tensor, "c_out c_in points"]:
    """The kernel on another basis, with the mean of what varies: the layer's equivariant twin."""
    v = layer.variation
    mean = None if v is None else v.mean(-1, keepdim=True).expand_as(v)
    return layer.rule.kernel(layer.weights, mean, basis).flatten(2, 3).flatten(0, 1)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _bias_error(bias: Tensor | None, rep_out: Representation) -> float:
    """|rho_out(g) b - b| / |b| where rho_out(g) moves anything to: scales that come from beyond the last have nothing."""
    if bias is None:
        return 0.0
    reached = rep_out.act(torch.eye(len(bias), dtype=bias.dtype)).abs().sum(1) > 0
    return float(((rep_out.act(bias) - bias) * reached).norm() / bias.norm())


def square(kernel_size: int) -> tuple[int, int]:
    """The size of a kernel with a tap in its middle. ValueError if it has none."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} has no middle tap to turn or scale about; pass an odd number.")
    return kernel_size, kernel_size


def hats(positions: Float[Tensor, "*points 2"], size: tuple[int, int]) -> Float[Tensor, "*points taps"]:
    """Bilinear interpolation as functions, 1 at one tap each and 0 at the others: psi(x) = sum_t psi_t hat_t(x)."""
    return (1 - (positions[..., None, :] - tap_positions(size)).abs()).clamp(min=0).prod(-1)
