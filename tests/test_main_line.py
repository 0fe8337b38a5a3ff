"""The whole line on real models: relax, train, save, convert where the model's code cannot be imported, load, compare."""

from __future__ import annotations

import copy
import functools
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from relaxify import RelaxConfig, Triangle, penalty, project, relaxify, set_theta, summary
from relaxify_examples.models.segnn import SEGNN, fully_connected
from relaxify_examples.models.vn_pointnet import VNPointNet

Batch = tuple[Tensor, ...]


def segnn() -> tuple[nn.Module, str, Batch, tuple[int, ...]]:
    batch = (torch.randn(20, 3), torch.randn(20, 3), torch.randn(20, 1).sign(), fully_connected(4, 5))
    return SEGNN(width=8, num_layers=2), "O(3)", batch, (20, 3)


def vn_pointnet() -> tuple[nn.Module, str, Batch, tuple[int, ...]]:
    return VNPointNet(num_classes=4, n_knn=5, width=12), "SO(3)", (torch.randn(3, 3, 16),), (3, 4)


MODELS = pytest.mark.parametrize("make", [segnn, vn_pointnet])
Make = Callable[[], tuple[nn.Module, str, Batch, tuple[int, ...]]]


def run(model: nn.Module, batch: Batch) -> Tensor:
    """One forward pass with the same dropout masks every time."""
    torch.manual_seed(1)
    return model(*batch).detach()


def train(model: nn.Module, batch: Batch, target: Tensor, steps: int) -> None:
    optimizer, theta = torch.optim.Adam(model.parameters(), 1e-2), Triangle(model, 2 * steps, until=1)
    for _ in range(steps):
        loss = (model(*batch) - target).square().mean() + penalty(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        theta.step()


@functools.cache
def _trained(make: Make, rank: int | None) -> tuple[nn.Module, nn.Module, Batch]:
    torch.manual_seed(0)
    model, group, batch, shape = make()
    plain = copy.deepcopy(model)
    train(relaxify(model, group, config=RelaxConfig(rank=rank)), batch, torch.randn(shape), steps=6)
    return plain, model, batch


def trained(make: Make, rank: int | None = None) -> tuple[nn.Module, nn.Module, Batch]:
    """A plain model and its relaxed twin after six steps: copies, of a training that is done once."""
    plain, model, batch = _trained(make, rank)
    return copy.deepcopy(plain), copy.deepcopy(model), batch


def convert(source: Path) -> dict[str, Path]:
    """Run the command where the models' code cannot be imported: drop, then fold."""
    targets = {mode: source.with_name(f"{mode}{source.suffix}") for mode in ("drop", "fold")}
    commands = [["convert", str(source), "-o", str(target), "--mode", mode] for mode, target in targets.items()]
    program = (
        "import sys; sys.modules['relaxify_examples'] = None; "
        f"from relaxify_cli.main import run; sys.exit(max(map(run, {commands!r})))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=source.parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return targets


def save(state: dict[str, Tensor], path: Path) -> None:
    safetensors.torch.save_file(state, path) if path.suffix == ".safetensors" else torch.save(
        {"model": state, "epoch": 3}, path
    )


def load(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    nested = torch.load(path, weights_only=True)
    assert nested["epoch"] == 3
    return dict(nested["model"])


# every two of model, container and rank meet
@pytest.mark.parametrize(
    ("make", "suffix", "rank"),
    [(segnn, ".safetensors", None), (segnn, ".pt", 4), (vn_pointnet, ".safetensors", 4), (vn_pointnet, ".pt", None)],
)
def test_convert_equals_project(make: Make, suffix: str, rank: int | None, tmp_path: Path) -> None:
    """drop to 0 ulp, fold to 1e-6, with the input file untouched."""
    plain, model, batch = trained(make, rank)
    source = tmp_path / f"relaxed{suffix}"
    save(model.state_dict(), source)
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    converted = convert(source)
    for mode, tolerance in (("drop", 0.0), ("fold", 1e-6)):
        state, expected = load(converted[mode]), project(model, mode=mode).state_dict()
        reloaded = copy.deepcopy(plain)
        reloaded.load_state_dict(state, strict=True)
        for key, value in expected.items():
            torch.testing.assert_close(state[key], value, atol=tolerance, rtol=0)
        clean = project(model, mode=mode).eval()
        torch.testing.assert_close(run(reloaded.eval(), batch), run(clean, batch), atol=100 * tolerance, rtol=0)
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before


@MODELS
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("mode", ["drop", "fold", "fit"])
def test_project_gives_the_original_back(make: Make, mode: str, inplace: bool) -> None:
    """The same class, keys, order, shapes, parameter count and hooks; the relaxed model as it was, unless in place."""
    plain, model, _ = trained(make)
    relaxed_state = {key: value.clone() for key, value in model.state_dict().items()}
    clean = project(model, mode=mode, inplace=inplace)
    assert (clean is model) == inplace
    assert type(clean) is type(plain)
    assert {k: v.shape for k, v in clean.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert list(clean.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in clean.named_modules()] == [name for name, _ in plain.named_modules()]
    assert not any(module._forward_hooks for module in clean.modules())
    assert not any(module._forward_hooks_with_kwargs for module in clean.modules())
    if not inplace:
        assert all(torch.equal(relaxed_state[key], value) for key, value in model.state_dict().items())


@MODELS
def test_projecting_at_theta_zero_is_bit_equal(make: Make) -> None:
    """In training mode (terms active, batch statistics in use) and in evaluation mode."""
    _, model, batch = trained(make)
    set_theta(model, 0.0)
    clean = project(model)
    for mode in (True, False):
        assert torch.equal(run(model.train(mode), batch), run(clean.train(mode), batch))


@MODELS
def test_a_relaxed_model_starts_as_the_base_model(make: Make) -> None:
    model, group, batch, _ = make()
    base = copy.deepcopy(model)
    relaxify(model, group, config=RelaxConfig(theta=1.0))
    assert torch.equal(run(model, batch), run(base, batch))


@MODELS
def test_training_uses_the_terms_and_breaks_the_symmetry_while_it_does(make: Make) -> None:
    model, group, batch, shape = make()
    model, batch = model.double(), tuple(x.double() if x.is_floating_point() else x for x in batch)
    base = copy.deepcopy(model)
    train(relaxify(model, group), batch, torch.randn(shape).double(), steps=6)
    assert summary(model).share
    set_theta(model, 1.0)
    g = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.7, 0.2], [0.7, 0.0, 0.4], [-0.2, -0.4, 0.0]]).double())
    rotated = tuple(turn(x, g) for x in batch)

    def error(f: nn.Module) -> float:
        y, turned = run(f, batch), run(f, rotated)
        expected = y @ g.T if shape[-1] == 3 else y
        return float((turned - expected).norm() / y.norm())

    assert error(base) < 1e-9
    assert error(model) > 1e-2
    assert error(project(model, mode="fold")) < 1e-9


def turn(x: Tensor, g: Tensor) -> Tensor:
    """Rotate the axis of size 3, wherever this input carries vectors."""
    if not x.is_floating_point() or 3 not in x.shape[-2:]:
        return x
    return x @ g.T if x.shape[-1] == 3 else torch.einsum("ij,bjn->bin", g, x)
