"""A term's numbers are those of its definition: what a projection takes away is what is gone afterwards."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3
from torch import Tensor, nn

from relaxify import Report, inspect, project, relaxed, relaxify, set_theta
from relaxify.relaxation.terms.term import terms_of

IRREPS = "4x0e+3x1o"


def rotate(g: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    irreps, rotation = o3.Irreps(IRREPS), g.double().cpu()
    parity = torch.linalg.det(rotation).sign()
    blocks = [ir.D_from_matrix(rotation * parity) * (1 if parity > 0 else ir.p) for mul, ir in irreps for _ in range(mul)]
    return (inputs[0] @ torch.block_diag(*blocks).mT.to(inputs[0]),)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    net = relaxify(nn.Sequential(o3.Linear(IRREPS, "2x0e+2x1o")), "O(3)")
    set_theta(net, 0.5)
    nn.init.normal_(net[0].relaxation.weight, std=0.3)
    return net


X = torch.randn(40, 13, generator=torch.Generator().manual_seed(1))


def report_of(model: nn.Module) -> Report:
    return inspect(model, "O(3)", X, input_action=rotate)


def test_drop_and_fold_take_away_what_they_are_said_to(model: nn.Module) -> None:
    (layer,) = report_of(model).layers
    with relaxed(model), torch.no_grad():
        y = model(X)
        gone = {mode: float((y - project(model, mode=mode)(X)).norm() / y.norm()) for mode in ("drop", "fold")}
    assert layer.share == layer.drop == pytest.approx(gone["drop"], rel=1e-4)
    assert layer.fold == pytest.approx(gone["fold"], rel=1e-4)
    assert layer.fold < layer.drop


def test_the_weight_space_error_is_the_distance_to_the_intertwiners(model: nn.Module) -> None:
    term = terms_of(model)["0"]
    (layer,) = report_of(model).layers
    weight = (term.theta * term.weight).double().detach()
    assert layer.weight_error == pytest.approx(float((weight - term.folded()).norm() / weight.norm()), rel=1e-6)


def test_the_error_is_zero_without_a_term_and_grows_with_theta(model: nn.Module) -> None:
    errors = []
    for theta in (0.1, 0.2, 0.4):
        set_theta(model, theta)
        report = report_of(model)
        errors.append(report.layers[0].error.mean)
        # the matrices of the action are accurate to single precision
        assert report.error.largest < 1e-6
        assert report.relaxed_error is not None
        assert report.relaxed_error.mean > 1e-3
    assert errors == sorted(errors)
    (clean,) = report_of(project(model)).layers
    assert clean.error.mean < 1e-7
    assert clean.share is None


def test_lie_derivatives_vanish_for_an_intertwiner(model: nn.Module) -> None:
    term = terms_of(model)["0"]
    with torch.no_grad():
        term.weight.copy_(term.folded() / term.theta)
    (layer,) = report_of(model).layers
    assert layer.lie is not None
    assert max(layer.lie) < 1e-6
    assert layer.share > 0.01
    assert layer.fold < 1e-6
