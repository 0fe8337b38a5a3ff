"""A whole steerable CNN, run on turned images: its layers are found, and inspected, by type and by evidence alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from relaxify import RelaxConfig, inspect, penalty, plan, relaxify, set_theta

pytest.importorskip("escnn")

from relaxify_examples.models.steerable_cnn import SteerableCNN


def steerable(*, flips: bool) -> nn.Module:
    torch.manual_seed(0)
    return SteerableCNN(rotations=4, flips=flips, width=2).eval()


def images() -> Tensor:
    return torch.randn(4, 1, 17, 17, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("group", "flips"), [("C(4)", False), ("D(4)", True)])
def test_a_plan_with_example_inputs_finds_every_convolution(group: str, flips: bool) -> None:
    """Though escnn's pooling names float32 in a model that runs in float64."""
    found = plan(steerable(flips=flips), group, example_inputs=images())
    assert [site.map.op for site in found.sites] == ["escnn.R2Conv"] * 4
    assert not found.unsound


def test_a_relaxed_steerable_cnn_is_sound_and_its_terms_are_not() -> None:
    model = relaxify(steerable(flips=False), "C(4)", config=RelaxConfig(theta=0.3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".relaxation." in name:
                parameter.normal_(std=0.1)
    model.train()(images())
    penalty(model)
    report = inspect(model.eval(), "C(4)", images())
    assert report.is_sound
    assert report.error.largest < 1e-6
    assert report.relaxed_error is not None
    assert report.relaxed_error.mean > 1e-3
    assert len(report.layers) == 4
    assert all(layer.error.mean > 1e-3 and layer.fold < layer.drop for layer in report.layers)


def test_a_plain_layer_amid_steerable_ones_is_named() -> None:
    model = steerable(flips=False)
    body = model.body

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.mix = body, nn.Conv2d(body.out_type.size, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(self.body(model.input_type(x)).tensor).mean((2, 3))

    report = inspect(Mixed().eval(), "C(4)", torch.cat([images()] * 2))
    assert report.fault is not None
    assert report.fault.module == "mix"


def test_terms_are_those_of_eval_and_train_alike() -> None:
    model, x = steerable(flips=False), images()
    y = model(x)
    relaxify(model, "C(4)")
    set_theta(model, 0.5)
    assert torch.equal(model(x), y)
