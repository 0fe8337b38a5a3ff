"""What the distribution of samples keeps: found only where a break would have been seen, and too few data where not."""

from __future__ import annotations

import pytest
import torch

from benchmarks.discovery import (
    Draw,
    clusters,
    corners,
    exponential,
    flat,
    gaussian,
    laplace,
    logistic,
    mixed,
    mixture,
    noisy,
    side_by_side,
    special_unitary,
    sphere,
    turned_together,
    uniform,
)
from relaxify.lconv import Symmetry, symmetries_of
from relaxify.lconv.symmetry.symmetry import Verdict


def of(draw: Draw, count: int, seed: int = 0, **options: bool) -> Symmetry:
    return symmetries_of(draw(count, torch.Generator().manual_seed(seed)), resamplings=0, **options)


KEPT: dict[str, tuple[Draw, int, str]] = {
    "a ring": (mixed(noisy(sphere(2))), 3000, "so(2)"),
    "Gaussian": (mixed(gaussian(4)), 5000, "so(4)"),
    "beside two skewed": (mixed(side_by_side(gaussian(3), exponential(2))), 5000, "so(3)"),
    "a product": (mixed(side_by_side(sphere(3), sphere(2))), 5000, "so(3) + so(2)"),
    "two vectors in R^6": (mixed(flat(turned_together(3, 2))), 30_000, "so(3)"),
    "two vectors": (mixed(turned_together(3, 2)), 5000, "so(3)"),
    "su(2)": (mixed(special_unitary(2)), 6000, "su(2)"),
    "u(2)": (mixed(special_unitary(2, phase=True)), 6000, "u(2)"),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_a_distribution_keeps_is_found(kind: str) -> None:
    draw, count, name = KEPT[kind]
    found = of(draw, count)
    assert (found.verdict, found.name) == (Verdict.FOUND, name)
    assert found.smallest_break is not None
    assert found.smallest_break <= 0.15
    assert "would have shown with probability 0.95" in str(found)


WITHOUT: dict[str, Draw] = {
    "logistic": mixed(logistic(3)),
    "Laplace": mixed(laplace(3)),
    "clusters": mixed(clusters(7)),
    "cube": mixed(corners(3)),
    "skewed": mixed(exponential(3)),
    "mixture": mixture(3),
    "correlated": mixed(lambda count, random: uniform(count, 3, random=random) - 0.5),
}


@pytest.mark.parametrize("count", [300, 1000, 3000])
@pytest.mark.parametrize("kind", WITHOUT)
def test_what_no_rotation_keeps_is_never_found(kind: str, count: int) -> None:
    """Benchmarks draw 200 of each; at 3,000 most are known to have none."""
    for seed in range(3):
        found = of(WITHOUT[kind], count, seed)
        assert not found.found
        assert found.name is None
        assert found.verdict is not Verdict.TOO_FEW or found.samples_needed > count
