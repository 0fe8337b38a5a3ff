"""Ordinary convolutions: their equivariant part is their own symmetrised kernel, and the rest is the term's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import cnn_net, train
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from relaxify import Group, RelaxConfig, inspect, penalties, penalty, plan, project, projected, relaxed, relaxify, set_theta
from relaxify.checkpoint.conversion import convert
from relaxify.grids.taps import grid_action
from relaxify.relaxation.penalties import LayerPenalty
from relaxify.relaxation.terms.convolution import ConvolutionTerm

KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
EXACT = {1: ["O(1)"], 2: ["C(4)", "D(4)", "D(1)", "C(2)"], 3: ["Octa", "FullOcta"]}
BETWEEN_TAPS = {1: ["O(1)"], 2: ["C(8)", "D(3)", "SO(2)", "O(2)", "Scale(2)", "Scale(1.5)"], 3: ["SO(3)", "O(3)"]}


@st.composite
def convolutions(draw: st.DrawFn, names: dict[int, list[str]] = EXACT) -> tuple[str, Any]:
    """A group and a convolution in float64 with random weights."""
    torch.manual_seed(draw(st.integers(0, 99)))
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    groups, size = draw(st.sampled_from([1, 1, 2])), draw(st.integers(2, 3 if dims == 3 else 5))
    arguments: dict[str, Any] = {"stride": draw(st.integers(1, 2)), "dilation": draw(st.integers(1, 2))}
    arguments |= {"groups": groups, "bias": draw(st.booleans())}
    if draw(st.booleans()):
        kind, arguments["padding"] = TRANSPOSED[dims], draw(st.integers(0, 1))
    else:
        is_even = arguments["stride"] == 1 and arguments["dilation"] * (size - 1) % 2 == 0
        kind, arguments["padding"] = KINDS[dims], draw(st.sampled_from([0, 1, 2, "valid", *(["same"] if is_even else [])]))
        arguments["padding_mode"] = draw(st.sampled_from(["zeros", "circular", "replicate"]))
    layer = kind(2 * groups, 2 * groups, size, **arguments).double()
    return draw(st.sampled_from(names[dims])), layer


def images(layer: Any, batch: int = 2) -> Tensor:
    dims = layer.weight.ndim - 2
    return torch.randn(batch, layer.in_channels, *(11,) * dims, dtype=layer.weight.dtype)


def symmetric(layer: Any, name: str) -> Tensor:
    """The kernel averaged over the group, by brute force."""
    group, generator = Group.parse(name), torch.Generator().manual_seed(0)
    elements = {}
    for _ in range(400):
        matrix = torch.eye(group.dim, dtype=torch.float64)
        for letter in group.random(generator).word:
            matrix = matrix @ group.finite[letter]
        elements[tuple((matrix.round() + 0.0).flatten().tolist())] = matrix
    flat = layer.weight.detach().flatten(2)
    moved = [flat @ grid_action(g, layer.kernel_size) for g in elements.values()]
    return torch.stack(moved).mean(0).view_as(layer.weight)


def with_kernel(layer: Any, kernel: Tensor) -> ConvolutionTerm:
    term = layer.relaxation
    with torch.no_grad():
        term.weight.copy_(term.convolution.as_matrix(kernel))
    return term


def scores(layer: Any) -> LayerPenalty:
    with torch.no_grad():
        (score,) = penalties(layer).values()
    return score


def on(layer: Any, kernel: Tensor, x: Tensor) -> Tensor:
    """What the layer computes with another kernel, by torch itself."""
    return torch.func.functional_call(type(layer)(*arguments_of(layer)).double(), {"weight": kernel}, (x,))


def arguments_of(layer: Any) -> tuple[Any, ...]:
    own = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
    if layer.transposed:
        return (*own, layer.output_padding, layer.groups, False, layer.dilation)
    return (*own, layer.dilation, layer.groups, False, layer.padding_mode)


@given(convolutions())
def test_the_equivariant_part_is_the_average_over_the_group(drawn: tuple[str, Any]) -> None:
    name, layer = drawn
    average, x = symmetric(layer, name), images(layer)
    bias = 0 if layer.bias is None else layer.bias.view(-1, *(1,) * (x.ndim - 2))
    relaxify(layer, name)
    torch.testing.assert_close(layer(x), on(layer, average, x) + bias)
    torch.testing.assert_close(project(layer).weight, average)


@given(convolutions())
def test_every_exact_claim_is_proved(drawn: tuple[str, Any]) -> None:
    name, layer = drawn
    (site,) = plan(layer, name).sites
    assert site.evidence == "symmetrised"
    assert site.proof is not None
    assert site.proof < 1e-12
    assert site.map.interpolation == 0


@given(convolutions())
def test_at_theta_one_nothing_has_changed(drawn: tuple[str, Any]) -> None:
    name, layer = drawn
    x = images(layer)
    y = layer(x)
    relaxify(layer, name)
    set_theta(layer, 1.0)
    torch.testing.assert_close(layer(x), y)


@given(convolutions(), st.floats(-2, 2))
def test_layer_and_term_are_one_convolution(drawn: tuple[str, Any], theta: float) -> None:
    name, layer = drawn
    x, kernel, average = images(layer), torch.randn_like(layer.weight), symmetric(layer, name)
    bias = 0 if layer.bias is None else layer.bias.view(-1, *(1,) * (x.ndim - 2))
    relaxify(layer, name)
    with_kernel(layer, kernel)
    set_theta(layer, theta)
    torch.testing.assert_close(layer(x), on(layer, average, x) + theta * on(layer, kernel, x) + bias)


@given(convolutions({d: [*EXACT[d], *BETWEEN_TAPS[d]] for d in EXACT}))
def test_a_symmetric_kernel_has_no_penalty_and_a_random_one_has(drawn: tuple[str, Any]) -> None:
    name, layer = drawn
    relaxify(layer, name, config=RelaxConfig(rows=None))
    term, x = layer.relaxation, images(layer)
    with_kernel(layer, term.convolution.kernel.expand(layer)[0].detach())
    layer(x)
    none = scores(layer)
    assume(none.norm > 1e-3)
    assert none.lie.max() < max(1e-9, 2 * term.map.interpolation) * none.norm
    with_kernel(layer, torch.randn_like(layer.weight))
    some = scores(layer)
    assert some.lie.sum() > 0.05 * some.norm


@given(convolutions({d: [*EXACT[d], *BETWEEN_TAPS[d]] for d in EXACT}))
def test_projecting_is_exact_in_training_and_in_evaluation(drawn: tuple[str, Any]) -> None:
    name, layer = drawn
    x, keys = images(layer), set(layer.state_dict())
    relaxify(layer, name)
    set_theta(layer, 0.7)
    clean = project(layer)
    assert type(clean) is type(layer)
    assert set(clean.state_dict()) == keys
    with projected(layer):
        assert torch.equal(layer(x), clean(x))
    layer.eval()
    assert torch.equal(layer(x), clean(x))
    assert torch.equal(project(layer)(x), clean(x))
    with relaxed(layer):
        assert not torch.equal(layer(x), clean(x))


@settings(max_examples=15)
@given(convolutions())
def test_fold_keeps_what_of_the_term_is_symmetric(drawn: tuple[str, Any]) -> None:
    name, layer = drawn
    relaxify(layer, name)
    kernel = torch.randn_like(layer.weight)
    with_kernel(layer, kernel)
    set_theta(layer, 0.5)
    base, folded = project(layer), project(layer, mode="fold")
    layer_of_term = type(layer)(*arguments_of(layer)).double()
    with torch.no_grad():
        layer_of_term.weight.copy_(kernel)
    torch.testing.assert_close(folded.weight - base.weight, 0.5 * symmetric(layer_of_term, name))


def classifier() -> nn.Sequential:
    """An ordinary CNN, whose strides divide images of 13 pixels evenly."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def trained(name: str) -> nn.Sequential:
    model = relaxify(classifier(), name)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(4):
        set_theta(model, 1 - step / 4)
        x, target = torch.randn(8, 1, 13, 13), torch.randint(3, (8,))
        loss = nn.functional.cross_entropy(model(x), target) + penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", ["C(4)", "D(4)"])
def test_a_trained_cnn_is_invariant_and_its_checkpoint_too(name: str, tmp_path: Path) -> None:
    model = trained(name)
    x = torch.randn(4, 1, 13, 13)
    assert (model(x) - model(x.rot90(1, (2, 3)))).abs().max() > 1e-4
    clean = project(model).eval()
    for moved in [x.rot90(1, (2, 3)), *([x.flip(2)] if name == "D(4)" else [])]:
        torch.testing.assert_close(clean(moved), clean(x), atol=2e-6, rtol=0)
    save_file(model.state_dict(), tmp_path / "relaxed.safetensors")
    convert(tmp_path / "relaxed.safetensors", tmp_path / "clean.safetensors")
    loaded = classifier()
    loaded.load_state_dict(load_file(tmp_path / "clean.safetensors"), strict=True)
    assert torch.equal(loaded.eval()(x), clean(x))
    assert torch.equal(model.eval()(x), clean(x))


def test_groups_and_transposed_kernels_are_converted(tmp_path: Path) -> None:
    model, group, batch = cnn_net()
    train(relaxify(model, group), batch)
    torch.save(model.state_dict(), tmp_path / "relaxed.pt")
    convert(tmp_path / "relaxed.pt", tmp_path / "clean.pt")
    loaded = cnn_net()[0]
    loaded.load_state_dict(torch.load(tmp_path / "clean.pt", weights_only=True), strict=True)
    assert torch.equal(loaded.eval()(*batch), project(model).eval()(*batch))


COMPILED = """
    import copy, torch
    from networks import cnn_net, randomise_terms
    from relaxify import RelaxConfig, penalty, relaxify

    torch.manual_seed(0)
    model, group, batch = cnn_net()
    relaxify(model, group, config=RelaxConfig(rows=ROWS))
    randomise_terms(model)
    model[4].p = 0.0
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for call in (compiled, twin):
        for _ in range(3):
            (call(*batch).square().mean() + penalty(call)).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for ours, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.parametrize("rows", [64, None])
def test_a_compiled_step_is_one_graph_and_is_right(rows: int | None) -> None:
    """In a process of its own: this test run's checks of types cannot be compiled."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root / 'tests'}:{root / 'examples'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", dedent(COMPILED).replace("ROWS", str(rows))]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_relaxed_cnn_goes_on_from_its_checkpoint_and_from_that_of_a_plain_one() -> None:
    model, x = trained("C(4)"), torch.randn(4, 1, 13, 13)
    again = relaxify(classifier(), "C(4)")
    again.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(again.train()(x), model.train()(x))
    plain = classifier()
    with torch.no_grad():
        plain[0].weight.normal_()
    again.load_state_dict(plain.state_dict(), strict=True)
    set_theta(again, 1.0)
    torch.testing.assert_close(again(x), plain(x))


def test_inspect_names_the_kernel_of_a_plain_cnn_and_finds_a_relaxed_one_sound() -> None:
    x = torch.randn(4, 1, 13, 13)
    fault = inspect(classifier().eval(), "C(4)", x).fault
    assert fault is not None
    assert fault.module == "0"
    assert fault.kind == "kernel"
    model = relaxify(classifier(), "C(4)")
    set_theta(model, 0.5)
    report = inspect(model, "C(4)", x)
    assert report.is_sound
    assert [layer.path for layer in report.layers] == ["0", "3"]
    assert all(layer.share > 0.01 and max(layer.lie) > 0.01 for layer in report.layers)


def test_the_rest_of_a_plan_is_judged_with_symmetric_kernels() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 3))
    found = plan(model, "C(4)", example_inputs=torch.randn(4, 1, 5, 5))
    assert [site.path for site in found.sites] == ["0"]
    assert [rejected.path for rejected in found.unsound] == ["3"]


@pytest.mark.parametrize(
    ("layer", "group", "reason"),
    [
        (nn.Conv2d(1, 1, 3), "T(2)", "whatever its kernel"),
        (nn.Conv1d(1, 1, 3), "T(1)", "whatever its kernel"),
        (nn.Conv2d(1, 1, 2, padding="same"), "C(4)", "on one side"),
        (nn.Conv2d(1, 1, 1), "C(4)", "invariant -> invariant"),
        (nn.Conv2d(1, 1, 3, padding=(0, 1)), "C(4)", "does not commute"),
        (nn.Conv2d(1, 1, 3, dilation=(1, 2)), "C(4)", "does not commute"),
    ],
)
def test_what_is_not_relaxed_says_why(layer: nn.Module, group: str, reason: str) -> None:
    found = plan(layer, group)
    assert not found.sites
    assert reason in found.rejected[0].reason


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("D(1)", (2, 3)),
        ("D(1)", (3, 2)),
        ("D(1)", (2, 2)),
        ("C(2)", (2, 3)),
        ("C(2)", (3, 3)),
        ("C(4)", (2, 2)),
        ("D(4)", (3, 3)),
    ],
)
def test_padding_the_same_is_relaxed_just_where_the_group_respects_it(name: str, size: tuple[int, int]) -> None:
    """An even kernel pads one side of its axis more, and a reflection of the other axis alone does not mind."""
    layer = nn.Conv2d(1, 1, size, padding="same", bias=False).double()
    x, kernel = images(layer), symmetric(layer, name)
    y = on(layer, kernel, x)
    moves = [grid_action(g, (11, 11)) for g in Group.parse(name).finite]
    errors = [
        (on(layer, kernel, (x.flatten(2) @ g.mT).view_as(x)) - (y.flatten(2) @ g.mT).view_as(y)).abs().max() for g in moves
    ]
    assert bool(plan(layer, name).sites) == (max(errors) < 1e-12)


@pytest.mark.parametrize(("size", "is_relaxed"), [(3, True), (2, False)])
def test_a_shift_by_half_a_pixel_is_stretched_by_scales(size: int, is_relaxed: bool) -> None:
    assert bool(plan(nn.Conv2d(1, 1, size, padding="same"), "Scale(2)").sites) == is_relaxed


@pytest.mark.parametrize(("group", "sites"), [("C(4)", ["0"]), ("C(3)", [])])
def test_beside_layers_of_a_library_plain_convolutions_are_left_alone(group: str, sites: list[str]) -> None:
    """Whether those can be relaxed or not."""
    enn, gspaces = pytest.importorskip("escnn.nn"), pytest.importorskip("escnn.gspaces")
    space = gspaces.rot2dOnR2(4)
    steerable = enn.R2Conv(enn.FieldType(space, [space.trivial_repr]), enn.FieldType(space, [space.regular_repr]), 3)
    found = plan(nn.ModuleList([steerable, nn.Conv2d(4, 4, 3)]), group)
    assert [site.path for site in found.sites] == sites
    assert found.rejected[-1].reason == "next to escnn.R2Conv its channels may carry anything"


@given(st.sampled_from([3, 5]), st.sampled_from(["Scale(2)", "Scale(1.5)", "Scale(3)"]))
def test_a_kernel_that_dilations_leave_alone_is_its_middle(size: int, name: str) -> None:
    layer = nn.Conv2d(2, 2, size).double()
    middle = torch.zeros_like(layer.weight)
    middle[:, :, size // 2, size // 2] = layer.weight.detach()[:, :, size // 2, size // 2]
    relaxify(layer, name)
    torch.testing.assert_close(project(layer).weight.detach(), middle)


@given(st.sampled_from([3, 5]), st.sampled_from(["C(8)", "SO(2)", "O(2)", "D(3)"]))
def test_kernels_that_turn_between_taps_are_rings(size: int, name: str) -> None:
    layer = nn.Conv2d(1, 1, size).double()
    relaxify(layer, name)
    kernel = project(layer).weight.detach()
    torch.testing.assert_close(kernel, kernel.rot90(1, (2, 3)))
    torch.testing.assert_close(kernel, kernel.flip(2))
    assert kernel.norm() > 0


def test_a_low_rank_term_starts_at_zero() -> None:
    layer = nn.Conv2d(4, 4, 3)
    relaxify(layer, "C(4)", config=RelaxConfig(rank=2))
    assert not layer.relaxation.matrix.any()
