"""escnn's layers: kernels merged into one convolution, penalties zero on equivariant kernels, and caches that are right."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from relaxify import RelaxConfig, penalties, penalty, plan, project, projected, relaxed, relaxify, set_theta, summary
from relaxify.checkpoint.conversion import convert
from relaxify.relaxation.convolving import ConvolutionTerm
from relaxify.relaxation.penalties import LayerPenalty
from relaxify.relaxation.term import terms_of
from relaxify.representations import lie_derivative

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    enn = pytest.importorskip("escnn.nn")
    from escnn import group, gspaces

SPACES = {
    "C(4)": lambda: gspaces.rot2dOnR2(4),
    "C(8)": lambda: gspaces.rot2dOnR2(8),
    "C(3)": lambda: gspaces.rot2dOnR2(3),
    "D(4)": lambda: gspaces.flipRot2dOnR2(4),
    "D(3)": lambda: gspaces.flipRot2dOnR2(3),
    "D(1)": gspaces.flip2dOnR2,
    "SO(2)": lambda: gspaces.rot2dOnR2(-1),
    "O(2)": lambda: gspaces.flipRot2dOnR2(-1),
}
SUBGROUPS = [("C(8)", "C(4)"), ("C(8)", "C(2)"), ("D(4)", "C(4)"), ("D(4)", "D(2)"), ("D(3)", "D(1)"), ("SO(2)", "C(6)"),
             ("O(2)", "SO(2)"), ("O(2)", "D(5)"), ("O(2)", "C(4)")]  # fmt: skip


def field(gspace: Any, kinds: list[str]) -> Any:
    """A field type: trivial, regular, quotient or the first irreps."""
    fibre, reps = gspace.fibergroup, []
    for kind in kinds:
        if kind == "regular" and fibre.order() > 1:
            reps.append(gspace.regular_repr)
        elif kind == "quotient" and type(fibre).__name__ == "DihedralGroup":
            reps.append(gspace.quotient_repr((None, fibre.rotation_order)))
        elif kind == "irrep":
            reps.append(fibre.irreps()[min(2, len(fibre.irreps()) - 1)])
        elif kind == "irrep_1" and len(fibre.irreps()) > 1:
            reps.append(fibre.irreps()[1])
        else:
            reps.append(gspace.trivial_repr)
    return enn.FieldType(gspace, reps)


KINDS = st.lists(st.sampled_from(["trivial", "regular", "quotient", "irrep", "irrep_1"]), min_size=1, max_size=3)


@st.composite
def layers(draw: st.DrawFn) -> tuple[str, Any]:
    """A group and a convolution in float64 with random weights, in training mode."""
    torch.manual_seed(draw(st.integers(0, 99)))
    name, subgroup = draw(st.sampled_from([*zip(SPACES, SPACES, strict=True), *SUBGROUPS]))
    gspace, groups = SPACES[name](), draw(st.sampled_from([1, 1, 2]))
    kinds_in, kinds_out = ["trivial", *draw(KINDS)], ["trivial", *draw(KINDS)]
    dilation, stride, padding = (draw(st.integers(low, high)) for low, high in ((1, 2), (1, 2), (0, 2)))
    # escnn has no kernels of two taps: its rings lie between them
    size = draw(st.sampled_from([1, 3, 4, 5]))
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": draw(st.booleans())}
    kind = draw(st.sampled_from([enn.R2Conv, enn.R2Conv, enn.R2ConvTransposed]))
    if kind is enn.R2Conv:
        arguments["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    else:
        arguments["padding"] = min(padding, dilation * (size - 1))
    types = (field(gspace, kinds_in * groups), field(gspace, kinds_out * groups))
    # an irrep other than the trivial one makes any layer of its group worth relaxing
    assume(any(not rep.is_trivial() for kind in types for rep in kind.representations))
    # kernels of one tap may be such that a subgroup leaves everything alone
    assume(size > 1 or subgroup == name)
    layer = double(kind(*types, size, **arguments))
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    # drops the caches that a layer is made with
    return subgroup, layer.train()


def double(layer: Any) -> Any:
    """In float64; a copy, for layers of one kind share the tensors of their basis."""
    return copy.deepcopy(layer).double()


def images(layer: Any, batch: int = 2, pixels: int = 11) -> Any:
    return layer.in_type(torch.randn(batch, layer.in_type.size, pixels, pixels, dtype=layer.weights.dtype))


def scores(layer: Any) -> LayerPenalty:
    with torch.no_grad():
        (score,) = penalties(layer).values()
    return score


def with_kernel(layer: Any, kernel: Tensor) -> ConvolutionTerm:
    """Set a relaxed layer's term to a kernel."""
    term = layer.relaxation
    with torch.no_grad():
        term.weight.copy_(term.convolution.as_matrix(kernel))
    return term


def plain_convolution(layer: Any, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """By torch's own layers, which know the padding modes."""
    if isinstance(layer, enn.R2ConvTransposed):
        return nn.functional.conv_transpose2d(
            x, kernel, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        )
    other = nn.Conv2d(layer.in_type.size, layer.out_type.size, layer.kernel_size, layer.stride, layer.padding,
                      layer.dilation, layer.groups, bias is not None, layer.padding_mode)  # fmt: skip
    values = {"weight": kernel} if bias is None else {"weight": kernel, "bias": bias}
    return torch.func.functional_call(other, values, (x,))


@settings(max_examples=25)
@given(layers())
def test_every_layer_is_proved_and_relaxing_it_changes_nothing(drawn: tuple[str, Any]) -> None:
    name, layer = drawn
    x = images(layer)
    y = layer(x).tensor
    (site,) = plan(layer, name).sites
    assert site.proof is not None
    assert site.proof < 1e-6
    assert site.map.interpolation < 1e-5
    relaxify(layer, name)
    set_theta(layer, 0.5)
    assert torch.equal(layer(x).tensor, y)


@given(layers())
def test_an_equivariant_kernel_has_no_penalty_and_a_random_one_has(drawn: tuple[str, Any]) -> None:
    name, layer = drawn
    relaxify(layer, name, config=RelaxConfig(rows=None))
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


@settings(max_examples=25)
@given(layers(), st.sampled_from([None, 2]))
def test_one_convolution_is_the_sum_of_two(drawn: tuple[str, Any], rank: int | None) -> None:
    name, layer = drawn
    x = images(layer)
    kernel, bias = (None if value is None else value.detach() for value in layer.expand_parameters())
    relaxify(layer, name, config=RelaxConfig(rank=rank, theta=0.3))
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


@settings(max_examples=15)
@given(layers())
def test_relaxed_and_projected_is_the_layer_itself(drawn: tuple[str, Any]) -> None:
    name, layer = drawn
    twin, x = copy.deepcopy(layer), images(layer)
    relaxify(layer, name)
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


def steerable(name: str = "C(8)", space: str | None = None) -> Any:
    """Two convolutions around a nonlinearity, with several field types."""
    gspace = SPACES[space or name]()
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


@pytest.mark.parametrize("name", ["C(8)", "D(4)", "SO(2)", "O(2)"])
def test_fold_keeps_what_the_layer_can_express_and_nothing_else(name: str) -> None:
    """A kernel of the layer's own basis is folded whole; what is orthogonal to the basis leaves the weights alone."""
    gspace = SPACES[name]()
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


@settings(max_examples=12)
@given(layers())
def test_fit_is_nearest_on_the_data(drawn: tuple[str, Any]) -> None:
    name, layer = drawn
    x = images(layer, batch=4)
    relaxify(layer, name, config=RelaxConfig(rows=None, theta=0.5))
    layer(x)
    with torch.no_grad():
        layer.relaxation.weight.normal_()
    y = layer(x).tensor.detach()
    drop, fold, fit = (float((project(layer, mode=mode)(x).tensor.detach() - y).norm()) for mode in ("drop", "fold", "fit"))
    assert fit <= fold * (1 + 1e-9)
    assert fit <= drop * (1 + 1e-9)
    assert layer.relaxation.folded_residual() <= 1 + 1e-9
    # at the nearest no change of the weights brings it nearer, to first order
    slopes = []
    for mode in ("drop", "fit"):
        clean = project(layer, mode=mode)
        (slope,) = torch.autograd.grad((clean(x).tensor - y).square().sum(), [clean.weights])
        slopes.append(float(slope.norm()))
    assert slopes[1] <= 1e-4 * slopes[0] + 1e-9


@pytest.mark.parametrize(
    ("space", "name", "words"),
    [
        ("C(8)", "SO(2)", r"it is equivariant under C\(8\), which does not contain SO\(2\)"),
        ("C(8)", "C(3)", r"it is equivariant under C\(8\), which does not contain C\(3\)"),
        ("C(4)", "D(4)", r"it is equivariant under C\(4\), which does not contain D\(4\)"),
        ("D(1)", "C(2)", r"it is equivariant under D\(1\), which does not contain C\(2\)"),
        ("D(4)", "SO(3)", r"its features transform under D\(4\), on which SO\(3\) does not act"),
        ("SO(2)", "O(2)", r"it is equivariant under SO\(2\), which does not contain O\(2\)"),
    ],
)
def test_a_group_that_the_layers_do_not_have(space: str, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        relaxify(steerable(space=space), name)


def test_without_a_group_there_is_nothing_to_relax() -> None:
    kind = enn.FieldType(gspaces.trivialOnR2(), [gspaces.trivialOnR2().trivial_repr])
    with pytest.raises(ValueError, match=r"equivariant under translations alone, and C\(4\) is more"):
        relaxify(enn.R2Conv(kind, kind, 3), "C(4)")


def test_others_are_named() -> None:
    class Mine(enn.R2Conv):
        pass

    kind = field(SPACES["C(4)"](), ["regular"])
    (rejected,) = plan(Mine(kind, kind, 3), "C(4)").rejected
    assert rejected.reason == "Mine is a subclass, which may compute something else"
    net = nn.Sequential(enn.R2Conv(kind, kind, 3), enn.R2Conv(kind, kind, 3))
    net[1].weights = net[0].weights
    with pytest.raises(ValueError, match="'0' shares its weights with '1': give each its own, or exclude them"):
        relaxify(net, "C(4)")


@pytest.mark.parametrize("name", ["C(8)", "D(4)", "D(3)", "C(2)", "SO(2)", "O(2)", "C(3)"])
def test_linear_layers(name: str) -> None:
    """On features without a plane."""
    fibres = {"C(8)": group.cyclic_group(8), "C(2)": group.cyclic_group(2), "C(3)": group.cyclic_group(3),
              "D(4)": group.dihedral_group(4), "D(3)": group.dihedral_group(3), "SO(2)": group.so2_group(),
              "O(2)": group.o2_group()}  # fmt: skip
    gspace = gspaces.no_base_space(fibres[name])
    kind = field(gspace, ["trivial", "regular", "irrep_1", "irrep_1"])
    layer = double(enn.Linear(kind, kind))
    x = kind(torch.randn(30, kind.size, dtype=torch.float64))
    y = layer(x).tensor
    relaxify(layer, name, config=RelaxConfig(rows=None, theta=0.5))
    assert torch.equal(layer(x).tensor, y)
    term = with_kernel(layer, layer.expand_parameters()[0].detach())
    assert lie_derivative(term.matrix, term.map.rep_in, term.map.rep_out).abs().max() < 1e-6
    torch.testing.assert_close(project(layer, mode="fold")(x).tensor, layer(x).tensor)
    layer.eval()
    assert torch.equal(layer(x).tensor, y)
    assert torch.equal(project(layer)(x).tensor, y)


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
