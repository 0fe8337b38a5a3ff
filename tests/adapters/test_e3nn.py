"""e3nn: the adapter's representations are e3nn's own, its paths are the layer's own map, and nothing else is claimed.

`test_e3nn_044.py` runs some of these tests again under the oldest version that the adapter serves.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from e3nn import get_optimization_defaults, o3, set_optimization_defaults
from e3nn import nn as enn
from e3nn.util import jit
from torch import Tensor, nn
from torch.nn.utils import parametrize

from relaxify import Group, RelaxConfig, penalty, plan, project, relaxify, set_theta, summary
from relaxify.checkpoint.conversion import convert
from relaxify.intertwiners import project_to_intertwiners
from relaxify.relaxation.terms.term import terms_of
from relaxify.representations import Representation, slices
from relaxify.sites import Site
from relaxify.testing import equivariance_error
from relaxify_adapters.e3nn import representation, so3_generators
from relaxify_examples.models.segnn import SEGNN

O3 = Group.parse("O(3)")
EVERY_ROW = RelaxConfig(rows=None)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """e3nn rounds a layer's constants to the default dtype when the layer is made."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


IRREPS = o3.Irreps("2x0e+1x0o+2x1o+1x1e+1x2e+2x2o+1x3o+1x3e+1x4e+1x4o+1x6e")

LINEARS: dict[str, Callable[[], o3.Linear]] = {
    "one block": lambda: o3.Linear("3x1o", "2x1o"),
    "degrees 0 to 4": lambda: o3.Linear("2x0e+3x1o+1x2e+2x3o+1x4e+1x4o", "1x0e+2x1o+2x2e+1x3o+2x4e"),
    "blocks repeated": lambda: o3.Linear("2x0e+1x1o+3x0e+2x1o", "2x0e+1x1o+1x0e+2x1o"),
    "blocks unsorted": lambda: o3.Linear("2x2e+3x1o+1x0o+2x1o+1x0e", "1x0o+2x1o+1x2e+2x0e"),
    "multiplicity zero": lambda: o3.Linear("0x0e+2x1o+0x2e+2x0e", "1x1o+2x0e+0x1o+1x2e"),
    "path normalization": lambda: o3.Linear("2x0e+5x0e+2x1o", "3x0e+2x1o", path_normalization="path"),
    "biases": lambda: o3.Linear("2x0e+2x1o", "3x0e+2x1o+2x0e", biases=True),
    "one bias": lambda: o3.Linear("2x0e+2x1o", "3x0e+2x1o+2x0e", biases=[False, False, True]),
    "own instructions": lambda: o3.Linear("2x0e+1x1o+3x0e", "2x0e+2x1o+1x0e", instructions=[(2, 0), (1, 1), (0, 0)]),
    "an instruction twice": lambda: o3.Linear("2x1o+1x0e", "3x1o+2x0e", instructions=[(0, 0), (1, 1), (0, 0)]),
    "outputs without a path": lambda: o3.Linear("2x0e+2x1o", "2x0e+1x1e+2x1o+1x0o", biases=True),
}
FULLY_CONNECTED = [name for name in LINEARS if "instruction" not in name]

PRODUCTS: dict[str, Callable[[], o3.TensorProduct]] = {
    "a scalar": lambda: o3.FullyConnectedTensorProduct("2x0e+2x1o+1x2e", "1x0e", "3x0e+1x1o+2x2e"),
    "harmonics": lambda: o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x0e+1x1o", "3x0e+1x1o+1x1e"),
    "degrees 0 to 4": lambda: o3.FullyConnectedTensorProduct(
        "2x4e+1x0e+1x3o+1x2o", "1x0e+1x1o+1x2e", "1x3o+2x4e+1x0e+1x2o+1x1e"
    ),
    "the scalar not first": lambda: o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x1o+1x0e", "2x1o+3x0e"),
    "two scalars": lambda: o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x0e+1x1o+1x0e", "2x1o+3x0e"),
    "norm": lambda: o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x0e+1x1o", "2x1o+3x0e", irrep_normalization="norm"),
    "path": lambda: o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x0e+1x1o", "2x1o+3x0e", path_normalization="path"),
    "own instructions": lambda: o3.TensorProduct(
        "2x0e+2x1o",
        "1x0e+1x1o",
        "3x1o+2x0e+2x1o",
        [(0, 1, 2, "uvu", False), (0, 1, 2, "uvu", True), (1, 0, 0, "uvw", True), (0, 0, 1, "uvw", True)],
    ),
    "multiplicity zero": lambda: o3.FullyConnectedTensorProduct("0x0e+2x1o+1x0e", "1x0e+1x1o", "2x1o+0x2e+1x0e"),
}
CONSTANT = -0.7


def only_site(module: nn.Module, group: str = "O(3)") -> Site:
    (site,) = plan(module, group).sites
    return site


def expressed(layer: nn.Module, site: Site) -> Tensor:
    """The dense map that the site's paths say the layer's weights express: the sum of scale * w (x) 1."""
    rep_in, rep_out = site.map.rep_in, site.map.rep_out
    rows, columns = list(slices(rep_out.blocks)), list(slices(rep_in.blocks))
    matrix = torch.zeros(rep_out.dim, rep_in.dim)
    for path in site.map.paths:
        into, out = rep_in.blocks[path.block_in], rep_out.blocks[path.block_out]
        weight = layer.get_parameter(path.parameter).detach()[path.offset :][: into.multiplicity * out.multiplicity]
        channels = weight.view(into.multiplicity, out.multiplicity)
        copies = torch.einsum("io,ab->oaib", channels, torch.eye(into.dimension)).reshape(out.dim, into.dim)
        matrix[rows[path.block_out], columns[path.block_in]] += path.scale * copies
    return matrix


def random_intertwiner(site: Site) -> Tensor:
    rep_in, rep_out = site.map.rep_in, site.map.rep_out
    return project_to_intertwiners(torch.randn(rep_out.dim, rep_in.dim), rep_in, rep_out)


def attribute(product: o3.TensorProduct, rows: int, others: float = 1.0) -> Tensor:
    """A second input whose first single scalar is CONSTANT and whose other entries are random times `others`."""
    y = others * torch.randn(rows, product.irreps_in2.dim)
    scalar = next(i for i, (mul, ir) in enumerate(product.irreps_in2) if (mul, ir) == (1, o3.Irrep("0e")))
    y[:, product.irreps_in2.slices()[scalar].start] = CONSTANT
    return y


def with_random_bias(layer: o3.Linear) -> o3.Linear:
    if layer.bias_numel:
        nn.init.normal_(layer.bias)
    return layer


def trained_once(model: nn.Module, *inputs: Tensor, theta: float = 0.7, weight: Tensor | None = None) -> nn.Module:
    """Relaxed by random terms (or by `weight`) that have seen one batch."""
    relaxify(model, "O(3)", config=EVERY_ROW)
    for term in terms_of(model).values():
        value = torch.randn_like(term.weight) if weight is None else weight
        term.weight.data.copy_(value)
    set_theta(model, theta)
    model(*inputs)
    return model


@pytest.mark.parametrize("name", ["O(3)", "SO(3)"])
def test_representations_are_those_of_e3nn(name: str) -> None:
    group = Group.parse(name)
    rep, vector = representation(group, IRREPS), Representation.defining(group)
    for seed in range(4):
        element = group.random(torch.Generator().manual_seed(seed))
        expected = IRREPS.D_from_matrix(vector.rho(element))
        torch.testing.assert_close(rep.rho(element), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_generators_are_exact_in_every_default_dtype(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    so3_generators.cache_clear()
    for spin in range(7):
        x, y, z = so3_generators(spin)
        assert (x @ y - y @ x - z).abs().max() < 1e-12
        assert (y @ z - z @ y - x).abs().max() < 1e-12
        casimir = -(x @ x + y @ y + z @ z)
        torch.testing.assert_close(casimir, spin * (spin + 1) * torch.eye(2 * spin + 1, dtype=torch.float64))


@pytest.mark.parametrize("name", LINEARS)
def test_paths_are_the_linear_layer(name: str) -> None:
    layer = with_random_bias(LINEARS[name]())
    site, identity = only_site(layer), torch.eye(layer.irreps_in.dim)
    ran = layer(identity) - layer(torch.zeros_like(identity))
    torch.testing.assert_close(expressed(layer, site).mT, ran, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PRODUCTS)
def test_paths_are_the_tensor_product_with_a_scalar(name: str) -> None:
    layer = PRODUCTS[name]()
    site, identity = only_site(layer), torch.eye(layer.irreps_in1.dim)
    ran = layer(identity, attribute(layer, len(identity), others=0.0))
    assert ran.abs().max() > 0.1
    torch.testing.assert_close(CONSTANT * expressed(layer, site).mT, ran, rtol=0, atol=1e-12)


def test_layers_made_in_float32_are_proved_too() -> None:
    torch.set_default_dtype(torch.float32)
    model = nn.ModuleList([*(build() for build in LINEARS.values()), *(build() for build in PRODUCTS.values())])
    assert len(plan(model, "O(3)").sites) == len(LINEARS) + len(PRODUCTS)
    assert not plan(model, "O(3)").unsound


@pytest.mark.parametrize("name", FULLY_CONNECTED)
def test_fold_of_an_intertwiner_is_the_relaxed_linear_layer(name: str) -> None:
    layer = with_random_bias(LINEARS[name]())
    x = torch.randn(20, layer.irreps_in.dim)
    start = layer(x)
    trained_once(layer, x, weight=random_intertwiner(only_site(layer)))
    assert (layer(x) - start).norm() > 0.1 * start.norm()
    torch.testing.assert_close(project(layer, mode="fold")(x), layer(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in PRODUCTS if "instruction" not in name])
def test_fold_of_an_intertwiner_is_the_relaxed_tensor_product_where_the_scalar_is_constant(name: str) -> None:
    layer = PRODUCTS[name]()
    x, y = torch.randn(20, layer.irreps_in1.dim), attribute(layer, 20)
    start = layer(x, y)
    trained_once(layer, x, y, weight=random_intertwiner(only_site(layer)))
    assert (layer(x, y) - start).norm() > 0.1 * start.norm()
    torch.testing.assert_close(project(layer, mode="fold")(x, y), layer(x, y), rtol=0, atol=1e-10)


def test_tensor_product_whose_scalar_varies_is_dropped_with_the_reason() -> None:
    layer = PRODUCTS["harmonics"]()
    x, y = torch.randn(10, 8), torch.randn(10, 4)
    trained_once(layer, x, y)
    assert "not constant" in str(summary(layer).layers[""].foldable)
    for mode in ("fold", "fit"):
        assert torch.equal(project(layer, mode=mode)(x, y), project(layer)(x, y))


@pytest.mark.parametrize("second", ["2x0e+1x1o", "1x0o+1x1o", "1x1o"])
def test_tensor_product_without_a_single_scalar_is_dropped_with_the_reason(second: str) -> None:
    layer = o3.FullyConnectedTensorProduct("2x0e+2x1o+1x0o", second, "2x1o+3x0e+1x1e")
    x, y = torch.randn(10, layer.irreps_in1.dim), torch.ones(10, layer.irreps_in2.dim)
    trained_once(layer, x, y)
    assert "a single scalar of its second input" in str(summary(layer).layers[""].foldable)
    assert torch.equal(project(layer, mode="fold")(x, y), project(layer)(x, y))


class Subclass(o3.Linear):
    """As DeepH-E3 has."""


class Watched(o3.Linear):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features)


class Doubled(o3.Linear):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(features)


def parametrized() -> nn.Module:
    layer = o3.Linear("2x1o", "2x1o")
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    return layer


REJECTED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weights from outside": (lambda: o3.Linear("2x1o", "2x1o", internal_weights=False), "inputs of the call"),
    "weights per row": (lambda: o3.Linear("2x1o", "2x1o", shared_weights=False), "inputs of the call"),
    "product, weights from outside": (
        lambda: o3.FullyConnectedTensorProduct("2x1o", "0e+1o", "2x1o", shared_weights=False),
        "inputs of the call",
    ),
    "product of some channels, weights from outside": (
        lambda: o3.TensorProduct("2x1o", "1x0e", "2x1o", [(0, 0, 0, "uvu", True)], shared_weights=False),
        "inputs of the call",
    ),
    "several weights": (lambda: o3.Linear("2x1o", "2x1o", f_in=2, f_out=3), "f_in, f_out"),
    "no path": (lambda: o3.Linear("4x0e", "2x1o"), "no path"),
    "no instruction": (lambda: o3.Linear("2x1o", "2x1o", instructions=[]), "no path"),
    "product, no path": (lambda: o3.FullyConnectedTensorProduct("4x0e", "1x0e", "2x1o"), "no path"),
    "nothing in": (lambda: o3.Linear("0x1o", "2x1o"), "no path"),
    "scalars": (lambda: o3.Linear("4x0e", "2x0e"), "cannot break O\\(3\\)"),
    "subclass": (lambda: Doubled("2x1o", "2x1o"), "Doubled is a subclass, which computes something else"),
    "parametrized": (parametrized, "computed from other parameters"),
    "scripted": (lambda: jit.script(o3.Linear("2x1o", "2x1o")), "TorchScript"),
    "product, scripted": (lambda: jit.script(o3.FullyConnectedTensorProduct("2x1o", "0e", "2x1o")), "TorchScript"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_with_the_reason(name: str) -> None:
    build, reason = REJECTED[name]
    result = plan(nn.ModuleDict({"layer": build()}), "O(3)")
    assert [r.path for r in result.rejected] == ["layer"]
    assert not result.sites
    assert not result.unsound
    with pytest.raises(ValueError, match=reason):
        relaxify(nn.ModuleDict({"layer": build()}), "O(3)")


@pytest.mark.parametrize("kind", [Subclass, Watched])
def test_subclass_that_computes_the_same_is_relaxed_and_folds(kind: type[o3.Linear]) -> None:
    layer, x = kind("2x0e+2x1o", "2x1o+3x0e"), torch.randn(10, 8)
    trained_once(layer, x)
    projected = project(layer, mode="fold")
    assert type(projected) is kind
    assert not torch.allclose(projected(x), project(layer)(x))


@pytest.mark.parametrize("group", ["SO(2)", "SO(1,3)", "S(3)"])
def test_other_groups_are_rejected(group: str) -> None:
    result = plan(nn.Sequential(LINEARS["one block"](), PRODUCTS["harmonics"]()), group)
    assert [r.reason for r in result.rejected] == [f"e3nn's layers are equivariant under SO(3) or O(3), not {group}"] * 2
    assert not result.sites


def test_products_and_activations_without_weights_are_no_candidates() -> None:
    gate = enn.Gate("2x0e", [torch.tanh], "2x0e", [torch.sigmoid], "2x1o")
    product = o3.TensorProduct("2x1o", "1x0e", "2x1o", [(0, 0, 0, "uvu", False)])
    model = nn.ModuleList([gate, o3.Norm("2x1o"), product, enn.BatchNorm("2x1o"), enn.Dropout("2x1o", 0.1)])
    assert not plan(model, "O(3)").sites
    assert not plan(model, "O(3)").rejected


def test_inputs_broadcast_as_they_do_without_a_term() -> None:
    product = PRODUCTS["harmonics"]()
    x, y = torch.randn(3, 1, 8), torch.randn(1, 5, 4)
    expected = product(x, y) + 0.7 * x.sum(-1, keepdim=True)
    trained_once(product, x, y, weight=torch.ones(9, 8))
    torch.testing.assert_close(product(x, y), expected)


def test_a_call_with_weights_of_its_own_is_relaxed_and_projected() -> None:
    layer = LINEARS["degrees 0 to 4"]()
    x, weight = torch.randn(5, layer.irreps_in.dim), torch.randn_like(layer.weight)
    expected = layer(x, weight)
    trained_once(layer, x)
    torch.testing.assert_close(layer(x, weight), expected + 0.7 * x @ layer.relaxation.weight.mT)
    for mode in ("drop", "fold"):
        assert torch.equal(project(layer, mode=mode)(x, weight), expected)


@pytest.fixture(params=["eager", "script"])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways in which e3nn runs the code that it generates."""
    key = "jit_mode" if "jit_mode" in get_optimization_defaults() else "jit_script_fx"
    before = get_optimization_defaults()[key]
    set_optimization_defaults(**{key: request.param if key == "jit_mode" else request.param == "script"})
    yield request.param
    set_optimization_defaults(**{key: before})


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = o3.Linear("2x0e+2x1o", "2x0e+2x1o", biases=True)
        self.product = o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x0e+1x1o", "1x0e+1x1o")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.product(self.linear(x), y)


def train(model: nn.Module, forward: Callable[[], Tensor], steps: int = 3) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        ((forward() - 1).square().mean() + penalty(model)).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_relax_train_project(mode: str) -> None:
    plain, model, (x, y) = Mixed(), Mixed(), (torch.randn(5, 8), torch.randn(5, 4))
    model.load_state_dict(plain.state_dict())
    relaxify(model, "O(3)")
    assert [site.path for site in plan(plain, "O(3)").sites] == list(terms_of(model)) == ["linear", "product"]
    set_theta(model, 0.5)
    assert torch.equal(model(x, y), plain(x, y))
    train(model, lambda: model(x, y))
    clean = project(model)
    assert not torch.equal(model(x, y), clean(x, y))
    plain.load_state_dict(clean.state_dict(), strict=True)
    assert list(plain.state_dict()) == list(clean.state_dict())
    set_theta(model, 0.0)
    expected = model(x, y)
    for result in (clean, plain, project(model), project(model, inplace=True)):
        assert torch.equal(result(x, y), expected)


def test_convert_equals_project(mode: str, tmp_path: Path) -> None:
    model, x, y = Mixed(), torch.randn(5, 8), attribute(Mixed().product, 5)
    trained_once(model, x, y)
    torch.save(model.state_dict(), tmp_path / "relaxed.pt")
    exactness: dict[Literal["drop", "fold"], float] = {"drop": 0.0, "fold": 1e-12}
    for how, tolerance in exactness.items():
        convert(tmp_path / "relaxed.pt", tmp_path / f"{how}.pt", mode=how)
        plain = Mixed()
        plain.load_state_dict(torch.load(tmp_path / f"{how}.pt", weights_only=True), strict=True)
        torch.testing.assert_close(plain(x, y), project(model, mode=how)(x, y), rtol=0, atol=tolerance)
    assert not torch.equal(project(model, mode="fold")(x, y), project(model)(x, y))


def test_scripting_waits_until_after_projecting() -> None:
    """TorchScript refuses a module with hooks before it makes anything of it."""
    x, y = torch.randn(5, 8), torch.randn(5, 4)
    model = trained_once(Mixed(), x, y)
    before = model(x, y)
    with pytest.raises((RuntimeError, ValueError)):
        jit.script(model)
    assert torch.equal(model(x, y), before)
    clean = project(model)
    torch.testing.assert_close(jit.script(clean)(x, y), clean(x, y))


def rotated(irreps: str, x: Tensor, g: Tensor) -> Tensor:
    return x @ o3.Irreps(irreps).D_from_matrix(g).mT


def simple_network() -> nn.Module:
    from e3nn.nn.models.v2106.gate_points_networks import SimpleNetwork

    return SimpleNetwork("2x0e+1x1o", "2x0e+1x1o", 3.0, num_neighbors=3.0, num_nodes=5.0, mul=2, layers=1, lmax=1)


def gate_points() -> nn.Module:
    from e3nn.nn.models.gate_points_2101 import Network

    return Network(
        "2x0e+1x1o", "2x0e+2x1o", "2x0e+1x1o", None, "0e+1o", layers=1, max_radius=3.0, number_of_basis=3,
        radial_layers=1, radial_neurons=8, num_neighbors=3.0, num_nodes=5.0,
    )  # fmt: skip


NETWORKS = {"v2106": (simple_network, 8), "gate_points_2101": (gate_points, 6)}
RANDOM = torch.Generator().manual_seed(3)
POSITIONS, FEATURES = (torch.randn(5, n, generator=RANDOM, dtype=torch.float64) for n in (3, 5))


def run(model: nn.Module) -> Tensor:
    """The network on one fixed graph."""
    return model({"pos": POSITIONS, "x": FEATURES})


def error_of(model: nn.Module) -> float:
    return equivariance_error(
        lambda positions, features: model({"pos": positions, "x": features}),
        "O(3)",
        POSITIONS,
        FEATURES,
        input_action=lambda g, inputs: (inputs[0] @ g.mT, rotated("2x0e+1x1o", inputs[1], g)),
        output_action=lambda g, y: rotated("2x0e+1x1o", y, g),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_the_library_itself(name: str) -> None:
    build, sites = NETWORKS[name]
    model = relaxify(build(), "O(3)")
    assert len(terms_of(model)) == sites
    set_theta(model, 0.5)
    train(model, lambda: run(model))
    assert error_of(model) > 1e-3
    dropped, folded = project(model), project(model, mode="fold")
    assert torch.equal(run(model.eval()), run(dropped))
    assert not torch.equal(run(folded), run(dropped))
    assert error_of(dropped) < 1e-12
    assert error_of(folded) < 1e-12


def test_the_constant_harmonic_makes_every_layer_of_segnn_foldable() -> None:
    model = relaxify(SEGNN(width=3, num_layers=1), "O(3)")
    model(torch.randn(4, 5, 3), torch.randn(4, 5, 3), torch.ones(4, 5, 1))
    assert len(terms_of(model)) == 7
    assert all(layer.foldable is None for layer in summary(model).layers.values())
