"""Relaxed scale convolutions: the kernels' scaling law, what a scale reads, and smooth images enlarged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from relaxify import plan
from relaxify.grids.taps import tap_positions
from relaxify.groups import Group
from relaxify_examples.models.relaxed_convolution import RelaxedConv
from relaxify_examples.models.relaxed_scale import MeanOverScales, RelaxedScaleConv, RelaxedScaleGroupConv, RepeatOverScales
from relaxify_examples.models.scale_steerable import Functions, Ladder, hermite_gauss, interpolated

BOTH = pytest.mark.parametrize("kind", [RelaxedScaleConv, RelaxedScaleGroupConv])
FUNCTIONS = st.sampled_from([hermite_gauss(3), hermite_gauss(5), interpolated(3)])


@given(st.integers(1, 4), st.floats(1.1, 3), st.integers(1, 4), FUNCTIONS, st.integers(0, 99))
def test_kernels_scale(scales: int, step: float, reach: int, functions: Functions, seed: int) -> None:
    """a^2 K_(s,t)(a x) = K_(s+1,t+1)(x), and nothing is read from coarser scales or from beyond the reach."""
    reach = min(reach, scales)
    x = 3 * torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ladder = Ladder(scales, step, reach)
    here, there = ladder.kernels(functions, step * x), ladder.kernels(functions, x)
    torch.testing.assert_close(step**2 * here[:, :-1, :-1], there[:, 1:, 1:], rtol=1e-9, atol=1e-9)
    distance = torch.arange(scales) - torch.arange(scales)[:, None]
    assert not there[:, (distance < 0) | (distance >= reach)].any()
    assert there[:, distance.eq(0)].any()


def test_functions() -> None:
    """Of norm 1 where the finest kernel is, independent of each other there, and as Hermite's polynomials are."""
    taps = tap_positions((3, 3))
    assert torch.linalg.matrix_rank(hermite_gauss(3)(taps)) == 9
    torch.testing.assert_close(hermite_gauss(3)(taps).norm(dim=0), torch.ones(9, dtype=torch.float64))
    assert torch.equal(interpolated(3)(taps), torch.eye(9, dtype=torch.float64))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    along = hermite_gauss(5)(torch.stack([x, torch.zeros_like(x)], -1)).unflatten(-1, (5, 5))[..., 0]
    polynomials = torch.stack([torch.ones_like(x), x, x**2 - 1, x**3 - 3 * x, x**4 - 6 * x**2 + 3], -1)
    expected = polynomials * (-(x**2) / 2).exp()[:, None]
    torch.testing.assert_close(along / along.norm(dim=0), expected / expected.norm(dim=0))


def smooth(factor: float, channels: int, pixels: int = 97, spread: float = 3.0) -> Tensor:
    """Gaussians at places of their own, seen enlarged about the middle."""
    generator = torch.Generator().manual_seed(0)
    places = 14 * torch.rand(channels, 6, 2, generator=generator, dtype=torch.float64) - 7
    heights = torch.randn(channels, 6, generator=generator, dtype=torch.float64)
    distance = tap_positions((pixels, pixels)) / factor - places[:, :, None]
    values = (heights[..., None] * (-distance.square().sum(-1) / (2 * spread**2)).exp()).sum(1)
    return values.unflatten(-1, (pixels, pixels))[None]


def enlarged_error(enlarged: Tensor, plain: Tensor) -> float:
    """How far an image enlarged by 2 is from another, at the places of its pixels around the middle."""
    middle = plain[..., 28:69, 28:69]
    return float(((enlarged[..., 8:89:2, 8:89:2] - middle).norm() / middle.norm()).detach())


@BOTH
@pytest.mark.parametrize("step", [2**0.5, 2.0])
@pytest.mark.parametrize("reach", [1, 2])
def test_an_enlarged_image_is_seen_by_coarser_scales(kind: type[RelaxedConv], step: float, reach: int) -> None:
    """y_s of the image enlarged by 2 is y_t of the image, t as many steps finer, up to what pixels leave out."""
    steps = 2 if step < 2 else 1
    layer = kind(2, 3, 3, step=step, reach=reach).double()
    nn.init.normal_(layer.bias)
    x, moved = smooth(1, 6).unflatten(1, (2, 3)), torch.zeros(1, 2, 3, 97, 97, dtype=torch.float64)
    moved[:, :, : 3 - steps] = smooth(2, 6).unflatten(1, (2, 3))[:, :, steps:]
    y, enlarged = (layer(image.flatten(1, 2)).unflatten(1, (3, 3)) for image in (x, moved))
    for s in range(3 - steps):
        assert enlarged_error(enlarged[:, :, s], y[:, :, s + steps]) < 0.01
    # the same scale sees something else
    assert enlarged_error(enlarged[:, :, 0], y[:, :, 0]) > 0.1


@BOTH
def test_a_deep_stack_is_equivariant_between_scales_that_stay_on_the_ladder(kind: type[RelaxedConv]) -> None:
    """What the finest scale says of an image, the coarsest says of it enlarged by 2, the better the smoother it is.

    Every ReLU makes what is finer than pixels show.
    """
    layers = [layer for fields in ((2, 4), (4, 4), (4, 4), (4, 4), (4, 2)) for layer in (kind(*fields, 3), nn.ReLU())]
    net = nn.Sequential(RepeatOverScales(3), *layers[:-1]).double()
    errors = []
    for spread in (1.5, 5):
        y, enlarged = (net(smooth(factor, 2, spread=spread)).unflatten(1, (2, 3)) for factor in (1, 2))
        errors.append(enlarged_error(enlarged[:, :, 0], y[:, :, 2]))
    assert errors[1] < 0.2
    assert errors[1] < 0.6 * errors[0]
    assert enlarged_error(enlarged[:, :, 0], y[:, :, 0]) > 0.4


@BOTH
def test_a_scale_reads_itself_and_finer_ones(kind: type[RelaxedConv]) -> None:
    layer = kind(1, 1, 3, scales=4, reach=2).double()
    x = torch.randn(1, 4, 15, 15, dtype=torch.float64, requires_grad=True)
    for s in range(4):
        (slope,) = torch.autograd.grad(layer(x)[:, s].square().sum(), x)
        assert slope.abs().sum((0, 2, 3)).ne(0).tolist() == [t in (s, s + 1) for t in range(4)]


def test_a_bank_has_weights_of_each_scale_read() -> None:
    """The finest kernel is its filters, weighed; scales without weight are read by none."""
    layer = RelaxedScaleGroupConv(2, 3, 3, reach=2).double()
    assert layer.variation is not None
    with torch.no_grad():
        layer.variation.normal_()
        layer.variation[:, 1] = -1 / 2
    kernel, shares = layer.kernel().unflatten(1, (2, 3)).unflatten(0, (3, 3)), 1 / 2 + layer.variation
    filters = layer.weights.unflatten(-1, (2, 3, 3))[:, :, :, 0]
    expected = torch.einsum("l,lvuyx->vuyx", shares[:, 2], filters)
    torch.testing.assert_close(kernel[:, 2, :, 2, 2:5, 2:5], expected, rtol=1e-6, atol=1e-6)
    assert float(kernel[:, :, :, 1].detach().abs().max()) < 1e-12
    assert float(kernel[:, 1, :, 2].detach().abs().max()) > 1e-3


@BOTH
def test_groups_of_a_ladder(kind: type[RelaxedConv]) -> None:
    """Powers of the step that stay on the ladder; to shrink, a scale must not read finer ones."""
    shrinking = Group.from_generators(finite=0.5 * torch.eye(2)[None], name="halves")
    assert plan(kind(1, 1, 3), shrinking).sites[0].map.interpolation < 1e-9
    (rejected,) = plan(kind(1, 1, 3, reach=2), shrinking).rejected
    assert rejected.reason == "scales read finer ones, which halves takes off the ladder; pass a factor above 1"
    for factor in (1.5, 4):
        (rejected,) = plan(kind(1, 1, 3), f"Scale({factor})").rejected
        assert rejected.reason.endswith(f"of which Scale({factor:g}) takes none to another")


@pytest.mark.parametrize("arguments", [{"step": 1.0}, {"reach": 0}, {"reach": 4}])
def test_what_is_no_ladder(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is not a ladder; pass a step above 1 and a reach from 1 to the number of scales"):
        RelaxedScaleConv(1, 1, 3, **arguments)


def test_in_and_out_of_the_scales() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(RepeatOverScales(2)(x).unflatten(1, (3, 2)), torch.stack([x, x], 2))
    torch.testing.assert_close(MeanOverScales(2)(RepeatOverScales(2)(x)), x)
