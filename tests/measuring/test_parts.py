"""The parts of a measurement: elements, inputs nearby, ways of transforming, fits, copies."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from relaxify import irreps
from relaxify.graph.precision import InDouble
from relaxify.groups import Group
from relaxify.modules.copies import duplicate
from relaxify.verdicts.candidates import Way, ways
from relaxify.verdicts.draws import draws, is_orthogonal, small
from relaxify.verdicts.fits import fit
from relaxify.verdicts.generic import responsible
from relaxify.verdicts.nearby import nearby

GROUPS = [
    "SO(2)",
    "O(2)",
    "SO(3)",
    "O(3)",
    "SO(1,3)",
    "SL(2)",
    "C(4)",
    "D(4)",
    "C(8)",
    "S(4)",
    "S(5)",
    "T(3)",
    "Octa",
    "O(1)",
]
SEEDS = st.integers(0, 1000)


@given(st.sampled_from(GROUPS), SEEDS)
def test_elements_are_of_the_group_and_far_from_the_identity(name: str, seed: int) -> None:
    group = Group.parse(name)
    drawn = draws(group, seed)
    identity = torch.eye(group.dim, dtype=torch.float64)
    assert max(float((g.matrix - identity).norm()) for g in drawn) > 0.9
    for g in drawn:
        assert float((g.matrix - identity).norm()) > 1e-3
        if is_orthogonal(group):
            torch.testing.assert_close(g.matrix @ g.matrix.mT, identity)
        if name.startswith("SO") or name == "SL(2)":
            assert float(torch.linalg.det(g.matrix)) == pytest.approx(1)


@given(st.sampled_from(["O(2)", "O(3)"]), SEEDS)
def test_both_components_of_a_group_are_drawn(name: str, seed: int) -> None:
    signs = {round(float(torch.linalg.det(g.matrix))) for g in draws(Group.parse(name), seed)}
    assert signs == {-1, 1}


@given(SEEDS, SEEDS)
def test_half_turns_send_every_coordinate_to_both_sides(seed: int, other: int) -> None:
    generator = torch.Generator().manual_seed(other)
    u = torch.randn(3, generator=generator, dtype=torch.float64)
    images = torch.stack([u, *(g.matrix @ u for g in draws(Group.parse("SO(3)"), 2 * seed))])
    assert (images.amax(0) > 0).all()
    assert (images.amin(0) < 0).all()


def test_small_finite_groups_are_enumerated() -> None:
    assert [len(draws(Group.parse(name), 0)) for name in ("C(4)", "D(4)", "S(3)", "Octa", "C(12)")] == [3, 7, 5, 4, 11]


def test_translations_and_boosts_come_in_many_sizes() -> None:
    for name, least in (("T(3)", 20), ("SO(1,3)", 5)):
        sizes = [float((g.matrix - torch.eye(4, dtype=torch.float64)).norm()) for g in draws(Group.parse(name), 0)]
        assert max(sizes) > least * min(sizes)


@given(st.sampled_from(["SO(3)", "O(3)", "SO(2)", "SO(1,3)", "S(4)"]), SEEDS)
def test_vectors_and_pairs_are_carried_as_they_move(name: str, seed: int) -> None:
    group = Group.parse(name)
    x = torch.randn(5, group.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    functions = (lambda x: x, lambda x: torch.einsum("ni,nj->nij", x, x), lambda x: x.mT)
    for function in functions:
        value = function(x)
        for g in draws(group, seed):
            moved = function(x @ g.matrix.mT)
            assert any(
                torch.allclose(way(g, value), moved, atol=1e-7) for way in ways(group, value) if way.name != "invariant"
            )


@given(st.sampled_from(["2x0e+1x1o+1x2e", "1x3o+2x1e", "4x1o"]), st.integers(1, 30), SEEDS)
def test_a_representation_is_fitted_in_any_basis_and_to_few_vectors(spec: str, count: int, seed: int) -> None:
    group = Group.parse("O(3)")
    representation = irreps(group, spec)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(representation.dim, representation.dim, generator=generator, dtype=torch.float64)).Q
    rows = torch.randn(count, representation.dim, generator=generator, dtype=torch.float64)
    values: list[tuple[object, Tensor]] = [(None, rows @ basis)]
    values += [(g, rows @ g.by(representation).mT @ basis) for g in draws(group, 1)]
    for g, _ in values[1:]:
        assert fit(values, g, Way("", (-1,)), orthogonal=True).residual < 1e-10
    weights = torch.linspace(1, 2, representation.dim, dtype=torch.float64)
    spoilt = [(g, value * weights) for g, value in values]
    assert max(fit(spoilt, g, Way("", (-1,)), orthogonal=True).residual for g, _ in spoilt[1:]) > 1e-4


def test_a_small_element_is_small_and_its_square_is_there() -> None:
    e, square = small(Group.parse("SO(3)"), 0)
    torch.testing.assert_close(e.matrix @ e.matrix, square.matrix)
    assert float((square.matrix - torch.eye(3, dtype=torch.float64)).norm()) < 0.5


@given(SEEDS)
def test_inputs_nearby_are_near_and_codes_stay(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = (
        torch.randn(9, 3, generator=generator) + 50,
        torch.randint(2, (9, 4), generator=generator).float(),
        torch.randint(5, (9,), generator=generator),
        torch.full((3,), -torch.inf),
    )
    near = nearby(inputs, (inputs[0] + 1, *inputs[1:]), seed)
    assert all(torch.equal(a, b) for a, b in zip(near[1:], inputs[1:], strict=True))
    step = float((near[0] - inputs[0]).norm() / (inputs[0] - inputs[0].mean()).norm())
    assert 0.02 < step < 0.1


def test_numbers_on_a_lattice_that_the_group_moves_are_varied() -> None:
    lattice = torch.arange(9.0).reshape(3, 3)
    assert not torch.equal(nearby((lattice,), (lattice + 1,), 0)[0], lattice)


@given(st.sets(st.integers(0, 20), min_size=1, max_size=3))
def test_the_responsible_are_found(guilty: set[int]) -> None:
    names = [str(number) for number in range(21)]
    found = responsible(names, lambda some: any(int(name) in guilty for name in some))
    assert set(map(int, found)) == guilty


@given(st.sets(st.integers(0, 20), min_size=1, max_size=4))
def test_those_that_break_only_together_are_found_and_no_others(guilty: set[int]) -> None:
    names = [str(number) for number in range(21)]
    assert set(map(int, responsible(names, lambda some: guilty <= set(map(int, some))))) == guilty


def test_copies_keep_what_is_shared_and_share_nothing() -> None:
    tensor = torch.ones(2)
    held = {"a": tensor, "b": [tensor], "lock": threading.Lock(), "module": threading}
    held["self"] = held
    twin = duplicate(held, Tensor.double)
    assert twin["a"] is twin["b"][0] is not tensor
    assert twin["self"] is twin
    assert twin["module"] is threading
    assert twin["lock"] is not held["lock"]


def test_float64_is_of_this_thread_alone() -> None:
    seen = []
    with InDouble():
        other = threading.Thread(target=lambda: seen.append(torch.zeros(1).dtype))
        other.start()
        other.join()
        assert torch.zeros(1).dtype is torch.float64
    assert seen == [torch.float32]


def test_constants_are_made_in_float64_not_rounded_before() -> None:
    with InDouble():
        assert float(torch.tensor(0.1)) == 0.1
        assert torch.equal(torch.linspace(0, 1, 4), torch.linspace(0, 1, 4, dtype=torch.float64))


@given(SEEDS)
def test_inputs_nearby_keep_what_holds_for_the_given_ones(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rotations = torch.linalg.qr(torch.randn(5, 3, 3, generator=generator, dtype=torch.float64)).Q
    rigid = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    rigid[:, :3, :3], rigid[:, :3, 3] = rotations, torch.randn(5, 3, generator=generator, dtype=torch.float64)
    unit = torch.nn.functional.normalize(torch.randn(7, 4, generator=generator, dtype=torch.float64), dim=-1)
    symmetric = rotations[0] + rotations[0].mT
    padded = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    padded[4:] = 0
    given_ones = (rotations, rigid, unit, symmetric, padded)
    near = nearby(given_ones, tuple(value + 1 for value in given_ones), seed)
    assert all(not torch.equal(a, b) for a, b in zip(near, given_ones, strict=True))
    torch.testing.assert_close(near[0] @ near[0].mT, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    torch.testing.assert_close(near[1][:, :3, :3] @ near[1][:, :3, :3].mT, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    assert torch.equal(near[1][:, 3], rigid[:, 3])
    torch.testing.assert_close(near[2].norm(dim=-1), torch.ones(7, dtype=torch.float64))
    assert torch.equal(near[3], near[3].mT)
    assert torch.equal(near[4][4:], padded[4:])
