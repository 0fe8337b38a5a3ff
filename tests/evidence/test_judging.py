"""Bare nn.Linear layers are found, or refused, by how their values transform; what breaks the symmetry is named."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from e3nn import o3
from torch import Tensor, nn

from relaxify import Group, plan, project, relaxify
from relaxify.evidence.analysis import analyse
from relaxify.evidence.judging import judge_by_data_flow
from relaxify.sites import EvidenceKind, Features, RejectionKind, Site
from relaxify_examples.models.vn_pointnet import VNPointNet


class ScalarVector(nn.Module):
    """A PaiNN-like update: vectors [nodes, 3, F] mixed over the last axis, scalars gated by their norms and products."""

    def __init__(self, width: int = 6, fault: str = "") -> None:
        super().__init__()
        self.embed = nn.Linear(1, width, bias=False)
        self.u = nn.Linear(width, width, bias=fault == "bias")
        self.v = nn.Linear(width, width, bias=False)
        self.gate = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.out = nn.Linear(width, 1, bias=False)
        self.norm = nn.LayerNorm(3)
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        vectors = self.embed((x - x.mean(0)).unsqueeze(-1))
        if self.fault == "component norm":
            vectors = self.norm(vectors.transpose(1, 2)).transpose(1, 2)
        u, v = self.u(vectors), self.v(vectors)
        if self.fault == "component relu":
            u = u.relu()
        scalars = self.gate(torch.cat([v.norm(dim=1), (u * v).sum(1)], dim=-1))
        result: Tensor = self.out(vectors + u * scalars.unsqueeze(1)).squeeze(-1)
        return result


X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
VECTOR_MAPS = ["embed", "u", "v", "out"]


def test_every_map_on_vectors_is_found_and_no_other() -> None:
    result = plan(ScalarVector(), "O(3)", example_inputs=[X])
    assert [site.path for site in result.sites] == VECTOR_MAPS
    assert all(site.map.features_in == site.map.features_out == Features((-2, -1)) for site in result.sites)
    assert [str(site.map.rep_in) for site in result.sites] == ["1xvector", "6xvector", "6xvector", "6xvector"]
    assert {r.path: r.reason for r in result.rejected} == dict.fromkeys(
        ["gate.0", "gate.2"], "invariant -> invariant: it cannot break O(3)"
    )


def test_evidence_and_rejections_say_of_which_statement_they_speak() -> None:
    result = plan(ScalarVector(fault="bias"), "O(3)", example_inputs=[X])
    assert {site.evidence for site in result.sites} == {EvidenceKind.data_flow}
    assert [statement(site.location) for site in result.sites if site.path == "embed"] == [
        "vectors = self.embed((x - x.mean(0)).unsqueeze(-1))"
    ]
    found = {rejected.path: (rejected.kind, statement(rejected.location)) for rejected in result.rejected}
    assert found["u"] == (RejectionKind.unsound, "u, v = self.u(vectors), self.v(vectors)")
    assert {kind for kind, _ in found.values()} == {RejectionKind.unsound, RejectionKind.spoilt}


def statement(location: str) -> str:
    file, line = location.rsplit(":", 1)
    return Path(file).read_text().splitlines()[int(line) - 1].strip()


def test_without_example_inputs_a_bare_linear_proves_nothing() -> None:
    with pytest.raises(ValueError, match=r"no equivariant layer found .* pass example_inputs"):
        relaxify(ScalarVector(), "O(3)")


def test_relax_train_project_by_evidence() -> None:
    model = ScalarVector()
    plain = copy.deepcopy(model)
    relaxify(model, "O(3)", example_inputs=[X])
    assert torch.equal(model(X), plain(X))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    model.u.relaxation.theta.fill_(1.0)
    for _ in range(3):
        model(X).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.u.relaxation.weight.any()
    clean = project(model)
    plain.load_state_dict(clean.state_dict(), strict=True)
    assert torch.equal(plain(X), clean(X))


def test_the_walk_agrees_with_the_adapter_on_vector_neurons() -> None:
    """23 of 26 linears carry vectors; the head's three are invariant."""
    model, x = VNPointNet(num_classes=4, n_knn=4, width=12), torch.randn(4, 3, 16)
    by_type = {site.path for site in plan(model, "SO(3)").sites}
    analysis = analyse(model, Group.parse("SO(3)"), (x,), None, [])
    by_flow = {entry.path for entry in judge_by_data_flow(model, analysis, []).judged if isinstance(entry, Site)}
    assert by_flow == by_type
    assert len(by_flow) == 23


@pytest.mark.parametrize(
    ("fault", "path", "words", "line"),
    [
        ("bias", "u", "a bias on vector channels", "u, v = self.u(vectors), self.v(vectors)"),
        ("component norm", "norm", "no longer transforms", "self.norm(vectors.transpose(1, 2))"),
        ("component relu", "", "no longer transforms", "u = u.relu()"),
    ],
)
def test_a_broken_claim_names_the_node_and_strict_refuses(fault: str, path: str, words: str, line: str) -> None:
    model = ScalarVector(fault=fault)
    (unsound,) = plan(model, "O(3)", example_inputs=[X]).unsound
    assert unsound.path == path
    assert words in unsound.reason
    file, number = next(word.rstrip(":") for word in unsound.reason.split() if ".py:" in word).rsplit(":", 1)
    assert line in Path(file).read_text().splitlines()[int(number) - 1]
    with pytest.raises(ValueError, match=words):
        relaxify(model, "O(3)", example_inputs=[X])
    with pytest.warns(UserWarning, match=r"O\(3\) is broken by "):
        relaxify(model, "O(3)", example_inputs=[X], strict=False)
    assert hasattr(model.embed, "relaxation")
    assert not hasattr(model.out, "relaxation")


class Mixed(nn.Module):
    """A layer mixes what an axis of the group's own is made of; without its bias it would be no better."""

    def __init__(self, axis: int, size: int, bias: bool) -> None:
        super().__init__()
        self.axis = axis
        self.mix = nn.Linear(size, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x.movedim(self.axis, -1)).movedim(-1, self.axis).tanh()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("group", "axis", "shape"), [("O(3)", -1, (24, 3)), ("S(5)", -2, (8, 5, 3))])
def test_a_layer_that_mixes_components_is_not_blamed_for_its_bias(
    group: str, axis: int, shape: tuple[int, ...], bias: bool
) -> None:
    (unsound,) = plan(Mixed(axis, shape[axis], bias), group, example_inputs=[torch.randn(shape)]).unsound
    assert unsound.path == "mix"
    assert "bias" not in unsound.reason
    assert "mixes" in unsound.reason


def test_an_ambiguous_input_asks() -> None:
    with pytest.raises(ValueError, match=r"which axis of size 3 carries vectors of O\(3\) is ambiguous; pass input_action"):
        plan(ScalarVector(), "O(3)", example_inputs=[torch.randn(3, 3)])
    action = lambda g, inputs: (inputs[0] @ g.mT.to(inputs[0]),)  # noqa: E731
    few = plan(ScalarVector(), "O(3)", example_inputs=[torch.randn(3, 3)], input_action=action)
    assert [site.path for site in few.sites] == VECTOR_MAPS


def test_planning_leaves_no_trace() -> None:
    model, x = ScalarVector(), X.clone()
    state, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    plan(model, "O(3)", example_inputs=[x])
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, X)
    assert torch.get_default_dtype() == torch.float32
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_that_does_not_run_says_so() -> None:
    with pytest.raises(ValueError, match=r"does not run on the example inputs .*; pass example_inputs=\(...\)"):
        plan(ScalarVector(), "O(3)", example_inputs=[X, X])


class SecondMoment(nn.Module):
    """A sound model of tensors r r^T, one a channel, and one that breaks them."""

    def __init__(self, *, spoilt: bool) -> None:
        super().__init__()
        self.mix = nn.Linear(1, 6, bias=False)
        self.spoilt = spoilt

    def forward(self, x: Tensor) -> Tensor:
        v = self.mix((x - x.mean(0)).unsqueeze(-1))
        tensors = torch.einsum("nif,njf->nfij", v, v)
        return tensors.relu() if self.spoilt else tensors


@pytest.mark.parametrize("spoilt", [False, True])
def test_tensors_on_two_axes_break_nothing(spoilt: bool) -> None:
    result = plan(SecondMoment(spoilt=spoilt), "O(3)", example_inputs=[X])
    assert [site.path for site in result.sites] == ["mix"]
    assert [rejected.op for rejected in result.unsound] == (["relu"] if spoilt else [])


class Residual(nn.Module):
    """Vectors that start at zero: the first map on them reads nothing but zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.message = nn.Linear(1, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros(len(x), 3, 4)
        v = v + self.first(v) + self.message((x - x.mean(0)).unsqueeze(-1))
        return v + self.second(v)


def test_what_a_state_that_starts_at_zero_carries_is_what_the_model_allows() -> None:
    result = plan(Residual(), "O(3)", example_inputs=[X])
    assert [site.path for site in result.sites] == ["first", "message", "second"]
    assert all(site.map.features_in == Features((-2, -1)) for site in result.sites)


class Tensors(nn.Module):
    """Maps on the channels of r r^T, traceless or antisymmetric: rank-deficient on the pair of axes that carries them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.symmetric, self.antisymmetric = (nn.Linear(n, 6, bias=False) for n in (1, 6, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v = self.mix((x - x.mean(0)).unsqueeze(-1))
        outer = v.unsqueeze(1) * v.roll(1, 0).unsqueeze(2)
        transposed = outer.transpose(1, 2)
        return self.symmetric(outer + transposed), self.antisymmetric(outer - transposed)


def test_maps_of_tensors_on_a_pair_of_axes_are_sites() -> None:
    result = plan(Tensors(), "O(3)", example_inputs=[X])
    assert {site.path: str(site.map.rep_in) for site in result.sites} == {
        "mix": "1xvector",
        "symmetric": "6xvector⊗vector",
        "antisymmetric": "6xvector⊗vector",
    }
    assert result.sites[1].map.features_in == Features((-3, -2, -1))
    model = relaxify(Tensors(), "O(3)", example_inputs=[X])
    model.antisymmetric.relaxation.theta.fill_(1.0)
    model(X)[1].sum().backward()
    assert model.antisymmetric.relaxation.weight.grad.any()


class Pseudoscalars(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.odd = nn.Linear(1, 9, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        v = self.mix((x - x.mean(0)).unsqueeze(-1))
        a, b, c = (part.roll(i, 0) for i, part in enumerate(v.chunk(3, dim=-1)))
        return self.odd((a * torch.linalg.cross(b, c, dim=1)).sum(1))


def test_a_map_of_pseudoscalars_is_a_site_of_o3_and_invariant_under_so3() -> None:
    by_group = {group: plan(Pseudoscalars(), group, example_inputs=[X]) for group in ("O(3)", "SO(3)")}
    assert {site.path: str(site.map.rep_in) for site in by_group["O(3)"].sites}["odd"] == "3xpseudoscalar"
    assert {site.path for site in by_group["SO(3)"].sites} == {"mix"}


def test_layers_downstream_of_a_fault_are_left_as_they_are_even_if_their_type_is_known() -> None:
    class FixedFrame(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = o3.Linear("4x1o", "4x1o"), o3.Linear("4x1o", "2x1o")

        def forward(self, x: Tensor) -> Tensor:
            return self.after(self.before(x) + torch.linspace(0, 1, 12))

    x = torch.randn(40, 12)
    rotate = lambda g, inputs: (torch.einsum("ij,ncj->nci", o3_matrix(g), inputs[0].unflatten(-1, (4, 3))).flatten(1),)  # noqa: E731
    result = plan(FixedFrame(), "O(3)", example_inputs=[x], input_action=rotate)
    assert [site.path for site in result.sites] == ["before"]
    assert [rejected.op for rejected in result.unsound] == ["add"]
    assert "does not transform as 4x1o, downstream of add" in {r.path: r.reason for r in result.rejected}["after"]
    with pytest.warns(
        UserWarning, match=r"O\(3\) is broken by .* \(add\): .*; downstream of that also 'after'; these are left"
    ):
        model = relaxify(FixedFrame(), "O(3)", example_inputs=[x], input_action=rotate, strict=False)
    assert not hasattr(model.after, "relaxation")


def o3_matrix(g: Tensor) -> Tensor:
    """g in e3nn's order of components, y z x."""
    return o3.Irrep("1o").D_from_matrix(g).to(torch.float64)


def test_without_evidence_all_layers_of_known_types_are_claimed() -> None:
    result = plan(nn.Sequential(o3.Linear("4x1o", "4x1o"), nn.Tanh(), o3.Linear("4x1o", "2x1o")), "O(3)")
    assert [site.path for site in result.sites] == ["0", "2"]


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(1, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        v = self.before((x - x.mean(0)).unsqueeze(-1))
        if v[0, 0, 0] > 0:
            v = v * 2
        return self.after(v)


def test_where_runs_take_different_branches_it_says_so() -> None:
    x = X.clone()
    x[0] = x[1:].mean(0) + torch.tensor([1e-3, 1.0, 1.0])
    model = Branching()
    nn.init.ones_(model.before.weight)
    result = plan(model, "SO(3)", example_inputs=[x])
    assert [site.path for site in result.sites] == ["before"]
    assert result.diverged is not None
    file, line = result.diverged.rsplit(":", 1)
    assert "v = v * 2" in Path(file).read_text().splitlines()[int(line) - 1]
    assert result.unsound, "the branch depends on the frame"
    (rejected,) = (entry for entry in result.rejected if not entry.unsound)
    assert rejected.reason == f"the runs on x and on g x take different courses from {result.diverged} on"


def test_inputs_may_be_given_by_keyword_or_as_one_tensor() -> None:
    for inputs in ({"x": X}, X, [X]):
        assert [site.path for site in plan(ScalarVector(), "O(3)", example_inputs=inputs).sites] == VECTOR_MAPS


def test_tied_layers_found_by_evidence_are_one_site() -> None:
    model = ScalarVector()
    model.v.weight = model.u.weight
    sites = plan(model, "O(3)", example_inputs=[X]).sites
    assert [(site.path, [path for path, _ in site.aliases]) for site in sites] == [("embed", []), ("u", ["v"]), ("out", [])]
