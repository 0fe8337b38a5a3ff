"""Relaxed steerable convolutions on escnn's bases, and the networks for smoke."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relaxify import RelaxConfig, Triangle, penalty, plan, project, relaxify

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    enn = pytest.importorskip("escnn.nn")
    from escnn import gspaces

    from relaxify_examples.models.relaxed_convolution import RelaxedConv, approximate_equivariance_loss
    from relaxify_examples.models.relaxed_steerable import RelaxedSteerableConv, steerable_net

NETS = pytest.mark.parametrize(("symmetry", "group"), [("rotation", "C(4)"), ("scale", "Scale(2)")])


def net(symmetry: Any, relaxed: bool = True) -> nn.Sequential:
    model = steerable_net(symmetry, frames=2, width=3, relaxed=relaxed).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


def frames(batch: int = 2, pixels: int = 9) -> Tensor:
    return torch.randn(batch, 4, pixels, pixels, dtype=torch.float64)


def turned(velocity: Tensor) -> Tensor:
    """A quarter turn of an image of vectors (right, up)."""
    right, up = velocity.rot90(1, (-2, -1)).unflatten(1, (-1, 2)).unbind(2)
    return torch.stack([-up, right], 2).flatten(1, 2)


def convolutions(model: nn.Module) -> list[RelaxedConv]:
    return [part for part in model if isinstance(part, RelaxedConv)]


@pytest.mark.parametrize("order", [4, 6, 8])
def test_kernels_are_escnns(order: int) -> None:
    """In the span of those of its own layer, and as many."""
    gspace = gspaces.rot2dOnR2(order)
    into, out = enn.FieldType(gspace, [gspace.irrep(1)] * 2), enn.FieldType(gspace, [gspace.regular_repr])
    layer, theirs = RelaxedSteerableConv(into, out, 5), enn.R2Conv(into, out, 5)
    (block,) = theirs.basisexpansion.children()
    own, basis = layer.basis.double().flatten(1).T, block.sampled_basis.double().flatten(1).T
    rest = own - basis @ torch.linalg.lstsq(basis, own).solution
    assert own.shape == basis.shape
    assert float(rest.norm() / own.norm()) < 1e-5


@pytest.mark.parametrize("relaxed", [True, False])
def test_the_rotation_net_is_equivariant_to_rounding_at_the_start(relaxed: bool) -> None:
    model, x = net("rotation", relaxed), frames()
    y = model(x).detach()
    for _ in range(3):
        x, y = turned(x), turned(y)
        torch.testing.assert_close(model(x).detach(), y, rtol=0, atol=1e-13 * float(y.norm()))


def test_the_rotation_net_breaks_the_symmetry_when_coefficients_vary() -> None:
    model, x = net("rotation"), frames()
    nn.init.normal_(convolutions(model)[2].variation, std=0.1)
    y = turned(model(x)).detach()
    assert float((model(turned(x)).detach() - y).norm()) > 1e-2 * float(y.norm())
    assert approximate_equivariance_loss(model).item() > 0


@NETS
def test_without_relaxation_the_same_net_with_fewer_parameters(symmetry: str, group: str) -> None:
    relaxed, plain = net(symmetry), net(symmetry, relaxed=False)
    plain.load_state_dict(relaxed.state_dict(), strict=False)
    x = frames()
    torch.testing.assert_close(plain(x), relaxed(x))
    counts = [sum(p.numel() for p in model.parameters()) for model in (plain, relaxed)]
    taps = convolutions(plain)[0].convolution.taps
    weights = sum(layer.weights.numel() for layer in convolutions(plain))
    assert counts[1] - counts[0] == taps * weights
    assert len(convolutions(plain)) == 5


@NETS
def test_copies_and_pickles(symmetry: str, group: str) -> None:
    model, x = net(symmetry), frames()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        assert len(plan(other, group).sites) == 5
    if symmetry == "rotation":
        assert other[0].in_type == model[0].in_type
        assert other[0].out_type == model[0].out_type


@NETS
def test_relaxed_trained_and_projected(symmetry: str, group: str) -> None:
    """With terms that stay: they act in eval mode, and the net without them is what is projected."""
    model, x = net(symmetry), frames()
    y = model(x).detach()
    relaxify(model, group, config=RelaxConfig(weight=0.01), keep_relaxed=True)
    assert torch.equal(model(x), y)
    theta, optimiser = Triangle(model, total_steps=8, until=1), torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(4):
        loss = model(x).sub(x[:, :2]).square().mean() + penalty(model) + 0.1 * approximate_equivariance_loss(model)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        theta.step()
    assert loss.isfinite()
    y = model(x).detach()
    torch.testing.assert_close(model.eval()(x), y)
    clean = project(model)
    assert list(clean.state_dict()) == list(net(symmetry).state_dict())
    assert not torch.allclose(clean(x), y)
    with torch.no_grad():
        for part in convolutions(model):
            part.relaxation.theta.zero_()
    assert torch.equal(clean(x), model(x))


def test_the_projected_net_is_equivariant_again() -> None:
    """Without relaxation of its own, and with terms that do not stay."""
    model, x = relaxify(net("rotation", relaxed=False), "C(4)", config=RelaxConfig(theta=0.5)), frames()
    with torch.no_grad():
        for part in convolutions(model):
            part.relaxation.weight.normal_(std=0.1)

    def error(other: nn.Module) -> float:
        y = turned(other(x)).detach()
        return float((other(turned(x)).detach() - y).norm() / y.norm())

    assert error(model) > 1e-2
    assert error(model.eval()) < 1e-13
    assert error(project(model)) < 1e-13


def test_fields_that_are_not_served() -> None:
    gspace, flips = gspaces.rot2dOnR2(4), gspaces.flipRot2dOnR2(4)
    vectors, scalars = (enn.FieldType(gspace, [rep]) for rep in (gspace.irrep(1), gspace.trivial_repr))
    with pytest.raises(ValueError, match="fields of the kinds irrep_1, regular in one layer; give each kind a layer"):
        RelaxedSteerableConv(enn.FieldType(gspace, [gspace.irrep(1), gspace.regular_repr]), vectors, 3)
    with pytest.raises(ValueError, match=r"not of the rotations C_n alone; pass fields over gspaces.rot2dOnR2\(n\)"):
        RelaxedSteerableConv(vectors, enn.FieldType(flips, [flips.trivial_repr]), 3)
    with pytest.raises(ValueError, match=r"no kernel of size 1 from .* is steerable; pass a larger kernel_size"):
        RelaxedSteerableConv(vectors, scalars, 1)


@pytest.mark.parametrize(
    ("symmetry", "layers", "words"), [("spin", 5, "symmetry 'spin' is not known"), ("scale", 1, "layers=1: one layer")]
)
def test_nets_that_there_are_not(symmetry: Any, layers: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        steerable_net(symmetry, frames=1, width=1, layers=layers)
