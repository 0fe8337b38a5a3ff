"""Groups: the generators generate what the name says, and random elements are spread as promised."""

import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import COMPACT, LABELS

from relaxify import Group, Representation
from relaxify.algebras import closure_residual, structure_constants
from relaxify.elements import element_of
from relaxify.random_elements import Element, shortest_words

ETA = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))


def elements(name: str, count: int = 20) -> list[torch.Tensor]:
    group, generator = Group.parse(name), torch.Generator().manual_seed(3)
    vector = Representation.defining(group)
    return [vector.rho(group.random(generator)) for _ in range(count)]


@pytest.mark.parametrize(
    "name",
    ["SO(2)", "O(2)", "SO(3)", "O(3)", "C(4)", "C(5)", "D(4)", "D(3)", "D(1)", "S(4)", "S(3)", "O(1)", "Octa", "FullOcta"],
)
def test_elements_are_orthogonal(name: str) -> None:
    for g in elements(name):
        torch.testing.assert_close(g @ g.mT, torch.eye(len(g), dtype=g.dtype))


@pytest.mark.parametrize(
    ("name", "signs"),
    [("SO(2)", {1}), ("O(2)", {1, -1}), ("SO(3)", {1}), ("O(3)", {1, -1}), ("D(4)", {1, -1}), ("C(4)", {1})],
)
def test_determinants(name: str, signs: set[int]) -> None:
    assert {round(float(torch.linalg.det(g))) for g in elements(name)} == signs


@pytest.mark.parametrize(
    ("name", "size"), [("C(7)", 7), ("D(8)", 16), ("S(4)", 24), ("Octa", 24), ("FullOcta", 48), ("O(1)", 2)]
)
def test_the_words_of_a_finite_group_spell_each_element_once(name: str, size: int) -> None:
    group = Group.parse(name)
    vector, words = Representation.defining(group), shortest_words(group.finite)
    spelt = torch.stack([vector.rho(Element(torch.zeros(0, dtype=torch.float64), word)) for word in words])
    assert len(spelt) == size
    assert (torch.cdist(spelt.flatten(1), spelt.flatten(1)) < 0.1).sum() == size


def test_lorentz_preserves_the_metric() -> None:
    for g in elements("SO(1,3)"):
        torch.testing.assert_close(g.mT @ ETA @ g, ETA, atol=1e-9, rtol=1e-9)


def test_special_linear_has_determinant_one() -> None:
    for g in elements("SL(2)"):
        torch.testing.assert_close(torch.linalg.det(g), torch.tensor(1.0, dtype=torch.float64))


def test_translations_add() -> None:
    group = Group.parse("T(2)")
    g = Representation.defining(group).rho(group.random())
    assert torch.equal(g[:2, :2], torch.eye(2, dtype=g.dtype))
    assert torch.equal(g[2], torch.tensor([0.0, 0, 1], dtype=g.dtype))


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("C(4)", 4),
        ("C(5)", 5),
        ("D(3)", 6),
        ("D(4)", 8),
        ("S(3)", 6),
        ("S(4)", 24),
        ("O(1)", 2),
        ("Octa", 24),
        ("FullOcta", 48),
    ],
)
def test_random_elements_of_finite_groups_reach_every_element_equally(name: str, order: int) -> None:
    count = 200 * order
    seen: dict[tuple[float, ...], int] = {}
    for g in elements(name, count):
        key = tuple((g.round(decimals=6) + 0.0).flatten().tolist())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == order
    # binomial with mean 200: five standard deviations
    assert all(abs(hits - 200) < 5 * 200**0.5 for hits in seen.values())


def test_rotations_are_haar_distributed() -> None:
    """E R = 0 and E R_ij R_kl = delta_ik delta_jl / 3 under the Haar measure."""
    rotations = torch.stack(elements("SO(3)", 4000)).flatten(1)
    assert rotations.mean(0).abs().max() < 5 * (1 / 3 / 4000) ** 0.5
    second = rotations.mT @ rotations / len(rotations)
    assert (second - torch.eye(9, dtype=second.dtype) / 3).abs().max() < 5 / 4000**0.5


@pytest.mark.parametrize("spelling", ["SO(3)", "so3", "SO3", "so[3]", "So_3", " so ( 3 ) "])
def test_case_and_brackets_do_not_matter(spelling: str) -> None:
    assert Group.parse(spelling) == Group.parse("SO(3)")


def test_names_are_distinct_groups() -> None:
    assert all(Group.parse(a) != Group.parse(b) for a, b in itertools.combinations(LABELS, 2))


def test_compact_groups_are_marked() -> None:
    assert set(LABELS) - set(COMPACT) == {"SO(1,3)", "SL(2)", "T(2)"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("SU(5)", ["'SU(5)'", "known ones are", "from_generators"]),
        ("C(0)", ["'C(0)'", "known ones are"]),
        ("", ["''", "known ones are"]),
        ("E(0)", ["'E(0)'", "E(n)"]),
        ("SE(1)", ["'SE(1)'", "SE(n)"]),
    ],
)
def test_unknown_groups_are_named_with_advice(name: str, parts: list[str]) -> None:
    with pytest.raises(ValueError, match="unknown group") as caught:
        Group.parse(name)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({}, "no generators"),
        ({"generators": torch.zeros(2, 3)}, "pass (count"),
        ({"generators": torch.full((1, 2, 2), torch.nan)}, "NaN"),
        ({"generators": torch.ones(2, 2, 2)}, "linearly dependent"),
        ({"finite": torch.zeros(1, 2, 2)}, "singular"),
        ({"generators": torch.eye(2)[None], "finite": torch.eye(3)[None]}, "pass (count, 2, 2)"),
    ],
)
def test_bad_generators_are_refused(arguments: dict[str, torch.Tensor], part: str) -> None:
    with pytest.raises(ValueError, match=re.escape(part)):
        Group.from_generators(**arguments)


def test_a_users_group_is_what_its_generators_say() -> None:
    group = Group.from_generators(
        torch.tensor([[[0.0, -1.0], [1.0, 0.0]]]),
        finite=torch.diag(torch.tensor([1.0, -1.0]))[None],
        name="mine",
        compact=True,
    )
    generator = torch.Generator().manual_seed(0)
    found = [Representation.defining(group).rho(group.random(generator)) for _ in range(40)]
    assert {round(float(torch.linalg.det(g))) for g in found} == {1, -1}
    assert all(torch.allclose(g @ g.mT, torch.eye(2, dtype=g.dtype)) for g in found)


def form(p: int, q: int) -> torch.Tensor:
    return torch.diag(torch.tensor([1.0] * p + [-1.0] * q, dtype=torch.float64))


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(0, 99))
def test_rotations_of_any_dimension(n: int, seed: int) -> None:
    for name, signs in ((f"SO({n})", {1}), (f"O({n})", {1, -1})):
        group, generator = Group.parse(name), torch.Generator().manual_seed(seed)
        assert len(group.generators) == n * (n - 1) // 2
        assert closure_residual(group.generators) < 1e-14
        drawn = [Representation.defining(group).rho(group.random(generator)) for _ in range(8)]
        for g in drawn:
            torch.testing.assert_close(g @ g.mT, torch.eye(n, dtype=g.dtype))
        assert {round(float(torch.linalg.det(g))) for g in drawn} <= signs


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["SO", "O"]), st.integers(0, 99))
def test_pseudo_rotations_keep_their_form(p: int, q: int, kind: str, seed: int) -> None:
    group, n = Group.parse(f"{kind}({p},{q})"), p + q
    eta = ETA if (kind, p, q) == ("SO", 1, 3) else form(p, q)
    assert len(group.generators) == n * (n - 1) // 2
    assert closure_residual(group.generators) < 1e-14
    g = Representation.defining(group).rho(group.random(torch.Generator().manual_seed(seed)))
    torch.testing.assert_close(g.mT @ eta @ g, eta, atol=1e-10 * float(g.norm()) ** 2, rtol=0)
    determinants = {round(float(torch.linalg.det(flip))) for flip in group.finite}
    assert determinants == ({-1} if kind == "O" else set())


@pytest.mark.parametrize(("name", "count"), [("SL(2)", 3), ("SL(3)", 8), ("GL(2)", 4), ("GL(3)", 9)])
def test_linear_groups(name: str, count: int) -> None:
    group = Group.parse(name)
    assert torch.linalg.matrix_rank(group.generators.flatten(1)) == count == len(group.generators)
    assert closure_residual(group.generators) < 1e-14
    traces = group.generators.diagonal(dim1=1, dim2=2).sum(1)
    assert bool(traces.any()) == name.startswith("GL")


def test_spinors_turn_half_as_fast_as_vectors() -> None:
    spinors, vectors = Group.parse("Spin(3)"), Group.parse("SO(3)")
    assert spinors == Group.parse("su2")
    torch.testing.assert_close(structure_constants(spinors.generators), structure_constants(vectors.generators))
    whole_turn = Representation.defining(spinors).rho(Element(torch.tensor([0, 0, 2 * torch.pi], dtype=torch.float64)))
    torch.testing.assert_close(whole_turn, -torch.eye(4, dtype=torch.float64))
    # complex linear: it commutes with i
    i = torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)] * 2)
    assert torch.equal(spinors.generators @ i, i @ spinors.generators)


@pytest.mark.parametrize(("name", "squares"), [("SO(4)", 1.0), ("SO(5)", 1.0), ("O(4)", 1.0), ("SU(2)", 4.0)])
def test_elements_are_haar_distributed(name: str, squares: float) -> None:
    """E tr(g)^2 is the dimension of the vectors' commutant, and E g = 0."""
    drawn = torch.stack(elements(name, 600))
    assert abs(float(drawn.diagonal(dim1=1, dim2=2).sum(1).square().mean()) - squares) < 0.15 * squares + 0.05
    assert drawn.mean(0).abs().max() < 0.1


def test_groups_of_the_plane_in_space() -> None:
    about_x = Group.parse("C(4) about x")
    assert about_x.finite[0].round().tolist() == [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    (mirror,) = Group.parse("O(2) about z").finite
    assert mirror.tolist() == [[1, 0, 0], [0, -1, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="only groups of the plane have an axis"):
        Group.parse("SO(3) about z")


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("O(3) x S(5)", ["O(3)", "S(5)"]),
        ("so3 × s4", ["SO(3)", "S(4)"]),
        ("SE(3)*S(2)", ["SE(3)", "S(2)"]),
        ("SO3xFullOcta", ["SO(3)", "FullOcta"]),
        ("O(2) about x x S(5) ⊗ O(1)", ["O(2) about x", "S(5)", "O(1)"]),
        ("S(2) X C(4) about z", ["S(2)", "C(4) about z"]),
    ],
)
def test_names_of_products(name: str, factors: list[str]) -> None:
    group = Group.parse(name)
    assert [factor.name for factor in group.factors] == factors
    assert group == Group.parse(group.name) == Group.product(*map(Group.parse, factors))
    assert group.dim == sum(factor.dim for factor in group.factors)


@pytest.mark.parametrize("name", ["O(3) x S(7)", "SE(3) x D(4) x S(2)", "SL(2) x O(1)"])
def test_elements_of_a_product_are_pairs_of_elements(name: str) -> None:
    """Block by block; each block is an element of its factor, and what is read back from the matrix is the same element."""
    group, generator = Group.parse(name), torch.Generator().manual_seed(4)
    for _ in range(5):
        drawn = group.random(generator)
        g = Representation.defining(group).rho(drawn)
        assert torch.equal(torch.block_diag(*group.parts(g)), g)
        start = 0
        for number, (factor, part) in enumerate(zip(group.factors, group.parts(g), strict=True)):
            own = group.of_factor(number, part)
            start += factor.dim
            assert torch.equal(group.parts(own)[number], part)
            assert torch.equal(own[start:, start:], torch.eye(group.dim - start).double())
            if factor.is_orthogonal:
                torch.testing.assert_close(part @ part.mT, torch.eye(factor.dim).double())
    assert not group.is_affine


def test_an_element_of_a_product_is_found_from_its_matrix() -> None:
    group = Group.parse("O(3) x S(4)")
    vector, drawn = Representation.defining(group), group.random()
    torch.testing.assert_close(vector.rho(element_of(group, vector.rho(drawn))), vector.rho(drawn))
    with pytest.raises(ValueError, match="it mixes what its factors act on"):
        element_of(group, torch.eye(7).double().roll(1, 0))
    with pytest.raises(ValueError, match="two factors or more"):
        Group.product(group.factors[0])


def test_an_unknown_factor_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown group 'Q\(5\)'"):
        Group.parse("O(3) x Q(5)")


@pytest.mark.parametrize("name", ["SO(99999)", "O(3) x S(40000)", "T(900)", "SE(300)", "GL(200)", "SO(500,500)"])
def test_a_group_whose_generators_fill_the_memory_is_refused_before_they_are_made(name: str) -> None:
    with pytest.raises(ValueError, match=r"the generators of .* have .* entries, more than 1e\+08; name a group"):
        Group.parse(name)


@pytest.mark.parametrize("name", ["SO(60)", "S(3000)", "C(1000000)", "D(1000000)", "T(300)", "Scale(1000.5)"])
def test_large_groups_of_few_entries_are_made(name: str) -> None:
    assert Group.parse(name).actions > 0
