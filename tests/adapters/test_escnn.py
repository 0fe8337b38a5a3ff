"""The laws of escnn's relaxed layers: one convolution for both kernels, no penalty on steerable ones, exact projection."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from escnn_layers import (
    double,
    enn,
    field,
    group,
    group_of,
    gspaces,
    images,
    layers,
    plain_convolution,
    scores,
    space,
    with_kernel,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from relaxify import RelaxConfig, plan, project, relaxify, set_theta, summary
from relaxify.groups import Group
from relaxify.intertwiners import lie_derivative


@settings(max_examples=12)
@given(layers())
def test_every_layer_is_proved_and_relaxing_it_changes_nothing(drawn: tuple[Group, Any]) -> None:
    own_group, layer = drawn
    x = images(layer)
    y = layer(x).tensor
    (site,) = plan(layer, own_group).sites
    assert site.proof is not None
    assert site.proof < 1e-6
    assert site.map.interpolation < 1e-5
    relaxify(layer, own_group)
    set_theta(layer, 0.5)
    assert torch.equal(layer(x).tensor, y)


@settings(max_examples=20)
@given(layers())
def test_an_equivariant_kernel_has_no_penalty_and_a_random_one_has(drawn: tuple[Group, Any]) -> None:
    own_group, layer = drawn
    relaxify(layer, own_group, config=RelaxConfig(rows=None))
    term = with_kernel(layer, layer.expand_parameters()[0].detach())
    layer(images(layer))
    score = scores(layer)
    # escnn samples its kernels in float32, in which the flanks of dilated ones are coarse
    bound = max(1e-6 if layer.dilation == 1 else 1e-5, 2 * term.map.interpolation)
    # what the inputs make of a kernel's error is at most the root of their moment's largest eigenvalue
    largest = float(torch.linalg.eigvalsh(term.sketch.moment)[-1]) ** 0.5
    assert float(score.lie.max()) <= bound * largest * float(term.matrix.detach().norm())
    with torch.no_grad():
        term.weight.normal_()
    score = scores(layer)
    is_moved = any(block.dimension > 1 for block in term.map.rep_in.blocks)
    assert float(score.lie.max() / score.norm) > 0.03 or not is_moved


@settings(max_examples=15)
@given(layers(), st.sampled_from([None, 2]))
def test_one_convolution_is_the_sum_of_two(drawn: tuple[Group, Any], rank: int | None) -> None:
    own_group, layer = drawn
    x = images(layer)
    kernel, bias = (None if value is None else value.detach() for value in layer.expand_parameters())
    relaxify(layer, own_group, config=RelaxConfig(rank=rank, theta=0.3))
    term = layer.relaxation
    with torch.no_grad():
        (term.up if rank else term.weight).normal_()
    added = term.convolution.as_kernel(term.up @ term.down if rank else term.weight).detach()
    y = plain_convolution(layer, x.tensor, kernel, bias) + 0.3 * plain_convolution(layer, x.tensor, added, None)
    torch.testing.assert_close(layer(x).tensor, y, rtol=1e-10, atol=1e-10)
    for index in (0, 1):
        assert layer(x).shape[index] == y.shape[index]
    # on patches, as the penalty and the summary see it
    rows = term.convolution.patches(x.tensor).all() @ term.matrix.mT
    torch.testing.assert_close(
        rows, plain_convolution(layer, x.tensor, added, None).movedim(1, -1).flatten(0, -2), rtol=1e-10, atol=1e-10
    )


@settings(max_examples=10)
@given(layers())
def test_relaxed_and_projected_is_the_layer_itself(drawn: tuple[Group, Any]) -> None:
    own_group, layer = drawn
    twin, x = copy.deepcopy(layer), images(layer)
    relaxify(layer, own_group)
    set_theta(layer, 0.4)
    layer(x).tensor.square().mean().backward()
    with torch.no_grad():
        layer.relaxation.weight.normal_()
    for mode in (True, False):
        for inplace in (False, True):
            relaxed_layer = copy.deepcopy(layer).train(mode)
            clean = project(relaxed_layer, inplace=inplace)
            assert list(clean.state_dict()) == list(twin.train(mode).state_dict())
            assert torch.equal(clean(x).tensor, twin(x).tensor)
            assert "forward" not in vars(clean)


@pytest.mark.parametrize("name", ["C(8)", "D(4)", "SO(2)", "O(2)"])
def test_fold_keeps_what_the_layer_can_express_and_nothing_else(name: str) -> None:
    """A kernel of the layer's own basis is folded whole; what is orthogonal to the basis leaves the weights alone."""
    gspace = space(name)
    kind = field(gspace, ["trivial", "regular", "irrep_1"])
    layer = double(enn.R2Conv(kind, kind, 3, padding=1))
    before = layer.weights.detach().clone()
    other = torch.randn_like(before)
    relaxify(layer, name, config=RelaxConfig(theta=0.5))
    basis = layer.basisexpansion
    own = torch.autograd.functional.jacobian(basis, before).flatten(0, -2)
    random = torch.randn(len(own), dtype=torch.float64)
    orthogonal = random - own @ torch.linalg.lstsq(own, random).solution
    with_kernel(layer, (own @ other + orthogonal).view_as(layer.expand_parameters()[0]))
    folded = project(layer, mode="fold")
    torch.testing.assert_close(folded.weights.detach(), before + 0.5 * other, rtol=1e-8, atol=1e-8)
    (line,) = summary(layer).layers.values()
    part = (own @ other).norm() / (own @ other + orthogonal).norm()
    assert line.equivariant == pytest.approx(float(part), rel=1e-8)
    assert line.foldable is None


@settings(max_examples=8)
@given(layers())
def test_fit_is_nearest_on_the_data(drawn: tuple[Group, Any]) -> None:
    own_group, layer = drawn
    x = images(layer, batch=4)
    relaxify(layer, own_group, config=RelaxConfig(rows=None, theta=0.5))
    layer(x)
    with torch.no_grad():
        layer.relaxation.weight.normal_()
    y = layer(x).tensor.detach()
    drop, fold, fit = (float((project(layer, mode=mode)(x).tensor.detach() - y).norm()) for mode in ("drop", "fold", "fit"))
    assert fit <= fold * (1 + 1e-9)
    assert fit <= drop * (1 + 1e-9)
    term = layer.relaxation
    assert (term.relaxation - term.folded()).norm() <= term.relaxation.norm() * (1 + 1e-9)
    # at the nearest no change of the weights brings it nearer, to first order
    slopes = []
    for mode in ("drop", "fit"):
        clean = project(layer, mode=mode)
        (slope,) = torch.autograd.grad((clean(x).tensor - y).square().sum(), [clean.weights])
        slopes.append(float(slope.norm()))
    assert slopes[1] <= 1e-8 * slopes[0] + 1e-9


FIBRES = {"C(8)": group.cyclic_group(8), "C(2)": group.cyclic_group(2), "C(3)": group.cyclic_group(3),
          "D(4)": group.dihedral_group(4), "D(3)": group.dihedral_group(3), "SO(2)": group.so2_group(),
          "O(2)": group.o2_group(), "SO(3)": group.so3_group(), "O(3)": group.o3_group(), "cube": group.octa_group(),
          "full cube": group.full_octa_group()}  # fmt: skip


@pytest.mark.parametrize("name", FIBRES)
def test_linear_layers(name: str) -> None:
    """On features without a plane or a space."""
    gspace = gspaces.no_base_space(FIBRES[name])
    kind = field(gspace, ["trivial", "regular", "irrep_1", "irrep_1"])
    layer = double(enn.Linear(kind, kind))
    x = kind(torch.randn(30, kind.size, dtype=torch.float64))
    y = layer(x).tensor
    relaxify(layer, group_of(name) if "cube" in name else name, config=RelaxConfig(rows=None, theta=0.5))
    assert torch.equal(layer(x).tensor, y)
    term = with_kernel(layer, layer.expand_parameters()[0].detach())
    assert lie_derivative(term.matrix, term.map.rep_in, term.map.rep_out).abs().max() < 1e-6
    torch.testing.assert_close(project(layer, mode="fold")(x).tensor, layer(x).tensor)
    layer.eval()
    assert torch.equal(layer(x).tensor, y)
    assert torch.equal(project(layer)(x).tensor, y)
