"""Symmetries of images, signals and graphs in families of generators: right answers, verdicts, and no d x d matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.ndimage
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from relaxify.lconv import (
    Dense,
    FamilySymmetry,
    Grid,
    ImageAlgebra,
    Shifts,
    SignalAlgebra,
    algebra,
    graph,
    symmetries_of,
)
from relaxify.lconv.operators.images import AFFINE
from relaxify.lconv.symmetry import Verdict

Images = npt.NDArray[np.float64]
AFFINE_FLOWS = ImageAlgebra(AFFINE)
STENCIL = Shifts((3, 3), padding=((1, 1), (1, 1)))


def digits(size: int, content: int, count: int = 1797) -> Images:
    """Scikit-learn's digits, enlarged to `content` pixels in the middle of `size`."""
    images = scipy.ndimage.zoom(load_digits().images[:count] / 16, (1, content / 8, content / 8), order=1)
    border = (size - content) // 2
    return np.asarray(np.pad(images, ((0, 0), (border, border), (border, border))))


def rotated(images: Images, most: float = 360.0, step: float = 0.0, seed: int = 0) -> Images:
    angles = np.random.default_rng(seed).uniform(0, most, len(images))
    angles = np.round(angles / step) * step if step else angles
    turned = [
        scipy.ndimage.rotate(image, angle, reshape=False, order=1) for image, angle in zip(images, angles, strict=True)
    ]
    return np.stack(turned)


def rolled(images: Images) -> Images:
    random = np.random.default_rng(0)
    return np.stack([np.roll(image, tuple(random.integers(0, image.shape[0], 2)), (0, 1)) for image in images])


def bumps(points: int, count: int = 3000) -> Images:
    """One bump each, anywhere on a circle, and noise."""
    random = np.random.default_rng(0)
    angle = 2 * np.pi * (np.arange(points) - random.uniform(0, points, (count, 1))) / points
    return np.asarray(np.exp(2 * np.cos(angle)) / 5 + 0.05 * random.standard_normal((count, points)))


def family_of(images: Images, generators: Any, **options: Any) -> FamilySymmetry:
    return symmetries_of(torch.from_numpy(images), generators=generators, **options)


@pytest.mark.parametrize(("size", "content"), [(8, 8), (28, 20), (28, 28)])
def test_rotated_digits_have_rotations(size: int, content: int) -> None:
    found = family_of(rotated(digits(size, content)), AFFINE_FLOWS)
    assert (found.verdict, found.name, found.dimension) == (Verdict.FOUND, "rotation", 1)
    assert found.smallest_break < 0.6
    assert found.gap is not None
    assert found.gap > 3


@pytest.mark.parametrize("most", [1.0, 90.0])
def test_digits_as_they_are_and_in_an_arc_have_none(most: float) -> None:
    found = family_of(rotated(digits(28, 20), most), AFFINE_FLOWS)
    assert (found.verdict, found.name, found.dimension) == (Verdict.NONE, None, 0)


@pytest.mark.parametrize("order", [4, 8])
def test_turns_by_parts_of_the_circle_are_no_rotations(order: int) -> None:
    assert family_of(rotated(digits(28, 20), step=360 / order), AFFINE_FLOWS).verdict is Verdict.NONE


def test_moved_digits_have_translations() -> None:
    found = family_of(rolled(digits(28, 20)), AFFINE_FLOWS)
    assert (found.name, found.dimension) == ("translations", 2)


def test_blobs_beyond_the_window_have_the_plane_s_motions() -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28]
    scenes = np.zeros((2000, 28, 28))
    for _ in range(12):
        at = random.uniform(-8, 36, (2, 2000, 1, 1))
        scenes += np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 8)
    found = family_of(scenes, AFFINE_FLOWS)
    assert (found.name, found.dimension) == ("e(2)", 3)


def test_a_rotation_about_another_point_is_found_with_its_centre() -> None:
    moved = np.roll(rotated(digits(28, 20)), (3, 2), (1, 2))
    name = family_of(moved, AFFINE_FLOWS).name
    assert name is not None
    assert name.startswith("rotation about")
    y, x = (float(part) for part in name.split("(")[1].rstrip(")").split(","))
    assert math.hypot(y - 3, x - 2) < 0.7


def test_few_images_are_too_few_and_the_report_says_how_many_would_do() -> None:
    images = rotated(digits(28, 20))
    few = family_of(images[:100], AFFINE_FLOWS)
    assert few.verdict is Verdict.TOO_FEW
    assert few.name is None
    assert few.samples_needed is not None
    assert 200 < few.samples_needed < 1797
    assert "samples would do" in str(few)


def test_labels_can_break_what_the_images_keep() -> None:
    angles = np.random.default_rng(0).uniform(0, 360, 1797)
    images = rotated(digits(28, 20))
    quadrant = torch.from_numpy((angles // 90).astype(np.int64))
    assert family_of(images, AFFINE_FLOWS).found
    assert not family_of(images, AFFINE_FLOWS, Y=quadrant).found
    assert family_of(images, AFFINE_FLOWS, Y=torch.from_numpy(load_digits().target)).name == "rotation"


def test_channels_turn_together() -> None:
    images = rotated(digits(16, 12))
    colour = np.random.default_rng(0).uniform(0.5, 1, (1797, 3, 1, 1)) * images[:, None]
    assert family_of(colour, AFFINE_FLOWS).name == "rotation"


def test_shifted_signals_have_the_shift() -> None:
    family = SignalAlgebra(("translation", "scaling"))
    assert family_of(bumps(32), family).name == "translation"
    assert family_of(bumps(32, 500)[:, ::-1].copy(), family).verdict in (Verdict.FOUND, Verdict.TOO_FEW)
    fixed = np.exp(-np.arange(32) / 5) + 0.1 * np.random.default_rng(0).standard_normal((2000, 32))
    assert family_of(fixed, family).verdict is Verdict.NONE


def test_the_edges_of_a_ring_learn_its_shift() -> None:
    points = torch.arange(24)
    edges = torch.stack([points.repeat(2), torch.cat([(points + 1) % 24, (points - 1) % 24])])
    found = family_of(bumps(24), graph(edges, 24, learnable=True))
    assert (found.verdict, found.dimension) == (Verdict.FOUND, 1)
    true = SignalAlgebra().dense((24,), dtype=torch.float64)[0]
    signals = torch.from_numpy(bumps(24))
    moved, expected = signals @ found.generators[0].double().T, signals @ true.T
    assert abs(float((moved * expected).sum() / moved.norm() / expected.norm())) > 0.9
    # diffusion alone is not kept
    assert family_of(bumps(24), graph(edges, 24)).verdict is Verdict.NONE


def test_weights_of_each_pixel_learn_rotations_or_nothing() -> None:
    images = digits(28, 20)
    family = Grid(torch.zeros(1, 9, 28, 28), STENCIL, space=(28, 28))
    found = family_of(rotated(images), family)
    assert (found.verdict, found.dimension) == (Verdict.FOUND, 1)
    assert found.resemblance is not None
    assert found.resemblance.name == "rotation"
    assert found.resemblance.cosine > 0.97
    assert family_of(images, family).verdict is Verdict.NONE


def test_scrambled_pixels_have_rotations_too() -> None:
    images = np.concatenate([rotated(digits(16, 12), seed=seed) for seed in range(8)]).reshape(-1, 256)
    order = np.random.default_rng(0).permutation(256)
    found = symmetries_of(torch.from_numpy(images[:, order]))
    assert (found.verdict, found.dimension) == (Verdict.FOUND, 1)
    true = ImageAlgebra(derivative="bilinear").dense((16, 16), dtype=torch.float64)[0][order][:, order]
    centred = torch.from_numpy(images[:2000, order])
    centred = centred - centred.mean(0)
    moved = centred @ found.generators[0].T
    expected = centred @ true.T
    assert abs(float((moved * expected).sum() / moved.norm() / expected.norm())) > 0.6
    upright = np.concatenate([rotated(digits(16, 12), most=10, seed=seed) for seed in range(8)]).reshape(-1, 256)
    assert not symmetries_of(torch.from_numpy(upright[:, order])).found


def test_vectors_of_a_common_action() -> None:
    x = torch.randn(3000, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1] = torch.linalg.cross(x[:, 0], x[:, 1])
    assert symmetries_of(x, generators=algebra("so(3)")).dimension == 3
    assert symmetries_of(x * torch.tensor([1.0, 1.0, 2.0]), generators=algebra("so(3)")).dimension < 3


def test_the_report_is_data_operators_and_flows() -> None:
    images = rotated(digits(16, 12))
    found = family_of(images, ImageAlgebra(("rotation",)))
    data = found.to_dict()
    assert data["verdict"] == "found"
    assert len(data["drifts"]) == 1
    quarter = found.flow(torch.from_numpy(images[:4, None]), [math.pi / 2 / abs(float(found.coefficients[0, 0]))])[0]
    turned = torch.from_numpy(images[:4, None]).rot90(1 if found.coefficients[0, 0] > 0 else -1, (2, 3))
    other = turned.rot90(2, (2, 3))
    assert min(float((quarter - each).norm() / each.norm()) for each in (turned, other)) < 0.12
    assert found.as_operators().act(torch.from_numpy(images[:2, None]).float()).shape == (1, 2, 1, 16, 16)


def test_large_images_take_no_matrix() -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:224, :224].astype(np.float32) / 28
    at = random.uniform(-2, 10, (2, 64, 1, 1)).astype(np.float32)
    images = torch.from_numpy(np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2)))
    found = symmetries_of(images, generators=AFFINE_FLOWS)
    assert found.space == (224, 224)
    with pytest.raises(ValueError, match="dense generators of 50176 x 50176"):
        AFFINE_FLOWS.dense((224, 224))


def bad_nan() -> Tensor:
    images = torch.randn(20, 8, 8)
    images[0, 0, 0] = torch.nan
    return images


@pytest.mark.parametrize(
    ("images", "generators", "words"),
    [
        (torch.randn(20, 3), ImageAlgebra(), r"pass at least 16 of them, \(n, height, width\)"),
        (torch.randn(5, 8, 8), ImageAlgebra(), "pass at least 16"),
        (bad_nan(), ImageAlgebra(), "NaN or infinite"),
        (torch.randn(20, 8, 8), Shifts((2, 2)), "maps into another space"),
        (torch.randn(20, 3, 9), Dense.random(1, (9,)), "pass the 3 channels as one"),
        (torch.randn(30, 1, 8, 8), None, "for images generators=ImageAlgebra"),
        (torch.randn(400, 3, 100), None, "pass a family to look in"),
    ],
)
def test_bad_inputs(images: Tensor, generators: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        symmetries_of(images, generators=generators)
