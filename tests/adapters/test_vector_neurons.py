"""Vector Neurons: every map on vectors is found, no other is, and each is relaxed as CR sec. 3.4 says."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relaxify import Group, RelaxConfig, penalties, penalty, plan, project, relaxify, set_theta, summary
from relaxify.intertwiners import project_to_intertwiners
from relaxify.relaxation.terms.term import Term, terms_of
from relaxify.representations import Representation
from relaxify.testing import equivariance_error
from relaxify_examples.models.vector_neurons import VNLeakyReLU, VNLinear, VNLinearLeakyReLU, VNMaxPool, VNStdFeature
from relaxify_examples.models.vn_dgcnn import VNDGCNN
from relaxify_examples.models.vn_pointnet import VNPointNet

SMALL: dict[str, Any] = {"num_classes": 4, "n_knn": 5, "width": 12}
NETWORKS = {
    "VN-PointNet": (lambda: VNPointNet(**SMALL), "SO(3)", 23, 26),
    "VN-PointNet max": (lambda: VNPointNet(**SMALL, pooling="max"), "SO(3)", 25, 28),
    "VN-DGCNN": (lambda: VNDGCNN(**SMALL), "O(3)", 15, 18),
    "VN-DGCNN max": (lambda: VNDGCNN(**SMALL, pooling="max"), "O(3)", 19, 22),
}
INVARIANT_HEADS = {"fc1", "fc2", "fc3", "linear1", "linear2", "linear3"}


def rotation(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return Representation.defining(Group.parse("SO(3)")).rho(Group.parse("SO(3)").random(generator))


def randomise(model: nn.Module, std: float = 1.0, theta: float = 1.0) -> None:
    for term in terms_of(model).values():
        nn.init.normal_(term.weight, std=std)
    set_theta(model, theta)


def calibrated(build: Callable[[], nn.Module], clouds: Tensor) -> nn.Module:
    """In eval mode, float64, with the batch norms' statistics of these clouds: else the logits hardly depend on them."""
    model = build().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    model(clouds)
    return model.eval()


def intertwiner(term: Term) -> Tensor:
    return project_to_intertwiners(torch.randn(term.weight.shape), term.map.rep_in, term.map.rep_out)


@pytest.mark.parametrize("group", ["SO(3)", "O(3)"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_map_on_vectors_is_a_site_and_no_other(name: str, group: str) -> None:
    """Layer by layer all commute with reflections too, though VN-PointNet's cross products do not."""
    build, _, vectors, linears = NETWORKS[name]
    model = build()
    every = {path: module for path, module in model.named_modules() if type(module) is nn.Linear}
    result = plan(model, group)
    assert len(every) == linears
    assert {site.path for site in result.sites} == every.keys() - INVARIANT_HEADS
    assert len(result.sites) == vectors
    assert [rejected.op for rejected in result.rejected if rejected.unknown] == 3 * ["Linear"]
    assert all(rejected.unknown for rejected in result.rejected)
    for site in result.sites:
        assert site.module is every[site.path]
        assert (site.map.rep_in.dim, site.map.rep_out.dim) == (3 * site.module.in_features, 3 * site.module.out_features)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: VNLinear(4, 2), {"map_to_feat"}),
        (lambda: VNLeakyReLU(4), {"map_to_dir"}),
        (lambda: VNLeakyReLU(4, share_nonlinearity=True), {"map_to_dir"}),
        (lambda: VNLinearLeakyReLU(4, 2, dim=5), {"map_to_feat", "map_to_dir"}),
        (lambda: VNLinearLeakyReLU(4, 2, dim=3, share_nonlinearity=True), {"map_to_feat", "map_to_dir"}),
        (lambda: VNMaxPool(4), {"map_to_dir"}),
        (lambda: VNStdFeature(8, dim=4), {f"vn{i}.map_to_{k}" for i in (1, 2) for k in ("feat", "dir")} | {"vn_lin"}),
        (lambda: VNStdFeature(8, dim=3), {f"vn{i}.map_to_{k}" for i in (1, 2) for k in ("feat", "dir")} | {"vn_lin"}),
    ],
)
def test_feature_maps_and_direction_maps_of_each_class(build: Callable[[], nn.Module], names: set[str]) -> None:
    assert {site.path for site in plan(build(), "O(3)").sites} == names


LAYOUTS = pytest.mark.parametrize("shape", [(2, 5, 3, 4), (2, 6, 3, 5, 4), (2, 3, 4), (2, 3, 3, 3), (3, 3, 3)], ids=str)


@LAYOUTS
def test_the_term_is_a_dense_map_on_the_three_components_of_all_channels(shape: tuple[int, ...]) -> None:
    """CR sec. 3.4: uvec[W vec(X)] for X in R^(3 x C), at each point of [B, N, 3, C], [B, k, 3, N, C] and [B, 3, C]."""
    layer = VNLinear(shape[-1], 2)
    relaxify(layer, "SO(3)")
    randomise(layer, theta=0.5)
    linear, weight, x = layer.map_to_feat, terms_of(layer)["map_to_feat"].weight.detach(), torch.randn(shape)
    vectors = x.movedim(2, -2) if len(shape) == 5 else x
    rows = vectors.reshape(-1, 3, shape[-1])
    added = torch.stack([(weight @ matrix.reshape(-1)).reshape(3, 2) for matrix in rows])
    added = added.reshape(*vectors.shape[:-2], 3, 2)
    added = added.movedim(-2, 2) if len(shape) == 5 else added
    expected = nn.functional.linear(x, linear.weight) + 0.5 * added
    torch.testing.assert_close(linear(x), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_relaxed_network_turns_with_its_input_and_its_projections_do_not(name: str) -> None:
    build, group, *_ = NETWORKS[name]
    clouds = torch.randn(4, 3, 12, dtype=torch.float64)
    model = calibrated(build, clouds)
    start = model(clouds)
    relaxify(model, group, keep_relaxed=True)
    randomise(model, std=0.1)
    folded = project(model, mode="fold")
    assert torch.equal(project(model)(clouds), start)
    assert not torch.allclose(folded(clouds), start)
    # rotations alone break it, and not even reflections do afterwards
    assert equivariance_error(model, "SO(3)", clouds) > 0.1
    assert equivariance_error(project(model), group, clouds) < 1e-9
    assert equivariance_error(folded, group, clouds) < 1e-9


@pytest.mark.parametrize("name", NETWORKS)
def test_fold_of_an_equivariant_relaxation_is_the_relaxed_network(name: str) -> None:
    build, group, *_ = NETWORKS[name]
    clouds = torch.randn(4, 3, 12, dtype=torch.float64)
    model = relaxify(calibrated(build, clouds), group, keep_relaxed=True)
    for term in terms_of(model).values():
        term.weight.data.copy_(0.1 * intertwiner(term))
    set_theta(model, 0.7)
    expected = model(clouds)
    assert (expected - project(model)(clouds)).norm() > 0.1 * expected.norm()
    assert (project(model, mode="fold")(clouds) - expected).norm() < 1e-10 * expected.norm()


@pytest.mark.parametrize("rows", [None, 16])
@pytest.mark.parametrize("name", ["VN-PointNet", "VN-DGCNN"])
def test_every_term_is_penalised_once(name: str, rows: int | None) -> None:
    """Direction maps as much as feature maps, and no bias (both differ in the reference implementation)."""
    model, clouds = NETWORKS[name][0](), torch.randn(3, 3, 12)
    relaxify(model, "SO(3)", config=RelaxConfig(weight=0.3, rows=rows, share=None))
    randomise(model, std=0.1)
    model(clouds)
    layers, terms = penalties(model), terms_of(model)
    assert layers.keys() == terms.keys() == {site.path for site in plan(project(model), "SO(3)").sites}
    total = penalty(model)
    torch.testing.assert_close(total, sum(0.3 * (layer.norm + layer.lie.sum()) for layer in layers.values()))
    for layer in layers.values():
        assert layer.norm > 0
        assert (layer.lie > 0).all()
    total.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {f"{path}.relaxation.weight" for path in terms}


@pytest.mark.parametrize("kept", [None, 64])
def test_a_direction_maps_penalty_is_its_own(kept: int | None) -> None:
    """The same input rows, so the penalty of each map is |W x| + sum_A |L_A(W) x| of its own W, by hand."""
    layer, x = VNLinearLeakyReLU(4, 2, dim=4).double(), torch.randn(3, 4, 3, 5, dtype=torch.float64)
    relaxify(layer, "SO(3)", config=RelaxConfig(rows=kept))
    randomise(layer)
    layer(x)
    rows = x.permute(0, 3, 2, 1).reshape(-1, 12)
    j = Group.parse("SO(3)").generators
    eye_in, eye_out = torch.eye(4, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    measured = penalties(layer)
    for name in ("map_to_feat", "map_to_dir"):
        w = getattr(layer, name).relaxation.weight
        maps = [w, *(w @ torch.kron(a, eye_in) - torch.kron(a, eye_out) @ w for a in j)]
        expected = [(rows @ m.mT).square().sum(-1).mean().sqrt() for m in maps]
        found = measured[name]
        torch.testing.assert_close(torch.cat([found.norm[None], found.lie]), torch.stack(expected))
        assert found.weight == RelaxConfig().weight


def test_directions_that_feed_only_an_argmax_are_dead() -> None:
    model = VNDGCNN(**SMALL, pooling="max")
    relaxify(model, "O(3)", config=RelaxConfig(weight=0.0, theta=0.5))
    (model(torch.randn(3, 3, 12)).square().sum() + penalty(model)).backward()
    pools = {path for path in terms_of(model) if path.startswith("pool")}
    assert len(pools) == 4
    assert pools <= set(summary(model).dead)


def other(name: str, **members: Callable[..., Any]) -> type[nn.Module]:
    """Another library's class of the same name."""
    return type(name, (nn.Module,), members)


def init(self: Any, *, axis: int = 1, bias: bool = False) -> None:
    nn.Module.__init__(self)
    self.map_to_feat = nn.Linear(4, 4, bias=bias)
    self.axis = axis


def einsum_init(self: Any) -> None:
    nn.Module.__init__(self)
    self.weight = nn.Parameter(torch.randn(4, 4))


def channels_on(self: Any, x: Tensor) -> Tensor:
    return self.map_to_feat(x.transpose(self.axis, -1)).transpose(self.axis, -1)


def add_constant(self: Any, x: Tensor) -> Tensor:
    return channels_on(self, x) + torch.ones(3, dtype=x.dtype)[:, None]


def clamp(self: Any, x: Tensor) -> Tensor:
    return channels_on(self, x).relu()


EINSUM = other("VNLinear", __init__=einsum_init, forward=lambda self, x: torch.einsum("...ic,oi->...oc", x, self.weight))
LIKE = other("VNLinear", __init__=init, forward=channels_on)
SHIFTED = other("VNLinear", __init__=init, forward=add_constant)
CLAMPED = other("VNLinear", __init__=init, forward=clamp)


class Pair(nn.Module):
    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = VNLinear(2, 4), second


UNSOUND: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a bias": (lambda: LIKE(bias=True), "its bias on vector channels breaks equivariance"),
    # [batch, points, channels, 3], as in VN-Transformer: what stands on axis 2 are channels
    "vectors on the last axis": (lambda: LIKE(axis=2), "does not take vectors on axis 2"),
    "a constant": (SHIFTED, "does not commute with"),
    "a ReLU per component": (CLAMPED, "does not commute with"),
}


def test_a_class_of_the_same_name_and_structure_is_the_same() -> None:
    assert [site.path for site in plan(LIKE(), "O(3)").sites] == ["map_to_feat"]


@pytest.mark.parametrize("group", ["SO(3)", "O(3)"])
@pytest.mark.parametrize("case", UNSOUND)
def test_another_layer_of_the_same_name_is_refused_with_the_reason(case: str, group: str) -> None:
    build, reason = UNSOUND[case]
    model = Pair(build())
    keys = list(copy.deepcopy(model).state_dict())
    (rejected,) = plan(model, group).rejected
    assert (rejected.path, rejected.op, rejected.unsound) == ("second.map_to_feat", "VNLinear.map_to_feat", True)
    assert reason in rejected.reason
    with pytest.raises(ValueError, match=r"'second\.map_to_feat'.*" + reason):
        relaxify(model, group)
    assert list(model.state_dict()) == keys
    with pytest.warns(UserWarning, match=r"is broken by 'second\.map_to_feat'"):
        relaxify(model, group, strict=False)
    assert list(terms_of(model)) == ["first.map_to_feat"]


def test_a_layer_of_the_same_name_without_such_a_map_is_no_site() -> None:
    """VN-Transformer's applies a Parameter of its own: nothing is claimed of it, so strict lets it be."""
    model = Pair(EINSUM())
    (rejected,) = plan(model, "SO(3)").rejected
    assert (rejected.path, rejected.unsound) == ("second", False)
    assert "map_to_feat should be an nn.Linear but is missing" in rejected.reason
    assert list(terms_of(relaxify(model, "SO(3)"))) == ["first.map_to_feat"]
    with pytest.raises(ValueError, match=r"should be an nn\.Linear but is missing"):
        relaxify(EINSUM(), "SO(3)")


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ("SO(2)", r"vectors have 3 components, but SO\(2\) acts on 2"),
        ("C(4)", r"vectors have 3 components, but C\(4\) acts on 2"),
        ("SO(1,3)", r"vectors have 3 components, but SO\(1,3\) acts on 4"),
        ("T(2)", r"T\(2\) has other elements"),
    ],
)
def test_groups_that_vectors_in_space_do_not_follow(group: str, reason: str) -> None:
    model = VNLinearLeakyReLU(4, 2, dim=4)
    result = plan(model, group)
    assert not result.sites
    assert [rejected.path for rejected in result.rejected] == ["map_to_feat", "map_to_dir"]
    with pytest.raises(ValueError, match=reason):
        relaxify(model, group)


def test_a_frame_completed_by_a_cross_product_follows_rotations_only() -> None:
    layer = VNStdFeature(8, dim=4, normalize_frame=True)
    assert "vn_lin" in {site.path for site in plan(layer, "SO(3)").sites}
    (rejected,) = plan(layer, "O(3)").unsound
    assert rejected.path == "vn_lin"
