"""The Lie-algebra convolution (LC eq. 6) and its flow to finite group elements (LC Prop. 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.lconv.operators import Generators, Points, Shifts, exponential_action
from relaxify.lconv.operators.family import Space, mix_channels


class LConv(nn.Module):
    """F(h) = sigma(h W^0 + sum_i L_i h W^i + b), with L_0 = I (LC eq. 6).

    Input is (batch, channels, *space); or (nodes, features), where the generators act on a given number of points; or, on
    images, without a batch, as torch's convolutions take them. `generators` says what the L_i are and whether they are
    learned. `identity=False` leaves L_0 out, as generators between two spaces require and as a convolution's shifts, which
    hold the identity, do. `activation` is any function.

    Weights start Gaussian, such that the output's variance is the input's times `gain`^2 when inputs are independent. Where
    that depends on the size of the images (`ImageAlgebra`, whose rotation grows with it), `space` says which; without, they
    are scaled for the first input that the layer is called on, unless they were loaded before.

    >>> from relaxify.lconv import LowRank
    >>> layer = LConv(LowRank.random(8, (28, 28), rank=16), 1, 32, activation=torch.relu, gain=2**0.5)
    >>> layer(torch.randn(5, 1, 28, 28)).shape
    torch.Size([5, 32, 28, 28])
    """

    def __init__(
        self,
        generators: Generators,
        in_channels: int,
        out_channels: int,
        *,
        groups: int = 1,
        bias: bool = True,
        identity: bool = True,
        activation: Callable[[Tensor], Tensor] | None = None,
        gain: float = 1.0,
        space: Space | None = None,
    ) -> None:
        super().__init__()
        _check(generators, in_channels, out_channels, groups, identity)
        self.generators = generators
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(generators.weight_shape(out_channels, in_channels, groups)))
        shape = (out_channels, in_channels // groups)
        self.identity_weight = nn.Parameter(torch.empty(shape)) if identity else None
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._unscaled: float | None = None
        self.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]
        self.reset_parameters(gain, space)

    @torch.no_grad()
    def reset_parameters(self, gain: float = 1.0, space: Space | None = None) -> None:
        """Gaussian W of variance gain^2 / (fan-in * (1 + sum_i |row of L_i|^2)), and no bias."""
        waits = space is None and self.generators.space is None and self.generators.power_depends_on_space
        power = 1.0 if waits else float(self.generators.power(space).sum()) + (self.identity_weight is not None)
        fan_in = self.generators.per_generator(self.weight, self.groups).shape[2]
        std = gain / math.sqrt(power * fan_in) if power > 0 else 0.0
        self._unscaled = gain if waits else None
        for weight in (self.weight, self.identity_weight):
            if weight is not None:
                weight.normal_(0, std)
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, input: Float[Tensor, "*shape"], output_size: Sequence[int] | None = None) -> Tensor:  # noqa: A002
        """`input` and `output_size` as of the convolution that it may have taken the place of."""
        h = input
        if type(self.generators) is Shifts and self.identity_weight is None:
            # without a look at shapes, so that torch.fx can trace it as it does the convolution
            family = self.generators if output_size is None else self.generators.sized(tuple(h.shape), tuple(output_size))
            out = family.convolve(h, self.weight, self.bias, self.groups)
        elif output_size is not None:
            raise ValueError(f"{type(self.generators).__name__} generators have one size of output; leave output_size out.")
        elif h.dim() == self.generators.ndim + 1:
            nodes = self.generators.ndim == 1 and self.generators.space is not None
            out = self._batched(h.mT[None])[0].mT if nodes else self._batched(h[None])[0]
        else:
            out = self._batched(h)
        return out if self.activation is None else self.activation(out)

    def _batched(self, h: Float[Tensor, "batch channels *space"]) -> Tensor:
        if self._unscaled is not None:
            self._scale(tuple(h.shape[2:]))
        out = self.generators.mix(h, self.weight, self.groups)
        if self.identity_weight is not None:
            out = out + mix_channels(h[None], self.identity_weight[None], self.groups)
        return out if self.bias is None else out + self.bias.reshape(-1, *(1,) * (out.dim() - 2))

    @torch.no_grad()
    def _scale(self, space: Space) -> None:
        """What the init could not know."""
        power = float(self.generators.power(space).sum()) + (self.identity_weight is not None)
        for weight in (self.weight, self.identity_weight):
            if weight is not None:
                weight.div_(math.sqrt(power))
        self._unscaled = None

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}"]
        parts += [f"groups={self.groups}"] if self.groups > 1 else []
        parts += ["identity=False"] if self.identity_weight is None else []
        parts += ["bias=False"] if self.bias is None else []
        return ", ".join(parts)


class LinearLConv(nn.Module):
    """A fully-connected layer as an L-conv (LC Prop. 3, corrected): sum_b L_b h W^b with L_b reading one point each.

    Input is (*batch, channels * points), as nn.Flatten leaves it. With `Points` the weight is nn.Linear's own; with other
    generators into one point, such as `LowRank`, it is theirs.
    """

    def __init__(self, generators: Generators, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        points = math.prod(generators.space or ())
        if generators.space_out() != (1,) or in_features % points:
            raise ValueError(
                f"a linear layer of {in_features} features needs generators from a divisor of these to one point, not "
                f"from {generators.space} to {generators.space_out()}; pass such."
            )
        self.generators = generators
        self.in_features, self.out_features, self.channels = in_features, out_features, in_features // points
        self.weight = nn.Parameter(torch.empty(generators.weight_shape(out_features, self.channels)))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        with torch.no_grad():
            self.weight.normal_(0, 1 / math.sqrt(float(generators.power().sum()) * self.channels))

    def forward(self, input: Float[Tensor, "*shape"]) -> Tensor:  # noqa: A002
        h = input
        if type(self.generators) is Points:
            return nn.functional.linear(h, self.weight, self.bias)
        out = self.generators.mix(
            h.reshape(math.prod(h.shape[:-1]), self.channels, *(self.generators.space or ())), self.weight
        )
        out = out.reshape(*h.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + (", bias=False" if self.bias is None else "")


class Flow(nn.Module):
    """A finite group element: exp(sum_i t_i L_i) h, or `steps` L-convs (I + sum_i t_i L_i / steps) of LC Prop. 2.

    With `channels` the coefficients are matrices W^i on channels, exp(sum_i L_i (x) W^i); without they are numbers t_i.
    k steps err by about |t L|^2 / 2k. A generator is identifiable from one flow only while its largest frequency is below
    pi.

    >>> from relaxify.lconv import algebra
    >>> turn = Flow(algebra("so(2)"), steps="exp", coefficients=torch.tensor([math.pi / 2]))
    >>> turn(torch.tensor([[[1.0, 0.0]]])).detach().round().abs()
    tensor([[[0., 1.]]])
    """

    def __init__(
        self,
        generators: Generators,
        *,
        steps: int | Literal["exp"] = "exp",
        channels: int | None = None,
        coefficients: Tensor | None = None,
    ) -> None:
        super().__init__()
        if steps != "exp" and steps < 1:
            raise ValueError(f"steps={steps}: pass how many L-convs to compose, or 'exp' for the exponential.")
        shape = (generators.count,) if channels is None else generators.weight_shape(channels, channels)
        if coefficients is not None and tuple(coefficients.shape) != tuple(shape):
            raise ValueError(f"coefficients have shape {tuple(coefficients.shape)}; pass {tuple(shape)}.")
        self.generators, self.steps, self.channels = generators, steps, channels
        start = torch.ones(shape) if channels is None else torch.randn(shape) / math.sqrt(channels * generators.count)
        self.coefficients = nn.Parameter(start if coefficients is None else coefficients.detach().clone())

    def forward(self, h: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        if self.steps == "exp":
            return exponential_action(self.velocity, h)
        for _ in range(self.steps):
            h = h + self.velocity(h) / self.steps
        return h

    def velocity(self, h: Tensor) -> Tensor:
        """sum_i t_i L_i h, or sum_i L_i h W^i: dh/dt of the flow."""
        if self.channels is None:
            return self.generators.combine(self.coefficients, h)
        return self.generators.mix(h, self.coefficients)

    def extra_repr(self) -> str:
        return f"steps={self.steps}" + (f", channels={self.channels}" if self.channels else "")


def _loaded(layer: nn.Module, keys: object) -> None:
    """Weights that were loaded are as they should be."""
    layer._unscaled = None  # type: ignore[assignment]


def _check(generators: Generators, in_channels: int, out_channels: int, groups: int, identity: bool) -> None:
    if in_channels < 1 or out_channels < 1 or groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"{in_channels} channels to {out_channels} in {groups} groups: pass positive numbers that the groups divide."
        )
    if identity and generators.space is not None and generators.space_out() != generators.space:
        raise ValueError(f"the identity does not map {generators.space} to {generators.space_out()}; pass identity=False.")
