"""plan says what relaxify will do and why not, changes nothing, and lets no layer through without proof."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from types import MethodType
from typing import Any

import pytest
import torch
from e3nn import o3
from networks import NETWORKS, WITH_CNN, E3nnNet, Make, VNNet, anatomy, randomise_terms, run
from torch import Tensor, nn

from relaxify import RelaxConfig, plan, project, relaxify
from relaxify.relaxation.terms.term import terms_of
from relaxify.sites import RejectionKind
from relaxify_examples.models import vector_neurons
from relaxify_examples.models.vector_neurons import VNLeakyReLU, VNLinear, VNLinearLeakyReLU, VNStdFeature, mix_channels
from relaxify_examples.models.vn_pointnet import VNPointNet

VN_PATHS = ["conv.map_to_feat", "conv.map_to_dir", "pool.map_to_dir", "head.map_to_feat"]


def paths(model: nn.Module, group: str = "SO(3)", **arguments: Any) -> list[str]:
    return [site.path for site in plan(model, group, **arguments).sites]


def reasons(model: nn.Module, group: str = "SO(3)", **arguments: Any) -> dict[str, str]:
    return {rejected.path: rejected.reason for rejected in plan(model, group, **arguments).rejected}


@WITH_CNN
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_planning_changes_nothing(make: Make, training: bool) -> None:
    """Neither modules, tensors, hooks, batch-norm statistics, flags and gradients, nor the random state."""
    model, group, batch = make()
    run(model, batch).sum().backward()
    model.train(training)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    values = {key: value.clone() for key, value in model.state_dict().items()}
    before, rng = anatomy(model), torch.get_rng_state()
    plan(model, group)
    assert torch.equal(torch.get_rng_state(), rng)
    assert anatomy(model) == before
    assert all(torch.equal(model.state_dict()[key], value) for key, value in values.items())
    assert all(torch.equal(model.get_parameter(name).grad, gradient) for name, gradient in gradients.items())


@NETWORKS
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"exclude": [lambda path, module: path > "k"], "config": RelaxConfig(rank=2)},
        {"include": [lambda path, module: path > "g"], "overrides": {lambda path, module: "o" in path: RelaxConfig(rank=1)}},
    ],
)
def test_relaxify_does_what_the_plan_says(make: Make, arguments: dict[str, Any]) -> None:
    model, group, _ = make()
    planned = plan(model, group, **arguments)
    terms = terms_of(relaxify(model, group, **arguments))
    assert list(terms) == [site.path for site in planned.sites]
    assert {path: term.config for path, term in terms.items()} == planned.configs
    for term, site in zip(terms.values(), planned.sites, strict=True):
        assert (term.matrix.numel(), str(term.map.rep_in)) == (site.added_parameters, str(site.map.rep_in))
        assert site.module.relaxation is term


def test_real_models_are_relaxed_layer_by_layer() -> None:
    """Every vector map of a published network, and none of its three invariant nn.Linears."""
    model = VNPointNet(5, n_knn=5, width=12)
    vector_maps = [path for path, module in model.named_modules() if type(module) is nn.Linear and path.startswith("feat.")]
    assert sorted(paths(model)) == sorted(vector_maps)
    assert len(vector_maps) == 23


class Unrunnable(nn.Module):
    """It can be neither run nor copied, and counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.mix = nn.Parameter(torch.eye(3))
        self.scale = nn.Parameter(torch.ones(3))
        self.more = nn.ParameterList([torch.ones(3), torch.eye(3)])
        self.parts = nn.ModuleList([nn.Linear(3, 3), o3.Linear("2x1o", "2x1o"), nn.Conv1d(3, 3, 1)])
        self.scripted = torch.jit.script(nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        raise RuntimeError("not to be run")

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("there is but one")


def test_without_example_inputs_nothing_of_the_model_is_run_or_copied() -> None:
    model, rng = Unrunnable(), torch.get_rng_state()
    before = anatomy(model)
    assert paths(model, "O(3)") == ["parts.1"]
    assert anatomy(model) == before
    assert model.runs == 0
    assert torch.equal(torch.get_rng_state(), rng)


def test_what_only_example_inputs_could_tell_of_is_listed() -> None:
    """Bare linear layers, and weights that somebody's own module holds; neither biases nor torch's own layers."""
    model = nn.ModuleDict({"known": o3.Linear("2x1o", "2x1o"), "own": Unrunnable()})
    rejected = plan(model, "O(3)").rejected
    assert [(r.path, r.op) for r in rejected] == [
        ("own.mix", "Unrunnable"),
        ("own.more.1", "ParameterList"),
        ("own.parts.0", "Linear"),
    ]
    assert {r.kind for r in rejected} == {RejectionKind.unjudged}
    assert {r.reason for r in rejected} == {
        "its type proves nothing; pass example_inputs=(...) so that it is judged by its values"
    }
    assert paths(model, "O(3)", exclude=["own.parts"]) == ["known"]


def test_the_terms_of_a_relaxed_model_are_no_candidates() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 3)), Mix())
    relaxify(model, "SO(3)", example_inputs=torch.randn(20, 3))
    assert list(terms_of(model)) == ["1.weight"]
    assert [rejected.path for rejected in plan(model, "SO(3)").rejected] == ["1.weight"]


class Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oc,bcv->bov", self.weight, x)


def test_rejections_have_kinds() -> None:
    layers = {
        "scalars": o3.Linear("4x0e", "2x0e"),
        "empty": o3.Linear("0x1o", "2x1o"),
        "net": E3nnNet(),
        "bare": nn.Linear(2, 2),
    }
    layers |= {"flat": VNLinear(3, 4), "odd": type("VNLinear", (nn.Module,), {})(), "bias": VNLinear(3, 4)}
    layers["bias"].map_to_feat = nn.Linear(3, 4)
    result = plan(nn.ModuleDict(layers), "O(3)", include=["net.*", "scalars", "bare", "bias"], exclude=["*.product"])
    assert {rejected.path: rejected.kind for rejected in result.rejected} == {
        "scalars": RejectionKind.trivial,
        "empty": RejectionKind.unsupported,
        "net.product": RejectionKind.excluded,
        "flat.map_to_feat": RejectionKind.not_included,
        "odd": RejectionKind.unrecognised,
        "bias.map_to_feat": RejectionKind.unsound,
        "bare": RejectionKind.unjudged,
    }
    assert [rejected.path for rejected in result.rejected if rejected.unknown] == ["odd", "bare"]


def test_a_failed_proof_says_by_how_much() -> None:
    (rejected,) = plan(type("VNLinear", (Broken,), {})(), "SO(3)").unsound
    assert rejected.error is not None
    assert rejected.error > 0.01
    assert f"{rejected.error:.1e}" in rejected.reason


def test_the_plan_reads_as_a_list() -> None:
    lines = str(plan(E3nnNet(), "O(3)", exclude=["last"])).splitlines()
    assert lines[0] == "2 sites of O(3)"
    assert "  first: o3.Linear 4x0e+3x1o -> 6x0e+4x1o+2x1e" in lines
    assert "  not last: o3.Linear: excluded" in lines


@NETWORKS
def test_sites_carry_the_error_of_their_proof(make: Make) -> None:
    model, group, _ = make()
    assert all(site.proof is not None and site.proof < 1e-6 for site in plan(model, group).sites)


def test_rejections_have_reasons() -> None:
    model = nn.ModuleDict({"scalars": o3.Linear("4x0e", "2x0e"), "net": E3nnNet()})
    found = reasons(model, "O(3)", include=["net"], exclude=["*.product"])
    assert found == {"scalars": "not included", "net.product": "excluded"}
    assert reasons(model, "O(3)") == {"scalars": "invariant -> invariant: it cannot break O(3)"}


def test_pseudoscalars_break_reflections_but_not_rotations() -> None:
    model = o3.Linear("4x0o", "2x0o")
    assert paths(model, "O(3)") == [""]
    assert "invariant -> invariant" in reasons(model, "SO(3)")[""]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"include": ["head"]}, ["head.map_to_feat"]),
        ({"include": ["head.map_to_feat"]}, ["head.map_to_feat"]),
        ({"include": ["*.map_to_dir"]}, ["conv.map_to_dir", "pool.map_to_dir"]),
        ({"include": ["re:(conv|pool).*dir"]}, ["conv.map_to_dir", "pool.map_to_dir"]),
        ({"include": [nn.Linear]}, VN_PATHS),
        ({"include": [lambda path, module: module.out_features == 2]}, ["head.map_to_feat"]),
        ({"include": ["conv"], "exclude": ["*_dir"]}, ["conv.map_to_feat"]),
        ({"include": ["*"], "exclude": ["re:.*feat", "pool"]}, ["conv.map_to_dir"]),
        ({"exclude": ["conv", "head"]}, ["pool.map_to_dir"]),
        ({"exclude": [lambda path, module: "dir" in path]}, ["conv.map_to_feat", "head.map_to_feat"]),
        ({"include": ("head", "pool")}, ["pool.map_to_dir", "head.map_to_feat"]),
    ],
)
def test_selection(arguments: dict[str, Any], expected: list[str]) -> None:
    assert paths(VNNet(), **arguments) == expected
    terms = terms_of(relaxify(VNNet(), "SO(3)", **arguments))
    assert list(terms) == expected


def test_the_first_override_that_matches_wins() -> None:
    low, lower, default = RelaxConfig(rank=2), RelaxConfig(rank=1), RelaxConfig(weight=0.1)
    overrides = {"head": low, "re:.*feat": lower, lambda path, module: "pool" in path: low}
    configs = plan(VNNet(), "SO(3)", config=default, overrides=overrides).configs
    assert configs == dict(zip(VN_PATHS, [lower, default, low, low], strict=True))


class Broken(nn.Module):
    """As a user may have written it: a ReLU on components in a layer that should commute with rotations."""

    def __init__(self) -> None:
        super().__init__()
        self.map_to_feat = nn.Linear(3, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return mix_channels(self.map_to_feat, x).relu()


def relu_on_components(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, str, list[str]]:
    monkeypatch.setattr(vector_neurons, "leaky_relu_along", lambda x, direction, slope: x.relu())
    model = nn.ModuleDict({"sound": VNLinear(3, 4), "bad": VNLinearLeakyReLU(4, 4, dim=4)})
    return model, "SO(3)", ["bad.map_to_feat", "bad.map_to_dir"]


def a_users_own_class(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, str, list[str]]:
    kind = type("VNLinear", (Broken,), {})
    return nn.ModuleDict({"sound": VNLinear(3, 4), "bad": kind()}), "SO(3)", ["bad.map_to_feat"]


def a_bias(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, str, list[str]]:
    layer = VNLinear(3, 4)
    layer.map_to_feat = nn.Linear(3, 4)
    return nn.ModuleDict({"sound": VNLinear(3, 4), "bad": layer}), "SO(3)", ["bad.map_to_feat"]


def tampered_linear(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, str, list[str]]:
    """An o3.Linear one of whose calls mixes a component into a scalar."""
    layer = o3.Linear("2x0e+2x1o", "2x0e+2x1o")

    def forward(self: nn.Module, features: Tensor) -> Tensor:
        return type(self).forward(self, features) + 1e-3 * features.roll(1, -1)

    layer.forward = MethodType(forward, layer)
    return nn.ModuleDict({"sound": o3.Linear("2x1o", "2x1o"), "bad": layer}), "O(3)", ["bad"]


def reflections(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, str, list[str]]:
    """A frame completed by a cross product follows rotations only."""
    model = nn.ModuleDict({"sound": VNLinear(3, 4), "bad": VNStdFeature(8, normalize_frame=True)})
    return model, "O(3)", ["bad.vn_lin"]


UNSOUND = pytest.mark.parametrize("tamper", [relu_on_components, a_users_own_class, a_bias, tampered_linear, reflections])


@UNSOUND
def test_a_layer_that_fails_the_proof_is_refused(tamper: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model, group, bad = tamper(monkeypatch)
    before = anatomy(model)
    with pytest.raises(ValueError, match="should be equivariant but are not") as error:
        relaxify(model, group)
    assert all(f"{path!r}" in str(error.value) for path in bad)
    assert "fix them, exclude them, or pass strict=False" in str(error.value)
    assert anatomy(model) == before


@UNSOUND
def test_a_layer_that_fails_the_proof_can_be_left_as_it_is(tamper: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model, group, bad = tamper(monkeypatch)
    planned = plan(model, group)
    assert [rejected.path for rejected in planned.unsound] == bad
    assert all("commute" in rejected.reason or "breaks" in rejected.reason for rejected in planned.unsound)
    with pytest.warns(UserWarning, match=r"is broken by .*; these are left as they are"):
        relaxify(model, group, strict=False)
    assert list(terms_of(model)) == [site.path for site in planned.sites]
    assert not set(bad) & {site.path for site in planned.sites}
    assert any(site.path.startswith("sound") for site in planned.sites)


def test_a_frame_completed_by_a_cross_product_follows_rotations() -> None:
    assert "vn_lin" in paths(VNStdFeature(8, normalize_frame=True), "SO(3)")


def test_layers_that_start_at_zero_pass_the_proof() -> None:
    model = nn.ModuleList([VNLinear(3, 4), o3.Linear("2x1o", "2x1o")])
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert paths(model) == ["0.map_to_feat", "1"]


def test_an_output_that_is_not_finite_proves_nothing() -> None:
    model = VNLinearLeakyReLU(3, 4, dim=4)
    model.batchnorm.bn.running_var.fill_(float("nan"))
    assert paths(model) == []
    assert [rejected.path for rejected in plan(model, "SO(3)").unsound] == ["map_to_feat", "map_to_dir"]


def shared() -> tuple[nn.Module, list[str]]:
    """One layer under two names."""
    model = nn.Sequential(VNLinear(3, 3), VNLeakyReLU(3))
    model.append(model[0])
    return model, ["0.map_to_feat", "1.map_to_dir"]


def tied() -> tuple[nn.Module, list[str]]:
    """Two layers with one weight."""
    model = nn.Sequential(VNLinear(3, 3), VNLeakyReLU(3), VNLinear(3, 3))
    model[2].map_to_feat.weight = model[0].map_to_feat.weight
    return model, ["0.map_to_feat", "1.map_to_dir"]


SHARING = pytest.mark.parametrize("build", [shared, tied])


@SHARING
def test_a_shared_weight_is_one_site_with_one_term(build: Callable) -> None:
    """Both uses are relaxed by the same W."""
    model, expected = build()
    x = torch.randn(2, 3, 3, 5)
    assert paths(model) == expected
    relaxify(model, "SO(3)")
    terms = terms_of(model)
    assert list(terms) == expected
    term = terms["0.map_to_feat"]
    assert sum(p is term.weight for p in model.parameters()) == 1
    randomise_terms(model)
    hidden = model[1](model[0](x))
    w, f = term.weight, model[0].map_to_feat
    rows = hidden.transpose(1, -1)
    by_hand = nn.functional.linear(rows, f.weight) + 0.5 * (rows.flatten(-2) @ w.T).view_as(rows)
    torch.testing.assert_close(model(x), by_hand.transpose(1, -1))


@SHARING
@pytest.mark.parametrize("name", ["0", "2", "2.map_to_feat"])
def test_a_shared_layer_is_selected_by_any_of_its_names(build: Callable, name: str) -> None:
    model, _ = build()
    assert paths(model, exclude=[name]) == ["1.map_to_dir"]
    assert paths(model, include=[name]) == ["0.map_to_feat"]
    assert plan(model, "SO(3)", overrides={name: RelaxConfig(rank=1)}).configs["0.map_to_feat"].rank == 1


@SHARING
@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_a_shared_layer_is_projected_once(build: Callable, mode: str) -> None:
    """fold is exact for an equivariant W, for both uses."""
    model, _ = build()
    x, base = torch.randn(2, 3, 3, 5), copy.deepcopy(model)
    relaxify(model, "SO(3)", config=RelaxConfig(theta=0.5))
    with torch.no_grad():
        model[0].map_to_feat.relaxation.weight.copy_(torch.kron(torch.eye(3), torch.randn(3, 3)))
    clean = project(model, mode=mode)
    assert not terms_of(clean)
    assert not any(module._forward_hooks for module in clean.modules())
    assert clean.state_dict().keys() == base.state_dict().keys()
    torch.testing.assert_close(clean(x), (base if mode == "drop" else model)(x))


def test_layers_that_share_a_weight_but_not_the_bias_are_one_site() -> None:
    model = nn.ModuleList(o3.Linear("2x0e+2x1o", "2x0e+2x1o", biases=True) for _ in range(2))
    model[1].weight = model[0].weight
    (site,) = plan(model, "O(3)").sites
    assert (site.path, [path for path, _ in site.aliases]) == ("0", ["1"])


def test_layers_that_share_a_weight_but_use_it_on_other_features_are_two_sites() -> None:
    model = nn.ModuleList([o3.Linear("4x0e", "4x0e"), o3.Linear("4x1o", "4x1o"), o3.Linear("4x1e", "4x1e")])
    for layer in model[1:]:
        layer.weight = model[0].weight
    assert paths(model, "O(3)") == ["1", "2"]
    assert relaxify(model, "O(3)")[1](torch.randn(5, 12)).shape == (5, 12)


def test_every_layer_that_shares_a_weight_is_proved() -> None:
    sound, bad = VNLinear(3, 3), type("VNLinear", (Broken,), {})()
    bad.map_to_feat = nn.Linear(3, 3, bias=False)
    bad.map_to_feat.weight = sound.map_to_feat.weight
    (rejected,) = plan(nn.ModuleList([sound, bad]), "SO(3)").unsound
    assert rejected.path == "0.map_to_feat"


def test_a_model_that_is_one_layer() -> None:
    model = o3.Linear("2x0e+3x1o", "2x0e+3x1o")
    x, base = torch.randn(4, 11), copy.deepcopy(model)
    assert paths(model, "O(3)", include=[""]) == [""]
    relaxify(model, "O(3)", overrides={"": RelaxConfig(theta=1.0)})
    assert list(terms_of(model)) == [""]
    randomise_terms(model)
    assert not torch.allclose(model(x), base(x))
    assert torch.equal(project(model)(x), base(x))
    assert "relaxation.weight" in model.state_dict()


def test_equal_but_distinct_modules_are_told_apart() -> None:
    """Some libraries' modules compare equal if they are built alike."""
    alike = {"__eq__": lambda self, other: type(self) is type(other), "__hash__": lambda self: 7}
    kind = type("VNLinear", (VNLinear,), alike)
    model = nn.Sequential(kind(3, 3), kind(3, 3))
    assert list(terms_of(relaxify(model, "SO(3)"))) == ["0.map_to_feat", "1.map_to_feat"]


def test_folding_does_not_change_a_layer_that_uses_the_weight_otherwise() -> None:
    model = nn.ModuleList([o3.Linear("4x0e", "4x0e"), o3.Linear("4x1o", "4x1o")])
    model[1].weight = model[0].weight
    relaxify(model, "O(3)", config=RelaxConfig(theta=1.0))
    model[1].relaxation.weight.data.normal_()
    x = torch.randn(3, 4)
    assert torch.equal(project(model, mode="fold")[0](x), project(model)[0](x))


class InAnotherOrder(nn.Module):
    """Spherical harmonics of the axes in another order, as in code from before e3nn's change of axes."""

    def __init__(self, order: list[int], *, constant: bool = False) -> None:
        super().__init__()
        self.order, self.constant = order, constant
        self.up, self.mix = o3.Linear("1x1o+1x2e", "4x1o+2x2e"), o3.Linear("4x1o+2x2e", "4x1o+2x2e")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.mix(self.up(o3.spherical_harmonics([1, 2], (x - x.mean(0))[:, self.order], normalize=False)))
        return torch.ones(1).to(x) if self.constant else h.square().sum(1)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0], [2, 1, 0]])
def test_layers_that_read_the_axes_in_another_order_are_relaxed(order: list[int], constant: bool) -> None:
    model, x = InAnotherOrder(order, constant=constant), torch.randn(30, 3)
    result = plan(model, "O(3)", example_inputs=(x,))
    assert [site.path for site in result.sites] == ["up", "mix"]
    assert (result.verdict.is_sound, result.unsound) == (not constant, ())
    assert [rejected.path for rejected in result.rejected] == ([""] if constant else [])
    with pytest.warns(UserWarning, match="does not respond") if constant else nullcontext():
        assert relaxify(model, "O(3)", example_inputs=(x,)) is model


@pytest.mark.parametrize("act", [torch.relu, lambda v: v])
def test_a_dead_model_is_relaxed_only_if_its_values_transform_up_to_there(act) -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.out = nn.Linear(1, 4, bias=False), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(act(self.mix(x.unsqueeze(-1))).norm(dim=1) - 1e4))

    x = torch.randn(20, 3)
    if act is torch.relu:
        with pytest.raises(ValueError, match=r"Dead cannot be told to be equivariant .* does not respond .* strict=False"):
            relaxify(Dead(), "SO(3)", example_inputs=(x,))
    else:
        with pytest.warns(UserWarning, match="does not respond"):
            relaxify(Dead(), "SO(3)", example_inputs=(x,))


def test_a_model_that_draws_random_numbers_is_refused() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.rand(()) * super().forward(x)

    with pytest.raises(ValueError, match=r"Noisy cannot be told .*: the model draws random numbers"):
        relaxify(Noisy(4, 4, bias=False), "SO(3)", example_inputs=torch.randn(20, 3, 4))


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0]])
def test_a_fault_before_them_is_refused_in_every_order(order: list[int]) -> None:
    model = nn.Sequential(nn.ReLU(), InAnotherOrder(order))
    with pytest.raises(ValueError, match="should be equivariant but are not"):
        relaxify(model, "O(3)", example_inputs=(torch.randn(30, 3),))


class OfSpecies(nn.Module):
    """Vectors with channels made of three species."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Linear(3, 6), nn.Linear(6, 1, bias=False)

    def forward(self, x: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        return self.mix((x - x.mean(0)).unsqueeze(-1) * self.embed(species).unsqueeze(1)).squeeze(-1)


def test_one_hot_codes_of_three_species_are_not_rotated() -> None:
    species = torch.eye(3)[torch.arange(12) % 3]
    found = plan(OfSpecies(), "O(3)", example_inputs=(torch.randn(12, 3), species))
    assert [site.path for site in found.sites] == ["mix"]
    assert [(rejected.path, rejected.kind) for rejected in found.rejected] == [("embed", RejectionKind.trivial)]
    same = torch.eye(3)[torch.zeros(12, dtype=torch.long)]
    with pytest.raises(ValueError, match="whether these are codes or vectors is ambiguous; pass input_action"):
        plan(OfSpecies(), "O(3)", example_inputs=(torch.randn(12, 3), same))


@pytest.mark.parametrize("how", ["Linear", "linear", "einsum"])
def test_a_layer_that_starts_at_zero_is_relaxed_and_said_to_be_idle(how: str) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.last = nn.Linear(1, 6, bias=False), nn.Linear(6, 6, bias=False)
            nn.init.zeros_(self.last.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            v = self.up(x.unsqueeze(-1))
            if how == "Linear":
                return v + self.last(v)
            weight = self.last.weight
            return v + (nn.functional.linear(v, weight) if how == "linear" else torch.einsum("nmd,ed->nme", v, weight))

    model, x = Residual(), torch.randn(12, 3)
    result = plan(model, "O(3)", example_inputs=(x,))
    assert [(site.path.split(".")[0], bool(site.idle)) for site in result.sites] == [("up", False), ("last", True)]
    assert "6xvector -> 6xvector, idle: its weights start at zero" in str(result)
    assert relaxify(model, "O(3)", example_inputs=(x,)) is model


class TurnedFilters(nn.Module):
    """A lifting convolution in plain torch: one filter, turned by quarters (Cohen, Welling 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = torch.stack([torch.rot90(self.weight, k, (-2, -1)) for k in range(4)], dim=1)
        return nn.functional.conv2d(x, turned.flatten(0, 1), padding=1).unflatten(1, (-1, 4)).amax(2).mean((-2, -1))


def test_a_convolution_whose_kernel_is_made_is_a_site() -> None:
    found = plan(TurnedFilters(), "C(4)", example_inputs=(torch.randn(4, 1, 6, 6),))
    assert found.verdict is not None
    assert found.verdict.is_sound
    assert [site.path for site in found.sites] == ["weight"]
