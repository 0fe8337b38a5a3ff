"""Products of groups: one term under all factors that move what a layer mixes; projected, it commutes with each of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st
from points import ACTIONS, GROUP, PointNet, both, clouds, made
from strategies import LABELS, random, seeds
from torch import Tensor, nn
from VN_transformer import VNTransformer
from zoo.vn_transformer import ENTRIES

from relaxify import Group, RelaxConfig, irreps, penalty, plan, project, relaxify, set_theta
from relaxify.checkpoint import convert
from relaxify.intertwiners import lie_derivative, project_to_intertwiners
from relaxify.relaxation.verifying import verify
from relaxify.representations import Representation
from relaxify.testing import equivariance_error

TOLERANCE = 1e-5


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["SO(2)", "O(3)", "C(4)"]), st.sampled_from(["S(3)", "S(4)", "D(3)"]), st.data(), seeds)
def test_the_projection_is_that_of_each_factor_in_turn(one: str, other: str, data: st.DataObject, seed: int) -> None:
    """P_H of rho_1 (x) rho_2 is P_1 P_2 = P_2 P_1: it commutes with both, and what does so it leaves alone."""
    group = Group.parse(f"{one} x {other}")
    parts = [irreps(factor, f"1x{data.draw(st.sampled_from(LABELS[factor.name]))}") for factor in group.factors]
    sizes = [part.dim for part in parts]
    eyes = [torch.eye(n, dtype=torch.float64) for n in sizes]
    of_each = [
        torch.stack([torch.kron(a, eyes[1]) for a in parts[0].actions[0]]),
        torch.stack([torch.kron(eyes[0], a) for a in parts[1].actions[0]]),
    ]
    lie = len(group.factors[0].generators)
    joined = torch.cat([of_each[0][:lie], of_each[0][lie:], of_each[1]])
    rep = Representation.of(group, "both", 2, joined, "component_major")
    weight = random(rep.dim, rep.dim, seed=seed)
    alone = [
        Representation.of(factor, "own", 2, actions, "component_major")
        for factor, actions in zip(group.factors, of_each, strict=True)
    ]
    found = project_to_intertwiners(weight, rep, rep)
    assert lie_derivative(found, rep, rep).abs().max() < 1e-8
    for first, second in (alone, alone[::-1]):
        in_turn = project_to_intertwiners(project_to_intertwiners(weight, first, first), second, second)
        torch.testing.assert_close(found, in_turn, atol=1e-8, rtol=0)


def test_which_factor_acts_on_which_axis() -> None:
    found = plan(made(), GROUP, example_inputs=clouds())
    assert {site.path: site.factors for site in found.sites} == {
        **dict.fromkeys(["first", "gate", "last"], "O(3) on axis -2, S(5) on axis -3"),
        "mean": "O(3) on axis -2",
    }
    assert {site.path: site.map.rep_in.dim for site in found.sites} == {"first": 60, "gate": 90, "last": 90, "mean": 18}
    assert "first: Linear 4x(O(3) vector ⊗ S(5) vector) -> 6x(O(3) vector ⊗ S(5) vector), O(3) on axis -2" in str(found)
    assert found.verdict is not None
    assert [(each.group, each.is_sound) for each in found.verdict.factors] == [("O(3)", True), ("S(5)", True)]


@pytest.mark.parametrize(("fault", "blamed"), [("bias", "'gate' .*under O(3)"), ("embedded", "'' (mul).*under S(5)")])
def test_a_fault_is_that_of_one_factor(fault: str, blamed: str) -> None:
    sentence = re.escape(blamed).replace(r"\.\*", ".*")
    with pytest.raises(ValueError, match=f"these layers should be equivariant but are not: {sentence}"):
        relaxify(made(**{fault: True}), GROUP, example_inputs=clouds())


def trained(model: nn.Module, *inputs: Tensor) -> None:
    """Terms and weights that have moved."""
    set_theta(model, 1.0)
    (model(*inputs).square().mean() + penalty(model)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))


@pytest.mark.parametrize("mode", ["drop", "fold", "fit"])
def test_projected_it_is_equivariant_under_all_factors(mode: str) -> None:
    x, model = clouds(), made()
    before = model(x)
    relaxify(model, GROUP, example_inputs=x)
    assert torch.equal(model(x), before)
    trained(model, x)
    errors = {name: equivariance_error(model, name, x, output_action=act) for name, act in ACTIONS.items()}
    assert min(errors.values()) > 0.1
    clean = project(model, mode=mode)
    assert type(clean) is PointNet
    assert clean.state_dict().keys() == made().state_dict().keys()
    for name, act in ACTIONS.items():
        assert equivariance_error(clean, name, x, output_action=act) < TOLERANCE
    assert mode != "drop" or torch.equal(clean(x), model.eval()(x))


@pytest.mark.parametrize(("kept", "broken"), [("S(5)", "O(3)"), ("O(3)", "S(5)")])
def test_relaxed_to_one_factor_only_the_other_is_broken(kept: str, broken: str) -> None:
    x, model = clouds(), made()
    relaxify(model, GROUP, example_inputs=x, config=RelaxConfig(to=kept), keep_relaxed=True)
    trained(model, x)
    model.eval()
    assert equivariance_error(model, kept, x, output_action=ACTIONS[kept]) < TOLERANCE
    assert equivariance_error(model, broken, x, output_action=ACTIONS[broken]) > 0.1


def test_a_checkpoint_names_the_product(tmp_path: Path) -> None:
    x, model = clouds(), made()
    relaxify(model, GROUP, example_inputs=x)
    trained(model, x)
    path, out = tmp_path / "model.pt", tmp_path / "clean.pt"
    torch.save(model.state_dict(), path)
    (verification,) = verify(PointNet, out, convert(path, out, mode="fold"), (x,))
    assert verification.is_sound
    assert [verdict.group for verdict in verification.verdicts] == [GROUP]
    again = relaxify(made(), GROUP, example_inputs=x)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.train()(x), model.train()(x))


def test_a_model_from_the_wild_is_relaxed_under_both() -> None:
    """VN-transformer: what its einsums mix, S(n) permutes, and O(3) turns the last axis."""
    torch.manual_seed(0)
    model = VNTransformer(dim=6, depth=1, dim_head=3, heads=2, translation_equivariance=True).eval()
    found = plan(model, "O(3) x S(10)", example_inputs=torch.randn(2, 10, 3))
    assert {site.path for site in found.sites} == {path for path in ENTRIES[0].expected if "layers.1" not in path}
    assert all([name for name, axes in site.acting if axes] == ["O(3)", "S(10)"] for site in found.sites)
    assert found.verdict is not None
    assert found.verdict.is_sound


class Irreps(nn.Module):
    """e3nn's layers on points, and on their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mean = o3.Linear("4x0e+4x1o", "3x0e+3x1o"), o3.Linear("3x0e+3x1o", "3x0e+3x1o")

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h * h.norm(dim=-1, keepdim=True) + self.mean(h.mean(1, keepdim=True))


def test_what_types_tell_is_relaxed_under_their_factor_and_keeps_the_other() -> None:
    torch.manual_seed(0)
    model, x = Irreps(), (torch.randn(6, 5, 16),)
    options = {"example_inputs": x, "input_irreps": {"x": "4x0e+4x1o"}}
    found = plan(model, GROUP, **options)
    assert {site.path: (str(site.map.rep_in), site.kept) for site in found.sites} == {
        "first": ("4x0e+4x1o", ("S(5)",)),
        "mean": ("3x0e+3x1o", ("S(5)",)),
    }
    assert found.sites[0].factors == "O(3) on axis -1, S(5) on axis -2, kept"
    relaxify(model, GROUP, keep_relaxed=True, **options)
    trained(model, *x)
    act, turn = ACTIONS["S(5)"], o3.Irreps("4x0e+4x1o").D_from_angles(*torch.tensor([0.3, 1.2, -0.5]))
    assert equivariance_error(model, "S(5)", *x, output_action=act) < TOLERANCE
    assert (model(x[0] @ turn.mT).norm(dim=-1) - model(*x).norm(dim=-1)).abs().max() > 0.01
    assert equivariance_error(project(model, mode="fold"), "S(5)", *x, output_action=act) < TOLERANCE


def test_what_is_too_large_together_is_relaxed_under_a_factor() -> None:
    model, x = nn.Linear(4, 2, bias=False), torch.randn(50, 130, 3, 4)
    (rejected,) = plan(model, "O(3) x S(130)", example_inputs=x).rejected
    assert "acts on more than 384 components of what it reads at once; relax it under one of the factors" in rejected.reason


def test_patterns_select_under_all_factors() -> None:
    found = plan(made(), GROUP, example_inputs=clouds(), include=["mean", "first"], exclude=["first"])
    assert [site.path for site in found.sites] == ["mean"]
    with pytest.raises(ValueError, match="'nothing' matches none of the candidates"):
        plan(made(), GROUP, example_inputs=clouds(), include=["nothing"])


def test_without_inputs_nobody_knows_the_axes() -> None:
    with pytest.raises(ValueError, match=r"on which axes each factor of O.* acts only runs tell; give example inputs"):
        plan(made(), GROUP)


def test_an_action_of_ones_own_moves_all_by_the_blocks_of_g() -> None:
    """On one axis: three components that turn, then five that are permuted."""
    x, model = torch.randn(32, 8, 4), nn.Linear(4, 3, bias=False)
    (site,) = plan(model, GROUP, example_inputs=x, input_action=lambda g, inputs: (g.to(inputs[0]) @ inputs[0],)).sites
    assert site.factors == "O(3) on axis -2, S(5) on axis -2"
    again = plan(made(), GROUP, example_inputs=clouds(), input_action=lambda g, inputs: (both(g, *inputs),))
    assert len(again.sites) == 4
