"""Adapters come from installed distributions: a third party's, the built-in ones, and broken ones."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import Tensor, nn

from relaxify import Group, Triangle, penalties, penalty, plan, project, relaxify, set_theta
from relaxify.registry import Operation, adapters
from relaxify.representations import Representation
from relaxify.sites import EquivariantMap, EvidenceKind, Features, Rejected, Site

THIRD_PARTY = Path(__file__).parent / "third_party"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the distribution of tests/third_party installed in it."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(THIRD_PARTY)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return target


@pytest.fixture
def deep_sets(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Sequential]:
    """A model of that distribution's layers, in a process that finds the distribution where it is installed."""
    monkeypatch.syspath_prepend(installed)
    adapters.cache_clear()
    layer = importlib.import_module("deep_sets_layers").DeepSetsLinear
    assert Path(inspect.getfile(layer)).parent == installed
    yield nn.Sequential(layer(5, 3, 8), nn.Tanh(), layer(5, 8, 2, bias=False)).double()
    del sys.modules["deep_sets_layers"]
    adapters.cache_clear()


def sets(channels: int = 3) -> Tensor:
    return torch.randn(16, 5, channels, dtype=torch.float64)


def test_layers_of_an_installed_distribution_are_sites(installed: Path) -> None:
    """In a process of its own, as a user starts it."""
    program = """
        from torch import nn
        from deep_sets_layers import DeepSetsLinear
        from relaxify import plan

        found = plan(nn.Sequential(DeepSetsLinear(5, 3, 8), nn.Tanh(), DeepSetsLinear(5, 8, 2, bias=False)), "S(5)")
        assert {site.path: site.map.adapter for site in found.sites} == dict.fromkeys("02", "deep_sets_layers")
        assert [str(site.map.rep_out) for site in found.sites] == ["8xvector", "2xvector"]
        assert all(site.proof < 1e-12 for site in found.sites)
    """
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", dedent(program)]
    result = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_its_reasons_are_heard(deep_sets: nn.Sequential) -> None:
    found = plan(deep_sets, "S(4)")
    assert not found.sites
    assert {r.path: r.reason for r in found.rejected}["2"] == "it commutes with S(5); S(4) was asked for"


def test_its_layers_train_relaxed_and_project_back(deep_sets: nn.Sequential) -> None:
    model, plain = deep_sets, copy.deepcopy(deep_sets)
    x, target, order = sets(), sets(2), [1, 2, 3, 4, 0]
    relaxify(model, "S(5)")
    assert torch.equal(model(x), plain(x))
    optimizer, theta, losses = torch.optim.Adam(model.parameters(), 1e-2), Triangle(model, 40), []
    for _ in range(40):
        loss = (model(x) - target).square().mean() + penalty(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        theta.step()
    assert losses[-1] < losses[0]
    assert all(model[i].relaxation.weight.any() for i in (0, 2))

    clean = project(model)
    # theta ends at 0
    assert torch.equal(clean(x), model(x))
    torch.testing.assert_close(clean(x[:, order]), clean(x)[:, order])
    assert list(clean.state_dict()) == list(plain.state_dict())
    assert type(clean[0]) is type(plain[0])
    assert not clean[0]._forward_hooks
    plain.load_state_dict(clean.state_dict(), strict=True)
    assert torch.equal(plain(x), clean(x))

    set_theta(model, 1.0)
    assert not torch.allclose(model(x[:, order]), model(x)[:, order])


def test_its_penalty_spares_intertwiners_alone(deep_sets: nn.Sequential) -> None:
    """S(n)'s intertwiners are w (x) identity and w (x) mean, whether or not `fold` can express them."""
    relaxify(deep_sets, "S(5)")
    w, v = torch.randn(2, 8, 3, dtype=torch.float64)
    with torch.no_grad():
        deep_sets[0].relaxation.weight.copy_(torch.kron(torch.eye(5), w) + torch.kron(torch.ones(5, 5) / 5, v))
        deep_sets[2].relaxation.weight.normal_()
    deep_sets(sets())
    sizes = penalties(deep_sets)
    assert sizes["0"].norm > 1
    assert sizes["0"].lie.max() < 1e-12
    assert sizes["2"].norm > 1
    assert sizes["2"].lie.min() > 1
    assert penalty(deep_sets) > 0


def test_its_paths_fold(deep_sets: nn.Sequential) -> None:
    """w (x) identity moves into A; B and the bias stay."""
    relaxify(deep_sets, "S(5)")
    set_theta(deep_sets, 0.5)
    x, w = sets(), torch.randn(8, 3, dtype=torch.float64)
    with torch.no_grad():
        deep_sets[0].relaxation.weight.copy_(torch.kron(torch.eye(5), w))
    folded = project(deep_sets, mode="fold")
    torch.testing.assert_close(folded(x), deep_sets(x))
    torch.testing.assert_close(folded[0].A, deep_sets[0].A + 0.5 * w.T)
    assert torch.equal(folded[0].B, deep_sets[0].B)
    assert torch.equal(folded[0].bias, deep_sets[0].bias)


Declare = Callable[[str, str], None]


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Declare]:
    """declare(name, value): install, by hand, a distribution whose one entry point has this name and value."""

    def install(name: str, value: str) -> None:
        folder = tmp_path / name / f"{name}_layers-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-layers\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[relaxify.adapters]\n{name} = {value}\n")
        monkeypatch.syspath_prepend(folder.parent)
        adapters.cache_clear()

    yield install
    adapters.cache_clear()


@pytest.mark.parametrize(
    ("value", "cause"),
    [("no_such_module:adapter", "No module named 'no_such_module'"), ("math:adapter", "has no attribute 'adapter'")],
)
def test_an_adapter_that_does_not_load_is_named(declare: Declare, value: str, cause: str) -> None:
    declare("broken", value)
    with pytest.raises(RuntimeError) as caught:
        plan(nn.Linear(3, 3), "SO(3)")
    message = str(caught.value)
    assert message.startswith(f"adapter 'broken' ({value}, from broken-layers) does not load: ")
    assert cause in message
    assert message.endswith("; fix or uninstall its distribution.")


def test_a_module_that_fails_for_any_reason_does_not_load(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "layers_without_driver.py").write_text("raise OSError('the driver is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    declare("broken", "layers_without_driver:adapter")
    with pytest.raises(RuntimeError, match="does not load: the driver is missing; ") as caught:
        adapters()
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("value", ["math", "math:pi", "torch.nn:Linear", "relaxify_adapters.e3nn:E3nnAdapter"])
def test_what_is_no_adapter_is_named(declare: Declare, value: str) -> None:
    declare("other", value)
    with pytest.raises(RuntimeError) as caught:
        adapters()
    assert str(caught.value) == (
        f"adapter 'other' ({value}, from other-layers) is not an adapter: pass an object with `name` and "
        "`sites(path, module, group)`."
    )


def test_built_in_adapters_are_entry_points_of_relaxify() -> None:
    built_in = {p.name: p.load() for p in entry_points(group="relaxify.adapters") if p.dist and p.dist.name == "relaxify"}
    assert {"e3nn", "vector_neurons"} <= set(built_in)
    assert all(adapter.name == name and adapter in adapters() for name, adapter in built_in.items())


def test_the_order_is_that_of_names_wherever_adapters_are_installed(declare: Declare) -> None:
    built_in = [adapter.name for adapter in adapters()]
    assert built_in == sorted(built_in)
    a, z = "relaxify_adapters.e3nn:adapter", "relaxify_adapters.vector_neurons:adapter"
    declare("alpha", a)
    declare("zeta", z)
    assert [adapter.name for adapter in adapters()] == ["e3nn", *built_in, "vector_neurons"]


class Functions:
    """Knows `mix` of a library: channels of vectors on axis -1 of [.., 3, channels]."""

    name = "functions"

    def __init__(self) -> None:
        self.seen: list[Operation] = []

    def sites(self, path: str, module: nn.Module, group: Group) -> Iterator[Site | Rejected]:
        return iter(())

    def operations(self, operation: Operation, group: Group) -> Iterator[Site | Rejected]:
        self.seen.append(operation)
        (name,) = operation.parameters
        if not name.endswith("known"):
            return
        channels = operation.shapes[0][-1], operation.shapes[-1][-1]
        vectors = [Representation.defining(group, n, "component_major") for n in channels]
        features = Features((-2, -1))
        map_ = EquivariantMap("functions", "mix", *vectors, features, features, unfoldable="a test", intercepts=("known",))
        yield Site(name, operation.module, map_, lambda: 0.0, evidence=EvidenceKind.function)


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.known, self.other = (nn.Parameter(torch.randn(4, 4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        v = (x - x.mean(0)).unsqueeze(-1) * torch.arange(1.0, 5.0)
        return v @ self.known @ self.other


def test_an_adapter_of_functions_is_offered_every_operation_that_reads_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = Functions()
    monkeypatch.setattr("relaxify.evidence.adapter_claims.adapters", lambda: (adapter,))
    model, x = nn.Sequential(Mixing()), torch.randn(20, 3)
    result = plan(model, "O(3)", example_inputs=[x])
    assert {site.path: site.map.adapter for site in result.sites} == {"0.known": "functions", "0.other": "data_flow"}
    operation = next(seen for seen in adapter.seen if seen.parameters == ("0.known",))
    assert operation.path == "0"
    assert operation.module is model[0]
    assert operation.shapes == ((20, 3, 4), (4, 4), (20, 3, 4))
    file, line = operation.node.meta["location"].rsplit(":", 1)
    assert "v @ self.known" in Path(file).read_text().splitlines()[int(line) - 1]


class OwnMixing(nn.Module):
    """A layer of somebody's own on vectors, which needs no adapter because it describes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return torch.einsum("oi,...ix->...ox", self.weight, input)

    def relaxify_sites(self, path: str, group: Group) -> Iterator[Site | Rejected]:
        rep_in, rep_out = (Representation.defining(group, channels) for channels in (2, 4))
        features = Features((-2, -1))
        map_ = EquivariantMap("own", "OwnMixing", rep_in, rep_out, features_in=features, features_out=features)
        yield Site(path, self, map_, lambda: 0.0)


def test_a_layer_may_describe_itself() -> None:
    model, x = nn.Sequential(OwnMixing(), nn.Identity()).double(), torch.randn(5, 2, 3, dtype=torch.float64)
    relaxify(model, "SO(3)")
    with torch.no_grad():
        model[0].relaxation.weight.normal_()
    set_theta(model, 0.5)
    expected = project(model)(x) + 0.5 * (x.flatten(1) @ model[0].relaxation.weight.mT).view(5, 4, 3)
    torch.testing.assert_close(model(x), expected)


def test_modules_that_answer_to_every_name_describe_nothing() -> None:
    class Anything(nn.Module):
        def __getattr__(self, name: str) -> object:
            return lambda *_: 1 / 0

    assert not plan(nn.ModuleList([Anything()]), "SO(3)").sites
