"""A steerable CNN on rotated digits: relaxed, trained, projected, and as invariant as it would be without."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from relaxify import RelaxConfig, Triangle, penalty, project, relaxify, summary

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("escnn.nn")
    from relaxify_examples.models.steerable_cnn import SteerableCNN, rotated_digits

STEPS = 6


def train(model: nn.Module, images: Tensor, labels: Tensor, *, relax: bool) -> nn.Module:
    theta = Triangle(model, total_steps=STEPS) if relax else None
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(STEPS):
        batch = slice(32 * step, 32 * (step + 1))
        loss = cross_entropy(model(images[batch]), labels[batch])
        if theta is not None:
            loss = loss + penalty(model)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if theta is not None:
            theta.step()
    return model.eval()


@torch.no_grad()
def invariance_error(model: nn.Module, images: Tensor, *, flips: bool) -> float:
    """How far the logits move when the images do, in the size of the logits' spread."""
    y = model(images)
    moved = [images.rot90(k, (-2, -1)) for k in (1, 2, 3)] + ([images.flip(-1), images.flip(-2)] if flips else [])
    return max(float((model(other) - y).norm() / (y - y.mean(0)).norm()) for other in moved)


@pytest.mark.parametrize(("group", "rotations", "flips"), [("C(8)", 8, False), ("D(4)", 4, True)])
def test_as_invariant_after_projection_as_without_relaxation(group: str, rotations: int, flips: bool) -> None:
    """Under what moves pixels exactly; the turns between are interpolated by nobody's model."""
    images, labels = rotated_digits(32 * STEPS)
    model = SteerableCNN(rotations=rotations, flips=flips, width=2)
    plain, relaxed = copy.deepcopy(model), relaxify(model, group, config=RelaxConfig(weight=0.01))
    train(plain, images, labels, relax=False)
    train(relaxed, images, labels, relax=True)
    assert len(summary(relaxed).layers) == 4
    assert all(layer.norm > 0 for layer in summary(relaxed).layers.values())
    clean = project(relaxed)
    assert type(clean) is SteerableCNN
    assert list(clean.state_dict()) == list(plain.state_dict())
    errors = [invariance_error(net, images[:32], flips=flips) for net in (plain, clean)]
    assert errors[0] < 1e-4
    assert errors[1] < 1e-4
    assert torch.equal(clean(images), relaxed(images))


def test_the_relaxation_breaks_the_invariance_while_it_acts() -> None:
    images, labels = rotated_digits(32 * STEPS)
    model = relaxify(SteerableCNN(width=2), "C(8)", keep_relaxed=True, config=RelaxConfig(theta=0.3))
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(2):
        (cross_entropy(model(images[:64]), labels[:64]) + penalty(model)).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert invariance_error(model.eval(), images[:32], flips=False) > 1e-2
