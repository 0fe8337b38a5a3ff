"""Pooling over cosets: what CNNs do on windows, and generators pushed forward with what is lost by it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from relaxify.lconv import CosetPool, Dense, ImageAlgebra, LConv, LowRank
from relaxify.lconv.operators import Generators


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ring_shift(points: int, by: int = 1) -> Dense:
    return Dense(torch.eye(points).roll(by, 0)[None], learnable=False)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.sampled_from(["average", "max"]))
def test_windows_are_the_pooling_of_cnns(rows: int, columns: int, high: int, wide: int, form: Any) -> None:
    pool = CosetPool.windows((rows * high, columns * wide), (high, wide), form=form).double()
    h = noise(2, 3, rows * high, columns * wide)
    known = F.avg_pool2d if form == "average" else F.max_pool2d
    torch.testing.assert_close(pool(h), known(h, (high, wide)))


def by_the_whole_matrix(pool: CosetPool, cosets: Tensor, h: Tensor) -> Tensor:
    """The mean as a product with P, the maximum over all points with the others left out."""
    flat = h.flatten(2)
    if pool.form == "average":
        return flat @ (cosets / cosets.sum(1, keepdim=True)).mT
    return flat[:, :, None].masked_fill(cosets == 0, -torch.inf).amax(-1)


@given(st.integers(1, 6), st.integers(1, 9), st.floats(0, 1), st.sampled_from(["average", "max"]), st.integers(0, 99))
def test_any_cosets_cost_their_points_alone_and_give_the_same(
    coarse: int, fine: int, sparsity: float, form: Any, seed: int
) -> None:
    """Overlapping, of unequal sizes and weights, with points in none; gradients too, where values tie as well."""
    cosets = noise(coarse, fine, seed=seed).abs() * (noise(coarse, fine, seed=seed + 1).abs() > sparsity)
    cosets[:, seed % fine] += 0.5
    h = noise(2, 3, fine, seed=seed).relu().requires_grad_()
    every = torch.ones_like(cosets).nonzero().T
    for given_as in (
        cosets,
        cosets.to_sparse(),
        torch.sparse_coo_tensor(every, cosets.flatten(), cosets.shape, check_invariants=True),
    ):
        pool = CosetPool(given_as, form=form)
        found, expected = pool(h), by_the_whole_matrix(pool, cosets, h)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found.sin().sum(), h), torch.autograd.grad(expected.sin().sum(), h))
        torch.testing.assert_close(pool.weights, cosets)
        assert pool(h[:0]).shape == (0, 3, coarse)


def test_windows_of_large_images_hold_no_matrix_of_all_points() -> None:
    """It would have 12,544 x 50,176 entries."""
    pool = CosetPool.windows((224, 224), (2, 2), form="max")
    assert sum(tensor.numel() for tensor in pool.state_dict().values()) == 2 * 224**2
    h = torch.randn(1, 2, 224, 224)
    assert torch.equal(pool(h), F.max_pool2d(h, 2))


@pytest.mark.parametrize("form", ["average", "max"])
def test_states_with_dense_weights_are_read(form: Any) -> None:
    cosets = CosetPool.windows((6,), (2,)).weights * torch.arange(1.0, 7)
    pool = CosetPool.windows((6,), (2,), form=form)
    pool.load_state_dict({"weights": cosets})
    h = torch.randn(2, 3, 6)
    torch.testing.assert_close(pool(h), by_the_whole_matrix(pool, cosets, h))


@pytest.mark.parametrize("by", [2, 4])
def test_a_shift_by_whole_cosets_becomes_a_shift_of_cosets(by: int) -> None:
    pushed = CosetPool.windows((12,), (2,)).push(ring_shift(12, by))
    torch.testing.assert_close(pushed.generators.dense(), ring_shift(6, by // 2).dense())
    assert pushed.coset_residual < 1e-6
    assert pushed.closure_residual < 1e-6


def test_a_shift_by_half_a_coset_is_halfway_and_says_so() -> None:
    pushed = CosetPool.windows((12,), (2,)).push(ring_shift(12))
    halfway = (torch.eye(6) + torch.eye(6).roll(1, 0)) / 2
    torch.testing.assert_close(pushed.generators.dense()[0], halfway)
    assert pushed.coset_residual == pytest.approx(math.sqrt(0.5), abs=1e-3)


@pytest.mark.parametrize("form", ["average", "max"])
def test_pooling_commutes_with_what_respects_the_cosets(form: Any) -> None:
    """P (L h) = L' (P h): the next layer may go on with L'."""
    pool, shift = CosetPool.windows((12,), (3,), form=form), ring_shift(12, 3)
    pushed = pool.push(shift)
    h = torch.randn(2, 4, 12)
    torch.testing.assert_close(pool(shift.act(h)[0]), pushed.generators.act(pool(h))[0])


def test_pushed_generators_are_formed_on_the_coarse_space_alone() -> None:
    """P L P^+ of an image's rotation, from 64 x 64 points: 8 x 8 are formed, 4096 x 4096 are not."""
    cosets = torch.zeros(16, 64, 64)
    for k in range(16):
        cosets[k, 16 * (k // 4) : 16 * (k // 4 + 1), 16 * (k % 4) : 16 * (k % 4 + 1)] = 1
    pool = CosetPool(cosets.flatten(1), space=(64, 64), space_out=(4, 4))
    pushed = pool.push(ImageAlgebra(("rotation",)))
    assert pushed.generators.dense().shape == (1, 16, 16)
    assert pushed.coset_residual > 0.1


@given(st.integers(2, 6), st.integers(1, 2), st.integers(0, 99))
def test_pushing_is_the_formula(d: int, coarse: int, seed: int) -> None:
    cosets = noise(coarse, d, seed=seed).abs() + 0.1
    generators = Dense(noise(3, d, d, seed=seed + 1), learnable=False)
    pool = CosetPool(cosets)
    pushed = pool.push(generators)
    P = cosets / cosets.sum(1, keepdim=True)
    expected = P @ generators.matrices @ torch.linalg.pinv(P)
    torch.testing.assert_close(pushed.generators.dense(), expected)
    lost = (P @ generators.matrices - expected @ P).norm() / (P @ generators.matrices).norm()
    assert pushed.coset_residual == pytest.approx(float(lost), abs=1e-7)


def test_cosets_are_learned_that_a_scrambled_shift_respects() -> None:
    """The coset penalty finds the pairs of a scrambled ring that moves by pairs."""
    torch.manual_seed(0)
    order = torch.randperm(8)
    shift: Generators = Dense(torch.eye(8).roll(2, 0)[order][:, order][None], learnable=False)
    pool = CosetPool.learned((8,), 4, spread=1.0)
    optimizer = torch.optim.Adam(pool.parameters(), 0.05)
    before = float(pool.coset_penalty(shift).detach())
    for _ in range(300):
        optimizer.zero_grad()
        pool.coset_penalty(shift).backward()
        optimizer.step()
    assert float(pool.coset_penalty(shift).detach()) < 0.1 * before
    assert pool.push(shift).coset_residual < 0.1 * before


def test_learned_maxima_start_at_the_given_cosets_and_move_them() -> None:
    torch.manual_seed(0)
    given_cosets = CosetPool.windows((6,), (2,), form="max").weights
    h = torch.randn(2, 3, 6)
    exact = CosetPool(given_cosets, form="max")(h)
    learned = CosetPool(given_cosets, form="max", learnable=True)
    torch.testing.assert_close(learned(h), exact, atol=0.02, rtol=0)
    learned(h).square().sum().backward()
    assert learned.logits.grad is not None
    assert bool(learned.logits.grad.any())
    assert bool(learned.logits.grad.isfinite().all())


def test_a_network_with_pooling_between_l_convs_trains() -> None:
    torch.manual_seed(0)
    first = LConv(LowRank.random(4, (12,), rank=3), 1, 8, activation=torch.relu)
    pool = CosetPool.windows((12,), (2,))
    second = LConv(pool.push(first.generators).generators, 8, 2)
    x = torch.randn(32, 1, 12)
    out = second(pool(first(x)))
    assert out.shape == (32, 2, 6)
    out.square().sum().backward()
    assert all(p.grad is not None for p in first.parameters())


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="do not tile"):
        CosetPool.windows((5,), (2,))
    with pytest.raises(ValueError, match="no point at all"):
        CosetPool(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="negative weight"):
        CosetPool(torch.tensor([[1.0, -1.0]]))
    with pytest.raises(ValueError, match="do not fit"):
        CosetPool(torch.ones(2, 4), space=(3,))
