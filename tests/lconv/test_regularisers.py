"""What keeps learned generators near a Lie algebra: right by definition, unbiased where estimated, and not to be cheated."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relaxify.algebras import brackets, killing_form, orthonormal, structure_constants
from relaxify.lconv import (
    Dense,
    Generators,
    Grid,
    LowRank,
    Shifts,
    algebra,
    closure_penalty,
    degeneracy_penalty,
    killing_penalty,
    regularisers,
)
from relaxify.lconv.symmetry import names_of


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("name", "closes"), [("so(3)", True), ("so(1,3)", True), ("sl(2)", True), ("random", False)])
@pytest.mark.parametrize("probes", [4, 16])
def test_closure_is_zero_for_algebras_alone(name: str, closes: bool, probes: int) -> None:
    torch.manual_seed(0)
    generators = Dense(noise(3, 6, 6)) if name == "random" else algebra(name).double()
    value = float(closure_penalty(generators, probes=probes).detach())
    assert value < 1e-9 if closes else value > 0.1


def test_closure_does_not_depend_on_scale_and_brings_generators_to_close() -> None:
    torch.manual_seed(0)
    learned = Dense(torch.nn.functional.pad(algebra("so(3)").dense(), (0, 3, 0, 3)) + 0.3 * torch.randn(3, 6, 6))
    before = closure_penalty(learned, probes=16, generator=torch.Generator().manual_seed(1))
    scaled = Dense(learned.matrices.detach() * torch.tensor([1.0, 10.0, 0.1])[:, None, None])
    after = closure_penalty(scaled, probes=16, generator=torch.Generator().manual_seed(1))
    assert float(after.detach()) == pytest.approx(float(before.detach()), rel=1e-3)
    optimizer = torch.optim.Adam(learned.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        closure_penalty(learned, probes=8).backward()
        optimizer.step()
    assert float(closure_penalty(learned, probes=16).detach()) < 0.05 * float(before.detach())


def test_killing_orthogonality() -> None:
    so3 = algebra("so(3)").double()
    assert float(killing_penalty(so3)) < 1e-9
    slanted = Dense(so3.matrices + so3.matrices.roll(1, 0) * torch.tensor([1.0, 0, 0]).double()[:, None, None])
    assert float(killing_penalty(slanted).detach()) > 0.1
    translations = algebra("T(2)").double()
    assert float(killing_penalty(translations)) == 0
    penalty = killing_penalty(slanted) + closure_penalty(slanted)
    penalty.backward()
    assert slanted.matrices.grad is not None
    assert bool(slanted.matrices.grad.isfinite().all())


def lowest(generators: Dense, loss: Callable[[Dense], Tensor]) -> Dense:
    """The generators where a loss is lowest, from these."""
    optimizer = torch.optim.LBFGS(
        generators.parameters(), max_iter=150, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-14
    )

    def evaluated() -> Tensor:
        optimizer.zero_grad()
        value = loss(generators)
        value.backward()
        return value

    optimizer.step(evaluated)
    return generators


@pytest.mark.parametrize("seed", [1, 4, 6, 9])
def test_minimising_closure_ends_in_a_degenerate_algebra_unless_that_costs(seed: int) -> None:
    """From the same random start: sl(2), whose Killing form has full rank, or one with zero eigenvalues."""
    torch.manual_seed(seed)
    start = Dense.random(3, (3,)).double()
    alone = lowest(copy.deepcopy(start), closure_penalty)
    together = lowest(
        start, lambda learned: closure_penalty(learned, relative_to="brackets") + degeneracy_penalty(learned, floor=2)
    )
    for learned in (alone, together):
        assert float(closure_penalty(learned).detach()) < 1e-9
    assert float(degeneracy_penalty(alone).detach()) > 0.6
    assert float(degeneracy_penalty(together).detach()) == 0
    assert "sl(2)" in names_of(orthonormal(together.matrices.detach()), 0.0)


@pytest.mark.parametrize(
    ("name", "least"), [("so(3)", 0.0), ("so(1,3)", 0.0), ("sl(3)", 0.0), ("so(2)", 1.0), ("T(3)", 1.0)]
)
def test_degeneracy_is_of_the_span_alone(name: str, least: float) -> None:
    """Neither other generators of it, nor nearly equal ones, nor smaller ones, nor more dimensions that they leave alone."""
    matrices = algebra(name).double().matrices
    mixed = torch.einsum("ij,jab->iab", torch.eye(len(matrices)) + 2 * noise(len(matrices), len(matrices)), matrices)
    alike = 1e-3 * (matrices + 3 * matrices.sum(0))
    for each in (matrices, mixed, alike, torch.nn.functional.pad(matrices, (0, 2, 0, 2))):
        assert float(degeneracy_penalty(Dense(each)).detach()) == pytest.approx(least, abs=1e-6)


def definition(generators: Generators) -> tuple[float, float]:
    """Closure and Killing penalty by all entries of the matrices, in float64."""
    matrices = generators.dense(dtype=torch.float32).detach().double()
    matrices = matrices / matrices.flatten(1).norm(dim=1)[:, None, None]
    constants, pairs = structure_constants(matrices), brackets(matrices)
    rest = pairs - torch.einsum("ijk,kab->ijab", constants, matrices)
    products = torch.einsum("iab,jbc->ijac", matrices, matrices)
    squares = killing_form(constants).square()
    closure = rest.square().sum() / products.square().sum()
    return float(closure), float(1 - squares.diagonal().sum() / squares.sum())


def three_turns(size: int, tilt: float) -> Tensor:
    """so(3) on many vectors, not orthogonal, and more."""
    turns = torch.kron(torch.eye(size // 3), algebra("so(3)").dense())
    tilted = turns + tilt * turns.roll(1, 0)
    return tilted + 0.5 * torch.randn(tilted.shape) / math.sqrt(size)


LARGE: dict[str, Callable[[], Generators]] = {
    "dense": lambda: Dense(torch.randn(3, 80, 80)),
    "grid": lambda: Grid.random(5, Shifts((3, 3), padding=((1, 1), (1, 1))), space=(24, 23)),
    "a grid that reads to one side": lambda: Grid.random(4, Shifts((2, 3), padding=((1, 0), (2, 0))), space=(22, 25)),
    "low rank": lambda: LowRank.random(4, (20, 20), rank=3),
}


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE.keys())
def test_in_larger_spaces_the_penalties_are_the_definition_where_that_is_cheap(make: Callable[[], Generators]) -> None:
    torch.manual_seed(0)
    generators = make()
    closure, killing = definition(generators)
    assert float(closure_penalty(generators).detach()) == pytest.approx(closure, rel=1e-3)
    assert float(killing_penalty(generators).detach()) == pytest.approx(killing, rel=1e-3)


def test_on_random_probes_the_penalties_are_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their mean over draws is within three standard errors of the definition; and no noise passes for a share."""
    monkeypatch.setattr(regularisers, "AFFORDABLE", 0)
    torch.manual_seed(0)
    for matrices in (three_turns(90, 0.5), torch.randn(3, 90, 90)):
        generators = Dense(matrices, learnable=False)
        closure, killing = definition(generators)
        draws = torch.tensor(
            [
                [float(penalty(generators, generator=torch.Generator().manual_seed(seed))) for seed in range(100)]
                for penalty in (closure_penalty, killing_penalty)
            ]
        )
        mean, error = draws.mean(1), draws.std(1) / 10
        assert abs(float(mean[0]) - closure) < 3 * float(error[0])
        if closure < 1:
            assert abs(float(mean[1]) - killing) < 3 * float(error[1]) < 0.01
        else:
            assert abs(float(mean[1])) < 0.1


def test_gradients_in_a_compressed_space_are_those_in_the_whole() -> None:
    torch.manual_seed(0)
    low = LowRank.random(3, (30,), rank=2).double()
    whole = Dense((low.up @ low.down).detach())
    for penalty in (closure_penalty, killing_penalty, lambda each: degeneracy_penalty(each, floor=100.0)):
        for each in (low, whole):
            each.zero_grad()
            penalty(each).backward()
        assert low.up.grad is not None
        assert whole.matrices.grad is not None
        expected = whole.matrices.grad @ low.down.detach().mT
        torch.testing.assert_close(low.up.grad, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_regularisers_of_zero_generators_have_finite_gradients() -> None:
    generators = Dense(torch.zeros(2, 3, 3))
    (closure_penalty(generators) + killing_penalty(generators) + degeneracy_penalty(generators)).backward()
    assert generators.matrices.grad is not None
    assert bool(generators.matrices.grad.isfinite().all())


@pytest.mark.parametrize("seed", range(5))
def test_the_killing_form_of_what_is_no_algebra_is_that_of_the_definition(seed: int) -> None:
    """f_ij^k of the brackets' projections on the span, by all entries of the matrices."""
    generators = Dense(noise(4, 5, 5, seed=seed))
    matrices = generators.matrices / generators.matrices.flatten(1).norm(dim=1)[:, None, None]
    killing = killing_form(structure_constants(matrices.detach()))
    off = killing.square().sum() - killing.diagonal().square().sum()
    assert float(killing_penalty(generators).detach()) == pytest.approx(float(off / killing.square().sum()), rel=1e-4)
