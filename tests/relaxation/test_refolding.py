"""Refolding moves what is equivariant of W into the layer, and leaves the function as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from escnn_layers import double, enn, gspaces
from networks import Batch, Make, cnn_net, e3nn_net, randomise_terms, run, train, unchecked, vn_net
from torch import Tensor, nn

from relaxify import RelaxConfig, Triangle, project, refold, relaxify, set_theta, summary
from relaxify.relaxation.terms.term import terms_of


class Mixer(nn.Module):
    """A product with a Parameter in a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Parameter(torch.randn(6, 1)), nn.Parameter(torch.randn(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        v = torch.einsum("nci,oc->noi", (x - x.mean(0)).unsqueeze(1), self.embed)
        return (self.out @ (v * torch.tanh(v.norm(dim=-1, keepdim=True)))).squeeze(1)


class Images(nn.Module):
    """An escnn layer that takes and returns tensors."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(enn.GeometricTensor(x, self.layer.in_type)).tensor


def relaxed_net(make: Make, config: RelaxConfig = RelaxConfig()) -> tuple[nn.Module, Batch]:
    model, group, batch = make()
    model, batch = model.double(), tuple(x.double() for x in batch)
    examples = {"example_inputs": batch} if make is functional_net else {}
    randomise_terms(relaxify(model, group, config=config, **examples))
    if make is e3nn_net:
        # its product folds for the scalar attribute that was seen
        model(*batch)
    return model, batch


def functional_net() -> tuple[nn.Module, str, Batch]:
    return Mixer(), "O(3)", (torch.randn(24, 3),)


def steerable_net() -> tuple[nn.Module, str, Batch]:
    kind = enn.FieldType(gspaces.rot2dOnR2(4), [gspaces.rot2dOnR2(4).regular_repr] * 2)
    layer = double(enn.R2Conv(kind, kind, 3)).train()
    return Images(layer), "C(4)", (torch.randn(2, 8, 7, 7),)


@pytest.mark.parametrize("make", [e3nn_net, vn_net, cnn_net, functional_net, steerable_net])
def test_the_function_stays_and_the_equivariant_part_moves(make: Make) -> None:
    model, batch = relaxed_net(make)
    expected = run(model, batch)
    folded = project(copy.deepcopy(model), mode="fold")
    refold(model)
    torch.testing.assert_close(run(model, batch), expected, rtol=1e-10, atol=1e-10)
    assert max(layer.equivariant for layer in summary(model).layers.values()) < 1e-7
    # what projecting leaves is what folding would have left
    torch.testing.assert_close(run(project(model), batch), run(folded, batch), rtol=1e-10, atol=1e-10)


def test_gradients_do_not_see_a_refolding() -> None:
    """So an optimizer's moments stay what they were."""
    gradients = []
    for refolded in (False, True):
        torch.manual_seed(0)
        model, batch = relaxed_net(vn_net)
        if refolded:
            refold(model)
        run(model, batch).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("theta", [0.0, -0.5])
def test_any_theta(theta: float) -> None:
    """Of which 0 leaves W alone: none of it is in the function."""
    model, batch = relaxed_net(e3nn_net)
    set_theta(model, theta)
    before, expected = [p.clone() for p in model.parameters()], run(model, batch)
    refold(model)
    torch.testing.assert_close(run(model, batch), expected, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) == (theta == 0)


def test_terms_that_cannot_give_up_a_part_are_left_as_they_are() -> None:
    model, _ = relaxed_net(vn_net, RelaxConfig(rank=2))
    before = [p.clone() for p in model.parameters()]
    refold(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_schedule_refolds_every_so_many_steps_while_theta_is_not_over() -> None:
    model, batch = relaxed_net(e3nn_net)
    theta = Triangle(model, 12, refold_every=2)
    parts = []
    for _ in range(8):
        train(model, batch, steps=1, theta=theta.theta)
        theta.step()
        parts.append(max(layer.equivariant for layer in summary(model).layers.values()))
    assert [part < 1e-7 for part in parts] == [False, True, False, True, False, False, False, False]


def test_what_cannot_be_refolded_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no relaxation terms to refold"):
        refold(nn.Linear(2, 2))
    model, _ = relaxed_net(vn_net)
    next(iter(terms_of(model).values())).weight.data[0, 0] = float("nan")
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"'conv\.map_to_feat' has NaN or infinite values; restore"):
        refold(model)
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(before, model.parameters(), strict=True))
    for value in (0, 2.5, float("nan")):
        with unchecked(), pytest.raises(ValueError, match=f"refold_every={value}: count the optimiser steps"):
            Triangle(model, 10, refold_every=value)
