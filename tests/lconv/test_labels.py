"""Symmetries of what labels say about samples, whatever the distribution of these: known ones, none, and too few data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from relaxify import Group
from relaxify.algebras import orthonormal
from relaxify.lconv import Verdict, symmetries_of
from relaxify.lconv.symmetry import of_labels
from relaxify.lconv.symmetry.by_name import named
from relaxify.lconv.symmetry.classical import names_of
from relaxify.lconv.symmetry.label_breaks import Breaks, breaks, common
from relaxify.lconv.symmetry.labelled import labelled
from relaxify.lconv.symmetry.tangent import tangent_matrices


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def minkowski(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, 1:] * y[:, 1:]).sum(1) - x[:, 0] * y[:, 0]


def distance(x: Tensor, i: int, j: int) -> Tensor:
    return (x[:, i] - x[:, j]).norm(dim=1)


def angle(x: Tensor) -> Tensor:
    return torch.atan2(x[:, 1], x[:, 0])


KNOWN: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "so(1,3)": ((4,), lambda x: torch.tanh(minkowski(x, x) / 4)),
    "sl(2)": ((2, 2), lambda x: torch.tanh(torch.linalg.det(x))),
    "scaling": ((3,), lambda x: x[:, 0] * x[:, 1] / x.square().sum(1) + x[:, 2] / x.norm(dim=1)),
    "so(2) + ignored(1)": ((3,), lambda x: x[:, :2].norm(dim=1).sin()),
}


@pytest.mark.parametrize("name", KNOWN)
def test_labels_that_are_functions_of_invariants(name: str) -> None:
    shape, f = KNOWN[name]
    X = noise(3000, *shape)
    # a distribution that has not the symmetry, in coordinates that are not the symmetry's
    X = X * torch.linspace(0.7, 1.3, shape[-1]).double()
    frame = noise(shape[-1], shape[-1], seed=5) if name == "so(1,3)" else torch.eye(shape[-1]).double()
    found = symmetries_of(X @ frame.mT, f(X) + 0.05 * noise(3000, seed=1))
    assert (found.verdict, found.name) == (Verdict.FOUND, name), found
    known = frame @ named(name, shape[-1]) @ torch.linalg.inv(frame)
    assert found.overlap(known).value > 0.99
    assert found.smallest_break is not None
    assert 0.05 < found.smallest_break < 0.25


def test_labels_without_a_symmetry() -> None:
    X = noise(2000, 3)
    found = symmetries_of(
        X, torch.tanh(X[:, 0] + X[:, 1] * X[:, 2]) + 0.5 * (2 * X[:, 1]).sin() + 0.3 * (X[:, 2] - X[:, 0]).cos()
    )
    assert (found.verdict, found.name, found.dimension) == (Verdict.NONE, None, 0)


def test_labels_that_know_nothing_of_the_samples_decide_nothing() -> None:
    found = symmetries_of(noise(1000, 3), noise(1000, seed=1))
    assert found.verdict is Verdict.TOO_FEW
    assert "no relation to X" in found.reason


def test_few_samples_are_said_to_be_too_few() -> None:
    X = noise(200, 2, 4)
    found = symmetries_of(X, minkowski(X[:, 0], X[:, 1]) + 0.2 * noise(200, seed=1))
    assert found.verdict is Verdict.TOO_FEW
    assert found.samples_needed is None or found.samples_needed > 200


@pytest.mark.parametrize("on_a_circle", [False, True])
def test_labels_of_the_eighth_harmonic_keep_eighths_of_a_turn(on_a_circle: bool) -> None:
    X = noise(2000, 2)
    labels = torch.stack([(8 * angle(X)).sin(), (8 * angle(X)).cos()], 1)
    found = symmetries_of(X / X.norm(dim=1, keepdim=True) if on_a_circle else X, labels)
    assert (found.verdict, found.discrete, found.name) == (Verdict.DISCRETE, "C(8)", None)


def test_classes() -> None:
    """Rings, as integers."""
    X = noise(3000, 2)
    found = symmetries_of(X, (X.norm(dim=1) * 1.5).long().clamp(max=2))
    assert (found.verdict, found.name) == (Verdict.FOUND, "so(2)")


def test_labels_that_turn_along() -> None:
    X = noise(2000, 2, 3)
    found = symmetries_of(X, torch.linalg.cross(X[:, 0], X[:, 1]) + X[:, 0])
    assert (found.verdict, found.name) == (Verdict.FOUND, "so(3)")
    assert found.output_generators is not None
    torch.testing.assert_close(found.output_generators, found.generators, atol=0.05, rtol=0)


def test_few_labels_that_turn_along_are_not_said_to_have_no_symmetry() -> None:
    X = noise(300, 2, 3)
    found = symmetries_of(
        X, torch.linalg.cross(X[:, 0], X[:, 1]) + X[:, 0] * (X[:, 0] * X[:, 1]).sum(1, keepdim=True).tanh()
    )
    assert (found.verdict, found.source) == (Verdict.TOO_FEW, "labels that turn along")


def test_points_may_be_moved() -> None:
    X = noise(3000, 3, 2) + 3
    labels = distance(X, 0, 1) + torch.tanh(distance(X, 1, 2) * distance(X, 0, 2))
    found = symmetries_of(X, labels, affine=True)
    assert (found.verdict, found.name) == (Verdict.FOUND, "e(2)")
    assert found.overlap("e(2)").value > 0.99


AFFINE = {"e(2)": 3, "sim(2)": 3, "e(3)": 4, "sim(3)": 4, "t(3)": 4}
IGNORING = {
    "so(2) + ignored(1)": 3,
    "ignored(2)": 3,
    "so(1,3) + ignored(1)": 5,
    "scaling + ignored(1)": 3,
    "e(2) + ignored(1)": 4,
}


@pytest.mark.parametrize(("name", "d"), list((AFFINE | IGNORING).items()))
def test_names_that_are_reported_can_be_asked_for(name: str, d: int) -> None:
    frame = noise(d, d, seed=d) + 2 * torch.eye(d)
    moved = torch.linalg.solve(frame, named(name, d) @ frame)
    if name in IGNORING:
        assert names_of(moved)[0] == name
    else:
        # of the points (x, 1) only affine frames may be chosen
        frame[-1, :-1] = 0
        assert names_of(torch.linalg.solve(frame, named(name, d) @ frame))[0] == name
    assert len(named("similarity", 3)) == len(named("sim(2)", 3)) == 4


def test_on_a_mass_shell_only_what_keeps_it_is_asked_about() -> None:
    x = noise(500, 3)
    shell = torch.cat([(1 + x.square().sum(1, keepdim=True)).sqrt(), x], 1)
    found = tangent_matrices(shell)
    known = orthonormal(Group.parse("SO(1,3)").generators)
    assert found.shape == (6, 4, 4)
    assert float((found.flatten(1) @ known.flatten(1).mT).square().sum()) == pytest.approx(6)
    assert len(tangent_matrices(noise(500, 4))) == 16


def test_noise_of_independent_fits_is_no_break() -> None:
    """Two directions of eight that nothing breaks, seen through noise twice as large as the others' breaks."""
    signal = noise(4000, 1, 1, 8) * torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 1])
    first, second = (signal + 0.2 * noise(4000, 1, 1, 8, seed=seed) for seed in (1, 2))
    found, _ = breaks(first, second)
    assert found.kept == 2
    assert found.spectrum[:2].max() < 0.06
    assert found.noise[:2] == pytest.approx(torch.full((2,), 0.2**2 / 2 * 8 / 6), rel=0.25)
    assert found.judge(0.0)[0] is Verdict.TOO_FEW


def test_what_a_spectrum_comes_to() -> None:
    def judged(spectrum: list[float], noise: float, closure: float = 0.0) -> Verdict:
        squares = torch.tensor(spectrum) ** 2
        return Breaks(torch.eye(len(spectrum)), squares, torch.full_like(squares, noise**2)).judge(closure)[0]

    assert judged([0.02, 0.03, 0.9, 1.0], 0.03) is Verdict.FOUND
    assert judged([0.02, 0.03, 0.9, 1.0], 0.03, closure=0.3) is Verdict.NONE
    assert judged([0.02, 0.03, 0.9, 1.0], 0.2) is Verdict.TOO_FEW
    assert judged([0.02, 0.05, 0.1, 0.2], 0.01) is Verdict.NONE
    assert judged([0.4, 0.5, 0.9, 1.0], 0.1) is Verdict.NONE
    assert judged([0.4, 0.5, 0.9, 1.0], 0.3) is Verdict.TOO_FEW
    # what fits have in common before a clear step, and a break that is seen between two steps
    assert judged([0.02, 0.03, 0.08, 1.0], 0.01) is Verdict.FOUND
    assert judged([0.02, 0.03, 0.18, 0.9], 0.1) is Verdict.TOO_FEW


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "labels": (lambda: symmetries_of(noise(50, 3), affine=True), "pass labels Y"),
    "rows": (lambda: symmetries_of(noise(50, 3), noise(49)), "one row for each in both"),
    "few": (lambda: symmetries_of(noise(30, 3), noise(30)), "at least 40"),
    "same": (lambda: symmetries_of(noise(50, 3), torch.ones(50)), "all labels are the same"),
    "large": (lambda: symmetries_of(noise(50, 40), noise(50)), "at most 32"),
    "singular": (lambda: symmetries_of(noise(50, 2)[:, [0, 1, 0]], noise(50)), "singular"),
    "nan": (lambda: symmetries_of(noise(50, 2), noise(50) / 0), "Y has NaN or infinite"),
    "shape": (lambda: symmetries_of(noise(50, 2, 2, 2), noise(50)), "pass \\(samples, d\\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_labelled_data_are_one_sentence(case: str) -> None:
    call, says = BAD[case]
    with pytest.raises(ValueError, match=says):
        call()


def test_many_whole_numbers_are_numbers() -> None:
    """Counts and rounded measurements have no classes, which would have a sample or two each."""
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    y = (100 * x.square().sum(1)).round().long()
    assert not labelled(x, y, affine=False).classes
    assert labelled(x, y % 50, affine=False).classes
    found = symmetries_of(x, y)
    assert found.name == "so(2)"
    assert "whole numbers as labels are taken for numbers" in found.reason


def test_copies_of_labelled_samples_are_no_more_samples() -> None:
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x.square().sum(1) + 3 * torch.randn(300, generator=torch.Generator().manual_seed(1))
    once, often = labelled(x, y, affine=False), labelled(x.repeat(4, 1), y.repeat(4), affine=False)
    assert (once.independent, often.independent) == (300, 300)
    assert "1,200 rows are 300" in symmetries_of(x.repeat(4, 1), y.repeat(4)).reason


def test_fits_that_change_in_no_common_way_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert "have no relation to X" not in symmetries_of(x, x.square().sum(1)).reason
    monkeypatch.setattr(of_labels, "common", lambda first, second: torch.tensor(-1.0))
    found = symmetries_of(x, x.square().sum(1))
    assert found.verdict is Verdict.TOO_FEW
    assert "have no relation to X" in found.reason


def test_fits_that_have_nothing_in_common_are_told_apart() -> None:
    rows = torch.randn(50, 1, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(common(rows, rows / 2)) > 0
    assert float(common(rows, -rows / 2)) < 0
    found, _ = breaks(rows, -rows / 2)
    assert found.samples_needed(50) is None
