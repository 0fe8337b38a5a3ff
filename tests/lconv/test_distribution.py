"""What the distribution of samples keeps: found only where a break would have been seen, and too few data where not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
    pinwheel,
    side_by_side,
    special_unitary,
    sphere,
    turned_together,
    uniform,
)
from relaxify.lconv import Symmetry, symmetries_of
from relaxify.lconv.symmetry.breaks import Family, noncentrality
from relaxify.lconv.symmetry.by_name import named
from relaxify.lconv.symmetry.harmonic_breaks import families
from relaxify.lconv.symmetry.harmonics import Harmonics, size
from relaxify.lconv.symmetry.in_families import symmetries_of_components
from relaxify.lconv.symmetry.means import means_of
from relaxify.lconv.symmetry.moments import antisymmetric, roots
from relaxify.lconv.symmetry.symmetry import Verdict


def of(draw: Draw, count: int, seed: int = 0, **options: Any) -> Symmetry:
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
    assert found.closure_residual is not None
    assert found.closure_residual < 1e-5
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


def test_turns_about_the_mean_are_found_when_it_is_removed() -> None:
    draw = mixed(side_by_side(gaussian(2), exponential(1)))

    def shifted(count: int, random: torch.Generator) -> Tensor:
        return draw(count, random) + torch.tensor([3.0, -1.0, 2.0])

    found = of(shifted, 5000, center=True)
    assert found.name == "so(2)"
    assert "about the mean, which was removed" in str(found)
    about_the_origin = of(shifted, 5000)
    assert about_the_origin.name is None
    assert "center=True would look about it" in about_the_origin.reason


@pytest.mark.parametrize("k", [2, 3, 4, 6, 8, 12])
def test_clusters_on_a_ring_are_no_circle(k: int) -> None:
    draw = mixed(clusters(k))
    for found in (of(draw, 3000), of(draw, 3000, statistics="second_moments")):
        assert (found.verdict, found.discrete, found.name) == (Verdict.DISCRETE, f"D({k})", None)
        assert f"discrete symmetry D({k})" in str(found)
    assert not of(draw, 300).found


GROUPS: dict[str, tuple[Draw, str | None]] = {
    "beside another": (mixed(side_by_side(clusters(8), exponential(1))), "D(8)"),
    "turned by a third": (mixed(pinwheel(4)), "C(4)"),
    "corners": (mixed(corners(3)), "cube"),
    "alike and even": (mixed(laplace(4)), "cube in 4 dimensions"),
    "alike and skewed": (mixed(exponential(3)), "S(3)"),
    "even, of three kinds": (mixed(side_by_side(laplace(1), logistic(1), corners(1))), "signs of 3 axes"),
    "of three kinds": (mixed(side_by_side(exponential(1), logistic(1), corners(1))), None),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_a_finite_group_is_named_where_no_rotation_is_kept(kind: str) -> None:
    draw, name = GROUPS[kind]
    found = of(draw, 5000)
    assert (found.verdict, found.discrete) == (Verdict.DISCRETE if name else Verdict.NONE, name)
    assert name is None or found.smallest_break is not None


def test_a_group_is_not_named_by_samples_that_could_not_deny_it() -> None:
    """Twelve clusters, blurred, vary by 0.3: at 700 samples other frequencies of as much as 0.2 would not show."""
    found = of(mixed(clusters(12)), 700)
    assert found.verdict is Verdict.NONE
    assert found.discrete is None
    assert "C(12) at most, as far as these samples tell" in found.reason


@given(st.integers(2, 6), st.integers(0, 99))
def test_zonal_functions_are_orthonormal_and_turn_by_an_orthogonal_representation(d: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    harmonics = Harmonics.on(d, random)
    u = torch.nn.functional.normalize(torch.randn(3, d, generator=random, dtype=torch.float64), dim=1)
    g = torch.linalg.qr(torch.randn(d, d, generator=random, dtype=torch.float64)).Q
    for degree in (1, 2, 4):
        rho = harmonics.acted(degree, g)
        assert len(rho) == size(degree, d)
        torch.testing.assert_close(harmonics.values(degree, u @ g.mT), harmonics.values(degree, u) @ rho.mT)
        torch.testing.assert_close(rho @ rho.mT, torch.eye(len(rho), dtype=torch.float64))


@pytest.mark.parametrize("centred", [False, True])
def test_chance_breaks_a_kept_rotation_as_often_as_is_said(centred: bool) -> None:
    """A rotation about one axis of a distribution that keeps no other; whitening and mean are estimated from the samples."""
    basis = antisymmetric(torch.eye(3, dtype=torch.float64))
    values, second = [], []
    for seed in range(40):
        z = torch.randn(500, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        z[:, 2] = z[:, 2].exp() - 1.6 + 0.3 * (z[:, 0].square() + z[:, 1].square())
        z = z - z.mean(0) if centred else z
        root, inverse = roots(z.mT @ z / len(z))
        kept = torch.einsum("kab,ab->k", basis, inverse @ basis[0] @ root)
        tested = families((z @ inverse)[:, None], basis, centred=centred, seed=0)
        broken = [family.broken((kept / kept.norm())[:, None]) for family in tested if family.degree <= 4]
        values.append([one.p_value for one in broken])
        second.append([one.value / one.freedom for one in broken if one.degree == 2])
    # whitening makes second moments right, and so the harmonics of degree 2 vary less
    assert 0.75 < float(torch.tensor(second).mean()) < 1.3
    p = torch.tensor(values).flatten()
    assert 0.02 < float((p < 0.05).double().mean()) < 0.09
    assert 0.4 < float(p.mean()) < 0.6


def test_a_break_of_the_stated_size_is_seen_with_the_stated_power() -> None:
    """A circle of density 1 + a cos 5 phi, of rms modulation a / sqrt 2, at the size that one test at 1 % sees in 80 %."""
    seen, count = 0, 2000
    wanted = math.sqrt(noncentrality(2.0, 0.01, 0.8) / count)
    for seed in range(60):
        random = torch.Generator().manual_seed(seed)
        angle = 2 * math.pi * torch.rand(2 * count, generator=random, dtype=torch.float64)
        kept = torch.rand(2 * count, generator=random) < 0.5 * (1 + wanted * math.sqrt(2) * (5 * angle).cos())
        angle = angle[kept][:count]
        z = torch.stack([angle.cos(), angle.sin()], 1)
        z = z @ roots(z.mT @ z / len(z))[1]
        tested = families(z[:, None], antisymmetric(torch.eye(2, dtype=torch.float64)), centred=False, seed=0)
        near: Family = next(family for family in tested if family.degree == 5)
        seen += near.broken(torch.ones(1, 1, dtype=torch.float64)).p_value < 0.01
    assert 0.65 < seen / 60 < 0.93


def test_too_few_samples_are_undecided() -> None:
    found = of(gaussian(4), 40)
    assert found.verdict is Verdict.TOO_FEW
    assert "too few samples" in found.reason
    assert found.samples_needed is not None
    enough = of(gaussian(4), found.samples_needed)
    assert enough.found
    assert enough.samples_needed is None
    assert "too few data to tell" in str(found)


def test_second_moments_have_all_of_so_and_the_verdict_is_the_distributions() -> None:
    flat_one = of(mixed(gaussian(3)), 4000, statistics="second_moments")
    assert (flat_one.name, flat_one.dimension) == ("so(3)", 3)
    skewed = of(mixed(exponential(3)), 4000, statistics="second_moments")
    assert (skewed.name, skewed.dimension, skewed.names) == (None, 3, ("so(3)", "su(2)"))


def test_the_confidence_angle_holds_the_true_axis() -> None:
    inside = 0
    for seed in range(10):
        random = torch.Generator().manual_seed(seed)
        z = side_by_side(gaussian(2), exponential(1))(4000, random)
        mix = torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(3, 3, generator=random, dtype=torch.float64)
        found = symmetries_of(z @ mix.mT, resamplings=99)
        true = torch.zeros(1, 3, 3, dtype=torch.float64)
        true[0, 0, 1], true[0, 1, 0] = 1, -1
        assert found.confidence_angle is not None
        assert found.confidence_angle < 10
        inside += max(found.overlap(mix @ true @ torch.linalg.inv(mix)).angles) < found.confidence_angle
    assert inside >= 8


def test_small_errors_of_the_axes_are_no_break_of_their_group() -> None:
    """By 2 degrees, where 5,000 corners of a cube show a fraction of that; by 20 they are other axes."""
    z = corners(3)(5000, torch.Generator().manual_seed(0))
    z = z @ roots(z.mT @ z / len(z))[1]
    harmonics = Harmonics.on(3, torch.Generator().manual_seed(0))
    fourth = [one for one in means_of(z, harmonics, centred=False) if one.degree == 4]
    turn = antisymmetric(torch.eye(3, dtype=torch.float64)).sum(0)
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    p = []
    for degrees in (2.0, 20.0):
        axes = torch.linalg.matrix_exp(math.radians(degrees) * turn / turn.norm() * math.sqrt(2))
        rho = harmonics.acted(4, axes @ flip @ axes.mT)
        p.append(min(one.changed(rho).p_value for one in fourth))
    assert p[0] > 1e-3
    assert p[1] < 1e-6


def test_all_rotations_of_principal_components_are_found_where_all_are_kept() -> None:
    """Ten are looked at first, and then the most broken as well."""
    found = symmetries_of_components(mixed(gaussian(6))(30_000, torch.Generator().manual_seed(0)))
    assert (found.name, found.dimension) == ("so(6)", 15), found


def test_of_more_dimensions_than_samples_can_tell_about_is_said_how_many_would_do() -> None:
    found = of(gaussian(26), 3000)
    assert (found.verdict, found.dimension) == (Verdict.TOO_FEW, 0)
    assert found.samples_needed is not None
    assert found.samples_needed > 10_000


def test_an_algebra_of_more_than_45_dimensions_has_a_name_if_it_is_all_rotations() -> None:
    frame = torch.eye(12, dtype=torch.float64) + 0.1 * torch.ones(12, 12, dtype=torch.float64)
    whole = Symmetry(frame @ named("so(12)", 12) @ torch.linalg.inv(frame), Verdict.FOUND, "", "", frame=frame)
    assert whole.name == "so(12)"
    assert Symmetry(whole.generators[1:], Verdict.FOUND, "", "", frame=frame).name is None
