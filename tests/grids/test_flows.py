"""The generators of moves of images: exact on what they can represent, and what the resampler does to first order."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from relaxify.grids.derivatives import differentiate
from relaxify.grids.flows import FLOWS, PixelPositions, apply, flows_of
from relaxify.grids.resampling import resample

ALL = [flow for of_name in FLOWS.values() for flow in of_name]


def smooth(height: int, width: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    wave = torch.fft.rfft2(noise)
    wave[..., 3:-2, :] = 0
    wave[..., 3:] = 0
    return torch.fft.irfft2(wave, s=(height, width))


@pytest.mark.parametrize("derivative", ["central", "spectral"])
@pytest.mark.parametrize("flow", ALL, ids=lambda flow: flow.name)
@given(size=st.tuples(st.integers(5, 9), st.integers(5, 9)))
def test_the_generator_is_the_resamplers_derivative_everywhere(derivative: str, flow: object, size: tuple[int, int]) -> None:
    image, positions, step = torch.randn(1, 2, *size, dtype=torch.float64), PixelPositions(*size), 1e-7
    ahead, behind = (resample(image, flow.moved(t), positions, derivative) for t in (step, -step))
    difference = (ahead - behind) / (2 * step)
    torch.testing.assert_close(apply(flow, image, positions, derivative), difference, rtol=0, atol=1e-4)


@given(degree=st.integers(0, 4))
def test_central_differences_are_exact_up_to_the_fourth_power(degree: int) -> None:
    x = torch.arange(9, dtype=torch.float64) - 4
    found = differentiate((x**degree).expand(1, 1, 3, 9), -1, "central")[0, 0, 0, 2:-2]
    torch.testing.assert_close(found, (degree * x ** max(degree - 1, 0))[2:-2])


def test_spectral_derivatives_are_exact_for_waves() -> None:
    x = 2 * math.pi * torch.arange(12, dtype=torch.float64) / 12
    found = differentiate(torch.sin(3 * x).expand(1, 1, 2, 12), -1, "spectral")[0, 0, 0]
    torch.testing.assert_close(found, 2 * math.pi / 12 * 3 * torch.cos(3 * x))


def test_rotation_is_about_the_centre_and_shear_keeps_the_lines() -> None:
    y, x = torch.meshgrid(*(torch.arange(9, dtype=torch.float64) - 4,) * 2, indexing="ij")
    positions, inner = PixelPositions(9, 9), (..., slice(2, -2), slice(2, -2))
    radius = (x**2 + y**2)[None, None]
    assert apply(FLOWS["rotation"][0], radius, positions, "central")[inner].abs().max() < 1e-10
    shear_x, _ = FLOWS["shear"]
    assert apply(shear_x, y[None, None], positions, "central").abs().max() < 1e-10
    torch.testing.assert_close(apply(shear_x, x[None, None], positions, "central")[inner], y[None, None][inner])
    (scale,) = FLOWS["scale"]
    torch.testing.assert_close(apply(scale, radius, positions, "central")[inner], 2 * radius[inner])


def test_a_whole_pixel_of_translation_is_a_shift() -> None:
    image, positions = torch.randn(1, 1, 6, 8, dtype=torch.float64), PixelPositions(6, 8)
    flow, _ = FLOWS["translation"]
    periodic, repeated = image.roll(-1, -1), torch.cat([image, image[..., -1:]], -1)[..., 1:]
    torch.testing.assert_close(resample(image, flow.moved(1 / 8), positions, "spectral"), periodic)
    torch.testing.assert_close(resample(image, flow.moved(1 / 8), positions, "central"), repeated)


def test_resampling_there_and_back_is_nearly_nothing_on_a_smooth_image() -> None:
    image, positions = smooth(32, 32), PixelPositions(32, 32)
    (rotation,) = FLOWS["rotation"]
    back = resample(resample(image, rotation.moved(0.2), positions), rotation.moved(-0.2), positions)
    inner = (..., slice(8, 24), slice(8, 24))
    assert float((back - image)[inner].norm() / image[inner].norm()) < 1e-2


@pytest.mark.parametrize(
    ("sizes", "pitch"),
    [
        (((32, 32), (30, 30)), 1),
        (((32, 32), (28, 28), (14, 14), (10, 10), (5, 5)), 4),
        (((32, 32), (16, 16), (32, 32)), 1),
        (((33, 33), (17, 17)), 2),
    ],
)
def test_pixels_of_smaller_maps_are_known_to_lie_further_apart(sizes: tuple[tuple[int, int], ...], pitch: float) -> None:
    positions = PixelPositions(*sizes[0])
    for before, after in itertools.pairwise(sizes):
        positions.learn([torch.zeros(1, 1, *before)], [torch.zeros(1, 1, *after)])
    assert positions.pitch(sizes[-1]) == (pitch, pitch)


def test_unknown_names_are_told() -> None:
    with pytest.raises(ValueError, match="there is no transformation 'twist'; choose among translation"):
        flows_of(("twist",))
    with pytest.raises(ValueError, match="quarter turn"):
        resample(torch.rand(1, 1, 4, 4).double(), FLOWS["rotation"][0].moved(math.pi / 2), PixelPositions(4, 4))
