"""How groups act on the taps of a kernel: exactly where taps move onto taps, measurably well elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from relaxify import Group, Representation
from relaxify.grids.taps import (
    Equivariants,
    acts_exactly,
    fitted,
    grid_action,
    grid_actions,
    interpolation_error,
    kernel_representation,
    tap_positions,
)
from relaxify.intertwiners import lie_derivative

QUARTER = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
SIZES = st.integers(1, 6)


def moved(matrix: Tensor, image: Tensor) -> Tensor:
    return (grid_action(matrix, image.shape) @ image.flatten()).reshape(image.shape)


@given(SIZES)
def test_quarter_turns_and_reflections_of_images(k: int) -> None:
    image = torch.randn(k, k, dtype=torch.float64)
    assert torch.equal(moved(QUARTER, image), image.rot90(1))
    assert torch.equal(moved(torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)), image), image.flip(0))
    assert torch.equal(moved(torch.diag(torch.tensor([-1.0, 1.0], dtype=torch.float64)), image), image.flip(1))


@given(st.integers(1, 4))
def test_the_cube(k: int) -> None:
    """A turn about z takes x to y: the last axis to the last but one, upwards."""
    image, about_z = torch.randn(k, k, k, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    about_z[:2, :2] = QUARTER
    assert torch.equal(moved(about_z, image), image.rot90(1, (-2, -1)))
    assert torch.equal(moved(-torch.eye(3, dtype=torch.float64), image), image.flip(0, 1, 2))


@given(st.sampled_from(["C(4)", "C(2)", "D(4)", "D(2)", "D(1)"]), SIZES)
def test_groups_of_the_square_permute_the_taps(name: str, k: int) -> None:
    group = Group.parse(name)
    assert acts_exactly(group.generators, group.finite, (k, k))
    for action in grid_actions(group.generators, group.finite, (k, k)):
        assert torch.equal(action @ action.mT, torch.eye(k * k, dtype=torch.float64))
        assert set(action.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(("name", "size"), [("C(8)", (3, 3)), ("C(4)", (3, 5)), ("SO(2)", (3, 3))])
def test_others_do_not(name: str, size: tuple[int, int]) -> None:
    group = Group.parse(name)
    assert not acts_exactly(group.generators, group.finite, size)


def test_the_derivative_is_that_of_a_turned_function() -> None:
    """Exact on linear functions, inside the kernel: x turned by an angle t is x + t y."""
    group = Group.parse("SO(2)")
    action = grid_actions(group.generators, group.finite, (7, 7))[0]
    x, y = tap_positions((7, 7)).unbind(-1)
    inside = torch.maximum(x.abs(), y.abs()) < 3
    torch.testing.assert_close((action @ x)[inside], y[inside])
    torch.testing.assert_close((action @ y)[inside], -x[inside])


def steerable(k: int, orders: int = 3) -> Float[Tensor, "basis one one taps"]:
    """Invariant kernels' spatial functions: Gaussian rings, the only scalar kernels that rotations leave alone."""
    radius = tap_positions((k, k)).norm(dim=-1)
    return torch.stack([torch.exp(-2 * (radius - r) ** 2) for r in range(orders)])[:, None, None]


@pytest.mark.parametrize("name", ["C(8)", "C(6)", "SO(2)", "O(2)", "D(8)"])
@pytest.mark.parametrize("k", [4, 5])
def test_fitted_interpolation_is_exact_on_what_it_is_fitted_to(name: str, k: int) -> None:
    group = Group.parse(name)
    scalar = Representation.trivial(group)
    known = [Equivariants(steerable(k, (k + 1) // 2), scalar.actions[0], scalar.actions[0])]
    plain, lie = grid_actions(group.generators, group.finite, (k, k)), len(group.generators)
    assert interpolation_error(plain, known, lie) > 0.02
    better = fitted(plain, known, lie)
    assert interpolation_error(better, known, lie) < 1e-9
    # nothing is fitted where nothing is inexact
    assert torch.allclose(fitted(better, known, lie), better)


@given(st.sampled_from(["C(8)", "SO(2)", "D(8)"]), st.sampled_from([3, 5]), st.integers(0, 2**31))
def test_the_interpolation_error_bounds_what_an_equivariant_kernel_scores(name: str, k: int, seed: int) -> None:
    group, generator = Group.parse(name), torch.Generator().manual_seed(seed)
    scalar = Representation.trivial(group)
    known = [Equivariants(steerable(k, (k + 1) // 2), scalar.actions[0], scalar.actions[0])]
    plain = grid_actions(group.generators, group.finite, (k, k))
    coefficients = torch.randn(len(known[0].kernels), generator=generator, dtype=torch.float64)
    kernel = torch.einsum("k,koip->oip", coefficients, known[0].kernels).flatten(1)
    scores = lie_derivative(kernel, kernel_representation(scalar, plain), scalar).flatten(1).norm(dim=1) / kernel.norm()
    assert float(scores.max()) <= interpolation_error(plain, known, len(group.generators)) * (1 + 1e-9)


@given(st.sampled_from(["C(4)", "D(4)", "SO(2)"]), st.integers(1, 3))
def test_fibre_and_grid_act_together(name: str, copies: int) -> None:
    """On vectors at taps: a group element turns each vector and moves it; a Lie generator does both by turns."""
    group, lie = Group.parse(name), len(Group.parse(name).generators)
    vectors = Representation.defining(group, copies)
    grid = grid_actions(group.generators, group.finite, (3, 3))
    x = torch.randn(copies * 2, 9, dtype=torch.float64)
    result = kernel_representation(vectors, grid).act(x.flatten()).unflatten(-1, x.shape)
    turned = vectors.act(x.mT).transpose(1, 2)
    for index, (action, fibre) in enumerate(zip(grid, turned, strict=True)):
        expected = fibre + x @ action.mT if index < lie else fibre @ action.mT
        torch.testing.assert_close(result[index], expected)


def test_a_turn_is_the_exponential_of_its_derivative_for_what_both_are_fitted_to() -> None:
    """The two interpolations are one representation: on invariant kernels both leave everything where it is."""
    so2, c12 = Group.parse("SO(2)"), Group.parse("C(12)")
    kernels = steerable(5)
    trivial = [Representation.trivial(group).actions[0] for group in (so2, c12)]
    known = [[Equivariants(kernels, action, action)] for action in trivial]
    derivative = fitted(grid_actions(so2.generators, so2.finite, (5, 5)), known[0], 1)[0]
    turn = fitted(grid_actions(c12.generators, c12.finite, (5, 5)), known[1], 0)[0]
    rows = kernels.flatten(1)
    torch.testing.assert_close(rows @ turn, rows @ torch.linalg.matrix_exp(derivative * math.pi / 6))
