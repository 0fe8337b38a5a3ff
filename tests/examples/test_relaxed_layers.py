"""What all relaxed convolutions share: equivariant until something varies, kernels made anew, and sites of relaxify."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relaxify import RelaxConfig, penalties, penalty, plan, project, relaxify, set_theta, summary
from relaxify.groups import Group
from relaxify.relaxation.penalties import LayerPenalty
from relaxify.relaxation.terms.term import terms_of
from relaxify.sites import Rejected

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    enn = pytest.importorskip("escnn.nn")
    from escnn import gspaces

    from relaxify_examples.models.relaxed_convolution import RelaxedConv, approximate_equivariance_loss
    from relaxify_examples.models.relaxed_group import RelaxedGroupConv, RelaxedLiftingConv
    from relaxify_examples.models.relaxed_scale import RelaxedScaleConv, RelaxedScaleGroupConv
    from relaxify_examples.models.relaxed_steerable import RelaxedSteerableConv

Make = Callable[..., RelaxedConv]


def steerable(order: int, kinds: tuple[str, str], size: int, **options: Any) -> RelaxedSteerableConv:
    gspace = gspaces.rot2dOnR2(order)
    reps = {"vector": gspace.irrep(1), "regular": gspace.regular_repr, "trivial": gspace.trivial_repr}
    into, out = (enn.FieldType(gspace, [reps[kind]] * count) for kind, count in zip(kinds, (2, 3), strict=True))
    return RelaxedSteerableConv(into, out, size, **options)


LAYERS: dict[str, tuple[str, Make]] = {
    "vectors": ("C(4)", lambda **o: steerable(4, ("vector", "regular"), 3, **o)),
    "regular": ("C(4)", lambda **o: steerable(4, ("regular", "regular"), 5, **o)),
    "to vectors": ("C(2)", lambda **o: steerable(4, ("regular", "vector"), 3, **o)),
    "C(8)": ("C(8)", lambda **o: steerable(8, ("trivial", "regular"), 3, **o)),
    "lifting": ("C(4)", lambda **o: RelaxedLiftingConv(2, 3, 3, **o)),
    "group": ("C(4)", lambda **o: RelaxedGroupConv(2, 3, 5, banks=3, **o)),
    "subgroup": ("C(2)", lambda **o: RelaxedGroupConv(2, 2, 3, order=8, **o)),
    "scale": ("Scale(2)", lambda **o: RelaxedScaleConv(2, 3, 3, **o)),
    "scale, step 2": ("Scale(2)", lambda **o: RelaxedScaleConv(2, 2, 3, step=2, reach=2, **o)),
    "scale group": ("Scale(2)", lambda **o: RelaxedScaleGroupConv(2, 3, 3, reach=2, **o)),
}
EACH = pytest.mark.parametrize("name", LAYERS)


@torch.no_grad()
def made(name: str, *, varied: bool = False, **options: Any) -> RelaxedConv:
    """In float64, with a bias if it has one, and at the start or with weights that vary."""
    layer = LAYERS[name][1](**options).double()
    if layer.bias is not None:
        layer.bias.normal_()
    if varied:
        assert layer.variation is not None
        layer.variation.normal_(std=0.3)
    return layer


def images(layer: RelaxedConv, batch: int = 2, pixels: int = 9) -> Tensor:
    return torch.randn(batch, layer.kernel().shape[1], pixels, pixels, dtype=layer.weights.dtype)


@EACH
def test_without_relaxation_there_is_one_parameter_less_and_the_same_layer(name: str) -> None:
    relaxed, plain = made(name), made(name, relaxed=False)
    assert set(dict(relaxed.named_parameters())) - set(dict(plain.named_parameters())) == {"variation"}
    plain.load_state_dict(relaxed.state_dict(), strict=False)
    x = images(relaxed)
    torch.testing.assert_close(relaxed(x), plain(x), rtol=1e-12, atol=1e-12)
    assert plain.approximate_equivariance_loss().item() == 0


@EACH
def test_images_keep_their_size(name: str) -> None:
    layer = made(name, padding_mode="circular", bias=False)
    assert layer.bias is None
    x = images(layer)
    assert layer(x).shape == (2, len(layer.kernel()), 9, 9)
    torch.testing.assert_close(layer(x.roll((2, 3), (-2, -1))), layer(x).roll((2, 3), (-2, -1)))


@EACH
def test_the_regulariser_is_zero_until_neighbours_differ(name: str) -> None:
    layer = made(name)
    assert layer.variation is not None
    with torch.no_grad():
        layer.variation.copy_(torch.randn_like(layer.variation[..., :1]).expand_as(layer.variation))
    loss = approximate_equivariance_loss(nn.Sequential(layer, nn.ReLU()))
    assert loss.item() == 0
    loss.backward()
    assert layer.variation.grad is not None
    assert layer.variation.grad.isfinite().all()
    with torch.no_grad():
        layer.variation[..., 0] += 1
    assert approximate_equivariance_loss(layer).item() > 0


def test_the_regulariser_counts_each_pair_of_neighbours() -> None:
    """By hand: a step of 1 between the first two columns of taps, and one of 2 between two elements of a circle of 4."""
    steerable_layer, group_layer = made("vectors"), made("lifting")
    assert steerable_layer.variation is not None
    assert group_layer.variation is not None
    with torch.no_grad():
        steerable_layer.variation.unflatten(-1, (3, 3))[..., 0] = 1
        group_layer.variation[:, 2] = 2
    assert steerable_layer.approximate_equivariance_loss().item() == pytest.approx(1 / 2)
    assert group_layer.approximate_equivariance_loss().item() == pytest.approx(2 * 2 / 4)
    with pytest.raises(ValueError, match="Linear has no relaxed convolution"):
        approximate_equivariance_loss(nn.Linear(1, 1))


@EACH
def test_an_ordinary_module(name: str) -> None:
    """Copied, pickled, saved, and in either mode."""
    layer = made(name, varied=True)
    x = images(layer)
    y = layer(x)
    loaded = made(name)
    loaded.load_state_dict(layer.state_dict())
    for other in (loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.eval()):
        assert torch.equal(other(x), y)
    assert set(layer.state_dict()) <= {"weights", "variation", "bias"}
    assert not any(key.endswith(".relaxation") for key in layer.state_dict())


@EACH
def test_kernels_are_made_anew_and_every_weight_is_learned(name: str) -> None:
    layer = made(name, varied=True).eval()
    x = images(layer)
    layer(x).square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        # what reaches a parameter is more than rounding
        assert float(parameter.grad.abs().max()) > 1e-6
    y = layer(x).detach()
    with torch.no_grad():
        layer.weights.mul_(2)
    assert not torch.allclose(layer(x), y)


@EACH
def test_the_kernel_is_linear_in_the_weights_as_folding_needs(name: str) -> None:
    layer = made(name, varied=True)
    one, two = (torch.randn_like(layer.weights) for _ in range(2))
    of, own = layer.convolution.kernel.of, layer.kernel()
    torch.testing.assert_close(of(layer, one + 2 * two), of(layer, one) + 2 * of(layer, two))
    torch.testing.assert_close(layer.kernel(layer.weights + one), own + of(layer, one))


@EACH
def test_described_and_proved(name: str) -> None:
    """Whatever varies, it is the twin in which nothing does that is proved."""
    group = LAYERS[name][0]
    for varied in (False, True):
        (site,) = plan(made(name, varied=varied), group).sites
        assert site.proof is not None
        assert site.proof < 2e-7
        assert (site.map.interpolation == 0) == (group in ("C(4)", "C(2)"))
        # escnn samples its kernels in float32, and C(8) has to move taps by them
        assert site.map.interpolation < (1e-5 if group == "C(8)" else 1e-12)


@EACH
@pytest.mark.parametrize("fault", ["basis", "forward"])
def test_a_layer_that_is_not_what_it_says_is_found_out(name: str, fault: str) -> None:
    layer = made(name)
    if fault == "basis":
        layer.basis[0] += 1e-3 * torch.randn_like(layer.basis[0])
    else:
        layer.__class__ = type("Mine", (type(layer),), {"forward": lambda self, x: 1.01 * RelaxedConv.forward(self, x)})
    (rejected,) = plan(layer, LAYERS[name][0]).rejected
    assert rejected.unsound
    assert "it does not commute with" in rejected.reason


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "to vectors"])
def test_a_bias_that_is_not_invariant_is_found_out(name: str) -> None:
    layer = made(name)
    layer.invariant[0] = 1.5
    (rejected,) = plan(layer, LAYERS[name][0]).rejected
    assert rejected.unsound


def test_vectors_have_no_bias() -> None:
    assert made("to vectors").bias is None


@EACH
def test_another_group_is_declined_with_a_reason(name: str) -> None:
    layer = made(name)
    for group in map(Group.parse, ("C(3)", "D(4)", "SO(2)", "SO(3)", "Scale(3)", "T(2)")):
        (rejected,) = layer.relaxify_sites("", group)
        assert isinstance(rejected, Rejected)
        words = ("which does not contain", "does not act", "takes none to another")
        assert any(part in rejected.reason for part in words)
        assert group.name in rejected.reason


@torch.no_grad()
def scored(layer: RelaxedConv) -> LayerPenalty:
    (score,) = penalties(layer).values()
    return score


def with_kernel(layer: RelaxedConv, kernel: Tensor) -> Any:
    term: Any = terms_of(layer)[""]
    with torch.no_grad():
        term.weight.copy_(term.convolution.as_matrix(kernel))
    return term


@EACH
def test_an_equivariant_kernel_has_no_penalty_and_a_random_one_has(name: str) -> None:
    layer = made(name)
    kernel = layer.kernel().detach()
    relaxify(layer, LAYERS[name][0], config=RelaxConfig(rows=None))
    term = with_kernel(layer, kernel)
    layer(images(layer))
    score = scored(layer)
    largest = float(torch.linalg.eigvalsh(term.sketch.moment)[-1]) ** 0.5
    bound = max(1e-6, 2 * term.map.interpolation) * largest * float(term.matrix.detach().norm())
    assert float(score.lie.max()) <= bound
    with torch.no_grad():
        term.weight.normal_()
    score = scored(layer)
    assert float(score.lie.max() / score.norm) > 0.03


@EACH
def test_in_weight_space_it_is_the_same(name: str) -> None:
    """With both fibre actions, and no images."""
    layer = made(name)
    kernel = layer.kernel().detach()
    relaxify(layer, LAYERS[name][0], config=RelaxConfig(reduction="weights"))
    term = with_kernel(layer, kernel)
    score = scored(layer)
    assert float(score.norm) == pytest.approx(float(kernel.norm()))
    assert float(score.lie.max() / score.norm) < max(1e-6, 2 * term.map.interpolation)
    with torch.no_grad():
        term.weight.normal_()
    score = scored(layer)
    assert float(score.lie.max() / score.norm) > 0.03


@EACH
@pytest.mark.parametrize("rank", [None, 2])
def test_one_convolution_is_the_sum_of_two(name: str, rank: int | None) -> None:
    layer = made(name, varied=True)
    x = images(layer)
    y = layer(x).detach()
    relaxify(layer, LAYERS[name][0], config=RelaxConfig(rank=rank, theta=0.3), keep_relaxed=True)
    assert torch.equal(layer(x), y)
    term: Any = terms_of(layer)[""]
    with torch.no_grad():
        (term.up if rank else term.weight).normal_()
    added = term.convolution.as_kernel(term.up @ term.down if rank else term.weight).detach()
    expected = y + 0.3 * term.convolution.apply(x, added)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(project(layer)(x), y)


@EACH
def test_fold_keeps_what_the_layer_can_have(name: str) -> None:
    layer = made(name, varied=True)
    before, other = layer.kernel().detach(), torch.randn_like(layer.weights)
    own = layer.convolution.kernel.of(layer, other).detach()
    relaxify(layer, LAYERS[name][0], config=RelaxConfig(theta=0.5))
    with_kernel(layer, own)
    folded: Any = project(layer, mode="fold")
    torch.testing.assert_close(folded.kernel().detach(), before + 0.5 * own, rtol=1e-7, atol=1e-7)
    (line,) = summary(layer).layers.values()
    assert line.equivariant == pytest.approx(1, abs=1e-6)


@EACH
def test_a_training_step_is_finite_from_the_start(name: str) -> None:
    layer = relaxify(made(name), LAYERS[name][0])
    set_theta(layer, 0.5)
    optimiser = torch.optim.Adam(layer.parameters(), 1e-2)
    for _ in range(2):
        loss = layer(images(layer)).square().mean() + penalty(layer) + approximate_equivariance_loss(layer)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert all(parameter.isfinite().all() for parameter in layer.parameters())
    assert float(terms_of(layer)[""].matrix.detach().norm()) > 0
