"""The flow between samples and what became of them: with pairs, with classes alone, with pixels in any order, or none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from relaxify.lconv import ImageAlgebra, Symmetry, symmetry_of_pairs
from relaxify.lconv.symmetry import Verdict
from relaxify.lconv.symmetry.by_name import named

TURN = 0.5 * named("so(2)", 3)[0]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(X: Tensor, L: Tensor) -> Tensor:
    return X @ torch.linalg.matrix_exp(L).mT


def cosine(found: Symmetry, true: Tensor, X: Tensor) -> float:
    """Of the movements of the samples."""
    first, second = X @ found.generators[0].mT, X @ true.mT
    return abs(float((first * second).sum() / first.norm() / second.norm()))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_flow_is_found_with_noise_in_both(share: float) -> None:
    X = noise(600, 3)
    found = symmetry_of_pairs(X + share * noise(600, 3, seed=1), moved(X, TURN) + share * noise(600, 3, seed=2))
    assert (found.verdict, found.name) == (Verdict.FOUND, "so(2)")
    assert found.overlap(TURN[None]).value > 1 - 0.1 * share - 1e-9
    assert found.moved == pytest.approx(float(TURN.norm()), rel=0.1 * share + 1e-6)
    assert found.held_out_defect is not None
    assert (found.held_out_defect < 1e-9) == (share == 0)
    if not share:
        (there,) = found.flow(X, [found.moved or 0.0])
        torch.testing.assert_close(there, moved(X, TURN))
        assert "pairs are apart by exp(t L) with t = 0.7071" in str(found)


@pytest.mark.parametrize(
    ("L", "name"), [(0.4 * torch.eye(3), "scaling"), (named("so(1,2)", 3)[0] / 2, "so(1,1)"), (TURN, "so(2)")]
)
def test_flows_need_not_keep_lengths_and_may_be_about_the_mean(L: Tensor, name: str) -> None:
    X, L = noise(300, 3) * torch.tensor([3.0, 1, 1]), L.double()
    assert symmetry_of_pairs(X, moved(X, L)).name == name
    assert symmetry_of_pairs(X - X.mean(0) + 7, moved(X - X.mean(0), L) + 7, center=True).name == name


def angles(X: Tensor) -> Tensor:
    """Each turned by an angle of its own, as often one way as the other."""
    each = torch.rand(len(X), generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 0.5
    return torch.einsum("nij,nj->ni", torch.linalg.matrix_exp(4 * each[:, None, None] * TURN), X)


WITHOUT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "unrelated": (lambda X: X[torch.randperm(len(X), generator=torch.Generator().manual_seed(1))], "no linear relation"),
    "still": (lambda X: X + 0.2 * noise(*X.shape, seed=1), "no flow explains"),
    "the same": (Tensor.clone, "no flow explains"),
    "turned either way": (angles, "no flow explains"),
    "reflected": (lambda X: X * torch.tensor([1.0, 1, -1]), "half a turn"),
    "turned by half": (lambda X: X * torch.tensor([1.0, -1, -1]), "half a turn"),
    "even functions": (lambda X: X.square() - 1, "no linear relation"),
}


@pytest.mark.parametrize("kind", WITHOUT)
def test_pairs_without_a_flow_have_none(kind: str) -> None:
    f, reason = WITHOUT[kind]
    X = noise(2000, 3, seed=4)
    found = symmetry_of_pairs(X + (0.2 * noise(2000, 3, seed=5) if kind == "still" else 0), f(X))
    assert (found.verdict, found.dimension, found.moved) == (Verdict.NONE, 0, None)
    assert reason in found.reason


def test_few_pairs_that_show_nothing_are_too_few() -> None:
    found = symmetry_of_pairs(noise(40, 3), noise(40, 3, seed=1))
    assert found.verdict is Verdict.TOO_FEW
    assert found.samples_needed is not None
    assert (
        symmetry_of_pairs(noise(2 * found.samples_needed, 3), noise(2 * found.samples_needed, 3, seed=1)).verdict
        is Verdict.NONE
    )


@pytest.fixture(scope="module")
def scrambled() -> tuple[Tensor, Tensor, Tensor]:
    """Digits, the same turned by 12 degrees, and the generator of rotations, all in one random order of pixels."""
    images = np.pad(scipy.ndimage.zoom(load_digits().images / 16, (1, 1.5, 1.5), order=1), ((0, 0), (2, 2), (2, 2)))
    upright = torch.from_numpy(images)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    family = ImageAlgebra(derivative="bilinear")
    flowed = family.expm_apply(torch.tensor([math.radians(12)], dtype=torch.float64), upright[:, None])[:, 0]
    true = family.dense((16, 16), dtype=torch.float64)[0][order][:, order]
    return upright.flatten(1)[:, order], flowed.flatten(1)[:, order], true


def test_scrambled_pixels_of_pairs_have_the_rotation(scrambled: tuple[Tensor, Tensor, Tensor]) -> None:
    X, Y, true = scrambled
    found = symmetry_of_pairs(X + 0.05 * noise(*X.shape), Y + 0.05 * noise(*X.shape, seed=1))
    assert (found.verdict, found.name) == (Verdict.FOUND, "so(2)")
    assert cosine(found, true, X) > 0.85
    assert symmetry_of_pairs(X, Y.flip(0)).verdict is Verdict.NONE


def test_classes_that_turned_have_the_rotation_without_pairs(scrambled: tuple[Tensor, Tensor, Tensor]) -> None:
    X, Y, true = scrambled
    digit = load_digits().target
    found = symmetry_of_pairs(X[::2], Y[1::2], classes=(digit[::2], digit[1::2]))
    assert found.verdict is Verdict.FOUND
    assert cosine(found, true, X) > 0.6
    assert symmetry_of_pairs(X[::2], X[1::2], classes=(digit[::2], digit[1::2])).verdict is not Verdict.FOUND
    other = torch.from_numpy(digit[1::2])[torch.randperm(898, generator=torch.Generator().manual_seed(0))]
    assert symmetry_of_pairs(X[::2], Y[1::2], classes=(digit[::2], other)).verdict is not Verdict.FOUND


def test_a_report_prints_at_any_size_and_makes_operators(scrambled: tuple[Tensor, Tensor, Tensor]) -> None:
    X, Y, _ = scrambled
    found = symmetry_of_pairs(X[:400].reshape(-1, 16, 16), Y[:400].reshape(-1, 16, 16))
    assert found.form is None
    assert found.as_operators().act(torch.randn(2, 1, 16, 16)).shape == (1, 2, 1, 16, 16)
    assert found.to_dict()["moved"] == found.moved


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda: (noise(50, 3), noise(49, 3)), "row by row"),
        (lambda: (noise(50, 3), noise(50, 4)), "of one shape"),
        (lambda: (noise(20, 3), noise(20, 3)), "pass at least 24"),
        (lambda: (noise(50, 3), noise(50, 3) / 0), "NaN"),
        (lambda: (noise(50, 70, 70), noise(50, 70, 70)), "average samples down to 4096"),
    ],
)
def test_bad_pairs_are_one_sentence(arguments: Callable[[], tuple[Any, Any]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        symmetry_of_pairs(*arguments())


def test_bad_classes_are_one_sentence() -> None:
    X, Y = noise(60, 3), noise(50, 3)
    with pytest.raises(ValueError, match="60 and 50 samples have 60 and 60 classes"):
        symmetry_of_pairs(X, Y, classes=(torch.zeros(60), torch.zeros(60)))
    with pytest.raises(ValueError, match="1 classes have 50 samples or more; pass two"):
        symmetry_of_pairs(X, Y, classes=(torch.zeros(60), torch.zeros(50)))
