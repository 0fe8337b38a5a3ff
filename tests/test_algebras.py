"""What a set of matrices is as a Lie algebra: closure, constants, Killing form, invariant forms, names, and overlaps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from torch import Tensor

from relaxify import Group
from relaxify.algebras import (
    brackets,
    closure_residual,
    exponential,
    killing_form,
    orthonormal,
    signature,
    structure_constants,
)
from relaxify.lconv.symmetry import names_of, overlap
from relaxify.lconv.symmetry.by_name import catalogue
from relaxify.lconv.symmetry.forms import invariant_form

# every classical algebra of small dimension, by name
CLASSICAL = {name: make() for n in (1, 3, 4, 6, 8, 9, 10) for name, size, make in catalogue(n) if size == n}
NAMES = st.sampled_from(sorted(CLASSICAL))
MANY = {"so(3)": {"su(2)"}, "sp(4)": {"so(2,3)"}, "sl(2)": {"sp(2)", "so(1,2)"}}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def disguised(matrices: Tensor, seed: int, extra: int = 0) -> Tensor:
    """The algebra in another basis of itself and other coordinates of its space, next to `extra` idle dimensions."""
    matrices = torch.nn.functional.pad(matrices, (0, extra, 0, extra))
    d = matrices.shape[-1]
    turn = torch.linalg.qr(noise(d, d, seed=seed)).Q @ torch.diag(torch.linspace(0.5, 2, d, dtype=torch.float64))
    return torch.einsum("ij,jab->iab", noise(len(matrices), len(matrices), seed=seed), turn @ matrices @ turn.inverse())


@given(st.integers(1, 5), st.floats(-5, 0.5), st.integers(0, 99))
def test_the_exponential_is_exact_for_small_matrices_too(d: int, size: float, seed: int) -> None:
    matrix = 10**size * noise(d, d, seed=seed)
    expected = torch.from_numpy(expm(matrix.numpy()))
    torch.testing.assert_close(exponential(matrix), expected, atol=1e-14 * float(expected.abs().max()), rtol=0)


@given(NAMES, st.integers(0, 99))
def test_an_algebra_closes_in_every_basis(name: str, seed: int) -> None:
    matrices = disguised(CLASSICAL[name], seed)
    basis = orthonormal(matrices)
    assert len(basis) == len(matrices)
    assert closure_residual(matrices) < 1e-10
    expected = torch.einsum("ijk,kab->ijab", structure_constants(basis), basis)
    torch.testing.assert_close(brackets(basis), expected, atol=1e-10, rtol=0)


@given(NAMES, st.integers(0, 99), st.integers(0, 2))
def test_names_do_not_depend_on_the_basis(name: str, seed: int, extra: int) -> None:
    assert name in names_of(disguised(CLASSICAL[name], seed, extra))


@given(NAMES)
def test_the_matrices_own_size_decides_which_name_comes_first(name: str) -> None:
    # sl(2) and sp(2) are the same matrices
    assert names_of(CLASSICAL[name])[0] == ("sl(2)" if name == "sp(2)" else name)


@given(NAMES, st.integers(0, 20))
@settings(max_examples=30)
def test_names_survive_noise(name: str, seed: int) -> None:
    basis = orthonormal(CLASSICAL[name])
    noisy = basis + 0.02 * noise(*basis.shape, seed=seed) / basis.shape[-1]
    assert name in names_of(noisy, closure_residual(noisy))


def test_isomorphic_algebras_have_each_others_names() -> None:
    for name, others in MANY.items():
        assert set(names_of(CLASSICAL[name])) == {name, *others}


@pytest.mark.parametrize("names", [("so(4)", "so(2)"), ("so(1,3)", "so(3)"), ("sl(3)", "so(3)"), ("so(1,2)", "so(3)")])
@pytest.mark.parametrize("size", [0.0, 0.01])
def test_sums_of_algebras(names: tuple[str, str], size: float) -> None:
    a, b = (CLASSICAL[name] for name in names)
    m, n = a.shape[-1], b.shape[-1]
    both = torch.cat([torch.nn.functional.pad(a, (0, n, 0, n)), torch.nn.functional.pad(b, (m, 0, m, 0))])
    basis = orthonormal(both)
    noisy = basis + size * noise(*basis.shape) / basis.shape[-1]
    parts = names_of(noisy, closure_residual(noisy))[0].split(" + ")
    assert set(parts) == set(names)


def test_abelian_and_one_parameter_algebras() -> None:
    assert names_of(Group.parse("T(3)").generators) == ("t(3)",)
    assert names_of(Group.parse("SO(2)").generators) == ("so(2)",)
    assert names_of(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])) == ("so(1,1)",)
    assert names_of(torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])) == ("abelian(1)",)
    diagonal = torch.stack([torch.diag(row) for row in torch.eye(4)])
    assert names_of(diagonal) == ("abelian(4)",)
    tilted = orthonormal(diagonal.double()) + 0.01 * noise(4, 4, 4)
    assert names_of(tilted, closure_residual(tilted)) == ("abelian(4)",)


@given(st.integers(2, 6), st.integers(3, 5), st.integers(0, 99))
def test_random_matrices_have_no_name(count: int, d: int, seed: int) -> None:
    matrices = noise(count, d, d, seed=seed)
    residual = closure_residual(matrices)
    if count < d * d - 1:
        assert residual > 0.1
        assert names_of(matrices, residual) == ()


@pytest.mark.parametrize(
    ("name", "signs"), [("SO(3)", "0+/3-"), ("SO(1,3)", "3+/3-"), ("SL(2)", "2+/1-"), ("T(2)", "0+/0-/2 zero")]
)
def test_killing_signatures(name: str, signs: str) -> None:
    form = killing_form(structure_constants(orthonormal(Group.parse(name).generators)))
    assert str(signature(form, 1e-9)) == signs


@pytest.mark.parametrize(
    ("name", "symmetric", "signs"),
    [("so(3)", True, "3+/0-"), ("so(1,3)", True, "3+/1-"), ("sp(4)", False, None), ("so(2,3)", True, "3+/2-")],
)
def test_invariant_forms(name: str, symmetric: bool, signs: str | None) -> None:
    form = invariant_form(CLASSICAL[name])
    assert form is not None
    assert form.symmetric is symmetric
    assert (None if form.signature is None else str(form.signature)) == signs
    for matrix in CLASSICAL[name]:
        torch.testing.assert_close(
            matrix.mT @ form.matrix + form.matrix @ matrix, torch.zeros_like(matrix), atol=1e-9, rtol=0
        )


def test_what_keeps_no_form_has_none() -> None:
    assert invariant_form(CLASSICAL["sl(3)"]) is None
    assert invariant_form(CLASSICAL["gl(2)"]) is None


@given(st.integers(1, 4), st.floats(0, 80), st.integers(0, 99))
def test_overlap_is_the_mean_squared_cosine(count: int, degrees: float, seed: int) -> None:
    """A subspace turned by a known angle in every direction."""
    frame = torch.linalg.qr(noise(16, 16, seed=seed)).Q.mT
    known, normal = frame[:count].reshape(count, 4, 4), frame[count : 2 * count].reshape(count, 4, 4)
    angle = math.radians(degrees)
    result = overlap(math.cos(angle) * known + math.sin(angle) * normal, known)
    assert result.value == pytest.approx(math.cos(angle) ** 2, abs=1e-9)
    assert result.chance == count / 16
    assert result.angles == pytest.approx([degrees] * count, abs=1e-5)


def test_chance_is_what_random_subspaces_reach() -> None:
    known = Group.parse("SO(1,3)").generators
    values = [overlap(noise(6, 4, 4, seed=seed), known) for seed in range(200)]
    assert sum(v.value for v in values) / 200 == pytest.approx(values[0].chance, rel=0.05)
    assert values[0].chance == 6 / 16


def test_overlap_does_not_depend_on_bases_and_punishes_other_dimensions() -> None:
    known = Group.parse("SO(3)").generators
    mixed = torch.einsum("ij,jab->iab", noise(3, 3), known)
    assert overlap(mixed, known).value == pytest.approx(1)
    assert max(overlap(mixed, known).angles) < 1e-6
    assert overlap(known[:2], known).value == pytest.approx(2 / 3)
    assert overlap(torch.eye(9).reshape(9, 3, 3), known).value == pytest.approx(3 / 9)
    with pytest.raises(ValueError, match="cannot be compared"):
        overlap(known, Group.parse("SO(1,3)").generators)


def test_a_vector_beside_idle_dimensions_is_so_and_a_spinor_is_su() -> None:
    vector = torch.nn.functional.pad(CLASSICAL["so(3)"], (0, 1, 0, 1))
    assert names_of(vector) == ("so(3)", "su(2)")
    assert names_of(CLASSICAL["su(2)"]) == ("su(2)", "so(3)")
    twice = torch.stack([torch.block_diag(matrix, matrix) for matrix in CLASSICAL["so(3)"]])
    assert names_of(twice)[0] == "so(3)"
