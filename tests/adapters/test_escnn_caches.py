"""escnn keeps kernels in eval mode: of a relaxed layer the equivariant ones, never stale, in checkpoints of either mode."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from escnn_layers import enn, field, group, gspaces, space
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from relaxify import RelaxConfig, penalty, plan, project, projected, relaxed, relaxify, set_theta, summary
from relaxify.checkpoint.conversion import convert
from relaxify.relaxation.terms.convolution import ConvolutionTerm
from relaxify.relaxation.terms.term import terms_of


def steerable(name: str = "C(8)", other: str | None = None) -> Any:
    """Two convolutions around a nonlinearity, with several field types."""
    gspace = space(other or name)
    one, two = field(gspace, ["trivial"]), field(gspace, ["regular"] * 2 + ["trivial"])
    net = enn.SequentialModule(
        enn.R2Conv(one, two, 5, padding=2), enn.ReLU(two), enn.R2Conv(two, two, 3, padding=1), enn.GroupPooling(two)
    )
    for layer in (net[0], net[2]):
        nn.init.normal_(layer.bias)
    return net


def trained(net: Any, x: Any, steps: int = 2) -> Any:
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    net.train()
    for _ in range(steps):
        (net(x).tensor.square().mean() + penalty(net)).backward()
        optimiser.step()
        optimiser.zero_grad()
    return net


def kernels(net: Any) -> list[Tensor]:
    return [layer.filter for layer in (net[0], net[2])]


def expanded(net: Any) -> list[Tensor]:
    return [layer.expand_parameters()[0] for layer in (net[0], net[2])]


@pytest.mark.parametrize("name", ["C(8)", "D(4)"])
def test_caches_hold_the_equivariant_kernels_alone(name: str) -> None:
    net = steerable(name)
    x = net[0].in_type(torch.randn(3, 1, 12, 12))
    trained(relaxify(net, name, config=RelaxConfig(theta=0.5)), x)
    clean = project(net).eval()
    net.eval()
    assert all(map(torch.equal, kernels(net), expanded(net)))
    assert torch.equal(net(x).tensor, clean(x).tensor)
    with relaxed(net):
        assert not torch.allclose(net(x).tensor, clean(x).tensor)
        # made while the terms act
        net.train().eval()
        assert all(map(torch.equal, kernels(net), expanded(net)))
    assert torch.equal(net(x).tensor, clean(x).tensor)
    net.train()
    with projected(net):
        assert torch.equal(net(x).tensor, clean.train()(x).tensor)


def test_caches_are_never_stale() -> None:
    """Weights that change in eval mode, by hand, by an optimiser or from a file."""
    net, other = steerable(), steerable()
    x = net[0].in_type(torch.randn(3, 1, 12, 12))
    relaxify(net, "C(8)").eval()
    with torch.no_grad():
        net[0].weights.mul_(2)
        net[2].bias.add_(1)
    y = net(x).tensor
    assert torch.equal(y, project(net).train()(x).tensor)
    other.train()
    net.load_state_dict(other.state_dict())
    assert torch.equal(net(x).tensor, other(x).tensor)
    set_theta(net, 0.5)
    with torch.no_grad():
        net[0].weights.mul_(3)
        net[0].relaxation.weight.normal_()
    for mode in ("drop", "fold"):
        clean = project(net, mode=mode)
        assert all(map(torch.equal, kernels(clean), expanded(clean)))
        assert torch.equal(clean[0].weights, net[0].weights) == (mode == "drop")


def test_keep_relaxed_acts_in_eval_mode_and_not_in_the_cache() -> None:
    net = steerable()
    x = net[0].in_type(torch.randn(3, 1, 12, 12))
    trained(relaxify(net, "C(8)", config=RelaxConfig(theta=0.5), keep_relaxed=True), x)
    y = net(x).tensor
    net.eval()
    torch.testing.assert_close(net(x).tensor, y)
    assert all(map(torch.equal, kernels(net), expanded(net)))
    assert not torch.allclose(project(net)(x).tensor, y)


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("loaded", [True, False])
def test_checkpoints_of_both_modes_load_in_both(saved: bool, loaded: bool) -> None:
    """Of relaxed models and of plain ones, strictly."""
    x = steerable()[0].in_type(torch.randn(3, 1, 12, 12))
    source = trained(relaxify(steerable(), "C(8)", config=RelaxConfig(theta=0.5)), x).train(saved)
    target = relaxify(steerable(), "C(8)").train(loaded)
    target.load_state_dict(source.state_dict())
    for mode in (True, False):
        assert torch.equal(target.train(mode)(x).tensor, source.train(mode)(x).tensor)
    plain = steerable().train(saved)
    target.train(loaded).load_state_dict(plain.state_dict())
    for mode in (True, False):
        assert torch.equal(target.train(mode)(x).tensor, plain.train(mode)(x).tensor)


def test_a_key_that_is_missing_otherwise_is_reported() -> None:
    net = relaxify(steerable(), "C(8)").eval()
    state = net.state_dict()
    del state["0.weights"], state["0.filter"]
    with pytest.raises(RuntimeError, match=r"0\.weights") as caught:
        net.load_state_dict(state)
    assert "0.filter" not in str(caught.value)


@pytest.mark.parametrize("training", [True, False])
def test_convert(training: bool, tmp_path: Path) -> None:
    """A checkpoint of either mode becomes one of the plain model in the same mode."""
    net = steerable()
    x = net[0].in_type(torch.randn(3, 1, 12, 12))
    trained(relaxify(net, "C(8)", config=RelaxConfig(theta=0.5)), x).train(training)
    save_file({key: value.clone().contiguous() for key, value in net.state_dict().items()}, tmp_path / "in.safetensors")
    for mode in ("drop", "fold"):
        report = convert(tmp_path / "in.safetensors", tmp_path / f"{mode}.safetensors", mode=mode)
        plain = steerable().train(training)
        plain.load_state_dict(load_file(tmp_path / f"{mode}.safetensors"))
        assert torch.equal(plain(x).tensor, project(net)(x).tensor)
    assert all("fold the model itself" in str(term.note) for term in report.states[0].terms)


def test_a_copy_has_its_own_term_and_an_eval_mode_cache_does_not_hinder_it() -> None:
    net = relaxify(steerable(), "C(8)", config=RelaxConfig(theta=0.5))
    x = net[0].in_type(torch.randn(3, 1, 12, 12))
    net.eval()
    twin = copy.deepcopy(net).train()
    assert twin[0].forward.__self__ is twin[0].relaxation
    assert twin[0].relaxation.layer is twin[0]
    with torch.no_grad():
        twin[0].relaxation.weight.normal_()
    y = net.train()(x).tensor
    assert not torch.allclose(twin(x).tensor, y)
    torch.testing.assert_close(y, project(net)(x).tensor)


def test_a_plan_does_not_stumble_over_a_model_in_eval_mode() -> None:
    """escnn's eval mode keeps kernels with their gradients' graph, which cannot be copied."""
    net = steerable().eval()
    assert len(plan(net, "C(8)").sites) == 2
    assert isinstance(relaxify(net, "C(8)")[0].relaxation, ConvolutionTerm)
    assert len(terms_of(project(net))) == 0


@pytest.mark.parametrize("name", ["C(4)", "D(4)"])
def test_the_summary_tells_what_the_relaxation_is(name: str) -> None:
    net = steerable(name)
    x = net[0].in_type(torch.randn(3, 1, 12, 12))
    trained(relaxify(net, name, config=RelaxConfig(theta=0.5)), x, steps=3)
    for layer in summary(net).layers.values():
        assert layer.share is not None
        assert 0 < layer.share < math.inf
        assert layer.interpolation == 0
        assert layer.equivariant is not None
        assert 0 < layer.equivariant <= 1


def test_interpolation_errors_are_shown() -> None:
    net = steerable("C(8)")
    error = plan(net, "C(8)").sites[0].map.interpolation
    assert 0 < error < 1e-5
    assert f"interpolation error {error:.1e}" in str(plan(net, "C(8)"))
    assert f"interpolation error {error:.1e}" in str(summary(relaxify(net, "C(8)")))


def test_features_at_points_stay_there() -> None:
    """A linear layer reads features at points, and its term hands on where they are."""
    gspace = gspaces.no_base_space(group.cyclic_group(4))
    regular = enn.FieldType(gspace, [gspace.regular_repr])
    points = enn.GeometricTensor(torch.randn(7, 4), regular, torch.zeros(7, 0))
    layer = relaxify(enn.Linear(regular, regular), "C(4)").train()
    assert layer(points).coords is points.coords
