"""Laws of representations, Lie derivatives and intertwiner projections, over random groups, irreps, layouts and shapes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import COMPACT, LABELS, groups, layouts, pairs, random, representations, seeds

from relaxify import Group, Representation, irreps
from relaxify.intertwiners import intertwiner_basis, lie_derivative, project_to_intertwiners

Pair = tuple[Representation, Representation]
LIE = [name for name in LABELS if len(Group.parse(name).generators)]


def dense_actions(rep: Representation) -> torch.Tensor:
    """Every generator's action as a dense matrix, formed without `act`."""
    lie = len(rep.group.generators)
    basis = torch.eye(lie, dtype=torch.float64)
    return (
        torch.stack(
            [
                torch.block_diag(
                    *(
                        torch.kron(torch.eye(b.multiplicity, dtype=torch.float64), a[i])
                        if b.layout == "channel_major"
                        else torch.kron(a[i], torch.eye(b.multiplicity, dtype=torch.float64))
                        for b, a in zip(rep.blocks, rep.actions, strict=True)
                    )
                )
                for i in range(rep.group.actions)
            ]
        )
        if rep.group.actions
        else basis.new_zeros(0, rep.dim, rep.dim)
    )


@given(groups().flatmap(representations), seeds)
def test_act_is_the_dense_action(rep: Representation, seed: int) -> None:
    x, dense = random(5, rep.dim, seed=seed), dense_actions(rep)
    torch.testing.assert_close(rep.act(x), torch.einsum("aij,rj->ari", dense, x))
    torch.testing.assert_close(rep.act(x, transpose=True), torch.einsum("aji,rj->ari", dense, x))


@pytest.mark.parametrize("name", LIE)
def test_drho_respects_brackets(name: str) -> None:
    """[drho(A), drho(B)] = drho([A, B]) for every label of every Lie group."""
    group = Group.parse(name)
    a, b = (random(len(group.generators), seed=seed) for seed in (1, 2))
    defining = [torch.einsum("a,aij->ij", c, group.generators) for c in (a, b)]
    bracket = (defining[0] @ defining[1] - defining[1] @ defining[0]).flatten()
    c = torch.linalg.lstsq(group.generators.flatten(1).mT, bracket[:, None]).solution[:, 0]
    for label in LABELS[name]:
        rep = irreps(group, f"2x{label}")
        da, db = rep.drho(a), rep.drho(b)
        torch.testing.assert_close(da @ db - db @ da, rep.drho(c), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", ["O(2)", "O(3)", "D(3)", "D(4)", "C(4)", "C(5)", "S(3)", "S(4)"])
def test_finite_generators_satisfy_the_groups_relations(name: str) -> None:
    """Every word that is the identity of the group is the identity in every representation."""
    group, generator = Group.parse(name), torch.Generator().manual_seed(0)
    reps = [irreps(group, label) for label in LABELS[name]]
    vector = Representation.defining(group)
    for _ in range(10):
        element = group.random(generator)
        g = vector.rho(element)
        order = next(
            (n for n in range(1, 25) if torch.allclose(torch.linalg.matrix_power(g, n), torch.eye(group.dim).double())),
            0,
        )
        for rep in reps if order else []:
            power = torch.linalg.matrix_power(rep.rho(element), order)
            torch.testing.assert_close(power, torch.eye(rep.dim, dtype=power.dtype), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", COMPACT)
def test_irreps_of_compact_groups_are_orthogonal_and_irreducible(name: str) -> None:
    group = Group.parse(name)
    for label in LABELS[name]:
        rep = irreps(group, label)
        g = rep.rho(group.random(torch.Generator().manual_seed(1)))
        torch.testing.assert_close(g @ g.mT, torch.eye(rep.dim, dtype=g.dtype), atol=1e-9, rtol=0)
        if label != "vector" or name.startswith(("O", "SO")):
            # real irreps have commutant R, C or H
            assert len(intertwiner_basis(rep.actions[0], rep.actions[0])) in (1, 2)


def test_spin_one_is_the_vector_and_the_adjoint() -> None:
    group = Group.parse("SO(3)")
    for other in ("vector", "adjoint"):
        assert len(intertwiner_basis(irreps(group, "1").actions[0], irreps(group, other).actions[0])) == 1
    assert len(intertwiner_basis(irreps(group, "1").actions[0], irreps(group, "2").actions[0])) == 0


@given(groups().flatmap(representations), seeds)
def test_the_dual_preserves_the_pairing(rep: Representation, seed: int) -> None:
    g = rep.group.random(torch.Generator().manual_seed(seed))
    x, y = random(rep.dim, seed=seed), random(rep.dim, seed=seed + 1)
    product = (rep.dual().rho(g) @ y) @ (rep.rho(g) @ x)
    scale = rep.rho(g).norm() * rep.dual().rho(g).norm() * x.norm() * y.norm()
    assert abs(product - y @ x) < 1e-11 * scale


@given(groups().flatmap(representations), layouts, seeds)
def test_a_change_of_layout_is_a_permutation(rep: Representation, layout: str, seed: int) -> None:
    other, permutation = rep.with_layout(layout)
    assert {block.layout for block in other.blocks} == {layout}
    x = random(4, rep.dim, seed=seed)
    torch.testing.assert_close(other.act(x[:, permutation]), rep.act(x)[..., permutation])


@given(pairs(), seeds)
def test_lie_derivative_is_its_definition(pair: Pair, seed: int) -> None:
    rep_in, rep_out = pair
    w = random(rep_out.dim, rep_in.dim, seed=seed)
    expected = w @ dense_actions(rep_in) - dense_actions(rep_out) @ w
    torch.testing.assert_close(lie_derivative(w, rep_in, rep_out), expected)


@given(pairs(), seeds)
def test_lie_derivative_vanishes_exactly_on_intertwiners(pair: Pair, seed: int) -> None:
    rep_in, rep_out = pair
    w = random(rep_out.dim, rep_in.dim, seed=seed)
    projection = project_to_intertwiners(w, rep_in, rep_out)
    assert lie_derivative(projection, rep_in, rep_out).abs().max() < 1e-10
    rest = w - projection
    if rest.norm() > 1e-6:
        assert lie_derivative(rest, rep_in, rep_out).norm() > 1e-6 * rest.norm()


@given(pairs(), seeds)
def test_intertwiners_commute_with_the_group(pair: Pair, seed: int) -> None:
    rep_in, rep_out = pair
    h = project_to_intertwiners(random(rep_out.dim, rep_in.dim, seed=seed), rep_in, rep_out)
    g = rep_in.group.random(torch.Generator().manual_seed(seed))
    left, right = rep_out.rho(g) @ h, h @ rep_in.rho(g)
    assert (left - right).norm() <= 1e-10 * (1 + left.norm() + rep_in.rho(g).norm() * h.norm())


@given(pairs(), seeds)
def test_projection_is_idempotent_and_self_adjoint(pair: Pair, seed: int) -> None:
    rep_in, rep_out = pair
    v, w = (random(rep_out.dim, rep_in.dim, seed=s) for s in (seed, seed + 1))
    pv, pw = (project_to_intertwiners(m, rep_in, rep_out) for m in (v, w))
    torch.testing.assert_close(project_to_intertwiners(pv, rep_in, rep_out), pv, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close((pv * w).sum(), (v * pw).sum(), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", COMPACT)
def test_projection_is_the_group_average(name: str) -> None:
    """P_H W = E_g rho_out(g)^-1 W rho_in(g), and E_g |rho W rho^-1 - W|^2 = 2 |W - P_H W|^2, by Monte Carlo."""
    group, generator, count = Group.parse(name), torch.Generator().manual_seed(5), 400
    rep_in = irreps(group, "+".join(f"1x{label}" for label in LABELS[name][:3]))
    rep_out = irreps(group, "+".join(f"2x{label}" for label in LABELS[name][1:3]), "component_major")
    w = random(rep_out.dim, rep_in.dim)
    samples = []
    for _ in range(count):
        g = group.random(generator)
        samples.append(rep_out.rho(g).mT @ w @ rep_in.rho(g))
    stacked = torch.stack(samples)
    projection = project_to_intertwiners(w, rep_in, rep_out)
    spread = stacked.std(0) / count**0.5
    assert ((stacked.mean(0) - projection).abs() < 5 * spread + 1e-9).all()
    distances = (stacked - w).square().sum((1, 2))
    error = 5 * float(distances.std()) / count**0.5 + 1e-9
    assert abs(float(distances.mean()) - 2 * float((w - projection).square().sum())) < error


@given(st.sampled_from(["SO(3)", "O(3)"]), layouts)
def test_schur_gives_the_trace(name: str, layout: str) -> None:
    """Between copies of one irrep of real type P_H is the trace over the irrep axis."""
    rep = irreps(Group.parse(name), "2x2e" if name == "O(3)" else "2x2", layout)
    w = random(rep.dim, rep.dim)
    (block,) = rep.blocks
    split = block.split(block.split(w).movedim(0, -1))
    traced = torch.einsum("uivi->uv", split) / 5
    projected = block.split(block.split(project_to_intertwiners(w, rep, rep)).movedim(0, -1))
    torch.testing.assert_close(projected, torch.einsum("uv,ij->uivj", traced, torch.eye(5, dtype=torch.float64)))


def test_representations_of_different_groups_do_not_add() -> None:
    with pytest.raises(ValueError, match=r"SO\(3\) and of O\(3\); use one group"):
        Representation.defining(Group.parse("SO(3)")) + Representation.defining(Group.parse("O(3)"))


def test_actions_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one matrix per generator"):
        Representation.of(Group.parse("SO(3)"), "vector", 2, torch.zeros(2, 3, 3))


@pytest.mark.parametrize(
    ("name", "spec", "part"),
    [
        ("SO(3)", "1o", "no representation labelled '1o'"),
        ("C(4)", "3", "labelled '3'"),
        ("SO(3)", "2*1", r"cannot read '2\*1'"),
        ("C(4)", "adjoint", "no Lie algebra"),
        ("SO(1,3)", "1", "labelled '1'"),
    ],
)
def test_unknown_labels_are_refused(name: str, spec: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        irreps(Group.parse(name), spec)
