"""The networks for smoke: shapes, sizes within the budget, and the symmetry that each promises."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from relaxify_examples.smoke.generation import SYMMETRIES, Symmetry
from relaxify_examples.smoke.models import (
    MODELS,
    NARROWEST,
    RPP,
    Lift,
    Pathways,
    decays,
    fitting_width,
    own_regulariser,
    parameter_count,
)

FRAMES, SIZE = 2, 8


@pytest.fixture(autouse=True)
def _escnn() -> None:
    pytest.importorskip("escnn.nn")


def net(name: str, symmetry: Symmetry, width: int = 2) -> nn.Module:
    """In float64, with every parameter random, so that nothing is neutral by its start."""
    model = MODELS[name](symmetry, FRAMES, width, SIZE).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * max(float(parameter.abs().mean()), 0.1))
    return model


def turned(velocity: Tensor) -> Tensor:
    """A quarter turn of the pictures to the left, and of the vectors in them; the second component points up."""
    pictures = velocity.rot90(1, (-2, -1)).unflatten(1, (-1, 2))
    return torch.stack([-pictures[:, :, 1], pictures[:, :, 0]], 2).flatten(1, 2)


@torch.no_grad()
def turning_error(model: nn.Module) -> float:
    x = torch.randn(2, 2 * FRAMES, SIZE, SIZE, dtype=torch.float64)
    y = model(x)
    return float((model(turned(x)) - turned(y)).norm() / y.norm())


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("name", MODELS)
def test_frames_in_and_a_frame_out(name: str, symmetry: Symmetry) -> None:
    model = net(name, symmetry)
    x = torch.randn(3, 2 * FRAMES, SIZE, SIZE, dtype=torch.float64)
    y = model(x)
    assert y.shape == (3, 2, SIZE, SIZE)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    torch.testing.assert_close(model(x[:1]), y[:1])


@pytest.mark.parametrize("name", MODELS)
def test_only_the_equivariant_network_commutes_with_quarter_turns(name: str) -> None:
    error = turning_error(net(name, "rotation"))
    assert error < 1e-12 if name == "Equiv" else error > 1e-3


def test_rpp_without_its_free_pathways_is_equivariant() -> None:
    model = RPP("rotation", FRAMES, 2).double()
    for layer in model.layers:
        assert isinstance(layer, Pathways)
        nn.init.zeros_(layer.free.weight)
        nn.init.zeros_(layer.free.bias)
    assert turning_error(model) < 1e-12


def test_lift_without_its_encoder_is_equivariant() -> None:
    model = Lift("rotation", FRAMES, 2).double()
    assert turning_error(model) > 1e-4
    nn.init.zeros_(model.encoder[-1].weight)
    nn.init.zeros_(model.encoder[-1].bias)
    assert turning_error(model) < 1e-12


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_the_relaxed_network_starts_as_an_equivariant_one(symmetry: Symmetry) -> None:
    """Its own regulariser is 0 there, and not where taps differ."""
    model = MODELS["RSteer"](symmetry, FRAMES, 2, SIZE).double()
    own = own_regulariser("RSteer")
    assert own is not None
    assert own_regulariser("Conv") is None
    assert own(model).item() < 1e-12
    if symmetry == "rotation":
        assert turning_error(model) < 1e-12
    assert own(net("RSteer", symmetry)).item() > 1e-3


def test_a_shifted_picture_shifts_what_a_convolution_sees_in_its_middle() -> None:
    """Equiv under scale promises translations too; scaling itself moves pixels off the grid, and is its layers' test."""
    model, x = net("Equiv", "scale"), torch.zeros(1, 2 * FRAMES, 64, 64, dtype=torch.float64)
    x[..., 31:33, 31:33] = torch.randn(2, 2)
    with torch.no_grad():
        seen, shifted = model(x), model(x.roll((1, -2), (-2, -1)))
    assert seen[..., 31:33, 31:33].abs().min() > 1e-3
    assert (shifted - seen.roll((1, -2), (-2, -1))).abs()[..., 31:33, 31:33].max() < 1e-10 * seen.abs().max()


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("name", MODELS)
def test_widths_are_the_largest_within_the_budget(name: str, symmetry: Symmetry) -> None:
    width = fitting_width(name, symmetry, FRAMES, SIZE, budget := 20_000 if name == "MLP" else 5000)
    assert width >= NARROWEST.get(name, 1)
    sizes = [parameter_count(MODELS[name](symmetry, FRAMES, w, SIZE)) for w in (width, width + 1)]
    assert sizes[0] <= budget < sizes[1]


def test_an_mlp_is_not_squeezed_into_the_budget() -> None:
    assert fitting_width("MLP", "rotation", 10, 32, 1000) == NARROWEST["MLP"]


def test_two_decays_for_two_pathways() -> None:
    model = RPP("rotation", FRAMES, 2)
    rest, free = decays(model, 1e-4, 1e-2)
    assert (rest["weight_decay"], free["weight_decay"]) == (1e-4, 1e-2)
    assert {id(p) for p in free["params"]} == {id(p) for n, p in model.named_parameters() if ".free." in n}
    assert len(rest["params"]) + len(free["params"]) == len(list(model.parameters()))
    assert len(list(decays(copy.deepcopy(model.layers[0].steered), 1e-4, 1e-2))) == 1
