"""A term adds theta * W x (CR eq. 2) and nothing else, through derivatives, checkpointing, precision and compilation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwad
from e3nn import o3
from networks import WITH_CNN, Batch, Make, randomise_terms, run, train, unchecked
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from relaxify import RelaxConfig, penalties, penalty, project, projected, relaxify, set_theta, summary
from relaxify.relaxation.terms.term import Term, terms_of
from relaxify_examples.models.vector_neurons import VNLeakyReLU, VNLinear

CONFIGS = pytest.mark.parametrize("config", [RelaxConfig(), RelaxConfig(rank=2)], ids=["dense", "rank"])
SKETCHES = pytest.mark.parametrize(
    "config",
    [RelaxConfig(), RelaxConfig(rows=None), RelaxConfig(rows=None, reduction="norm")],
    ids=["rows", "moment", "norm"],
)


def relaxed_linear(config: RelaxConfig = RelaxConfig()) -> tuple[nn.Module, Term]:
    layer = relaxify(o3.Linear("4x0e+3x1o", "2x0e+2x1o", biases=True), "O(3)", config=config)
    randomise_terms(layer)
    return layer, layer.relaxation


def added(model: nn.Module, *inputs: Any, **named: Any) -> Tensor:
    """What the terms add to a model's output."""
    with projected(model):
        equivariant = model(*inputs, **named)
    return model(*inputs, **named) - equivariant


def product(term: Term) -> Tensor:
    """W by hand, as documented: dense, or up @ down."""
    return term.weight if term.config.rank is None else term.up @ term.down


@CONFIGS
@pytest.mark.parametrize("shape", [(13,), (5, 13), (2, 3, 5, 13), (0, 13)])
def test_equation_2_on_the_last_axis(config: RelaxConfig, shape: tuple[int, ...]) -> None:
    layer, term = relaxed_linear(config)
    x = torch.randn(shape)
    torch.testing.assert_close(added(layer, x), 0.5 * torch.einsum("oi,...i->...o", product(term), x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(term.matrix, product(term))


@CONFIGS
@pytest.mark.parametrize(
    ("shape", "equation"),
    [
        ((2, 4, 3), "pdic,bci->bdp"),
        ((2, 4, 3, 5), "pdic,bcin->bdpn"),
        ((2, 4, 3, 5, 2), "pdic,bcink->bdpnk"),
    ],
)
def test_equation_2_on_channels_and_a_vector_axis(config: RelaxConfig, shape: tuple[int, ...], equation: str) -> None:
    """W mixes channels c and components i, of which the components come first; each point n, k is mapped on its own."""
    layer = relaxify(VNLinear(4, 6), "SO(3)", config=config)
    randomise_terms(layer)
    x, w = torch.randn(shape), product(layer.map_to_feat.relaxation).view(3, 6, 3, 4)
    torch.testing.assert_close(added(layer, x), 0.5 * torch.einsum(equation, w, x), atol=1e-5, rtol=1e-5)


@CONFIGS
def test_equation_2_in_a_tensor_product(config: RelaxConfig) -> None:
    """W acts on the first argument, whatever the attribute, given by position or by name."""
    layer = relaxify(o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x0e+1x1o", "3x0e+1x1o"), "O(3)", config=config)
    randomise_terms(layer)
    x, y = torch.randn(7, 8), torch.randn(7, 4)
    expected = 0.5 * x @ product(layer.relaxation).T
    torch.testing.assert_close(added(layer, x, y), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(added(layer, y=y, x=x), expected, atol=1e-5, rtol=1e-5)


def test_inputs_given_by_name_are_found() -> None:
    layer, _ = relaxed_linear()
    x = torch.randn(5, 13)
    assert torch.equal(layer(features=x), layer(x))


@CONFIGS
def test_gradients_are_those_of_equation_2(config: RelaxConfig) -> None:
    layer, term = relaxed_linear(config)
    x, g = torch.randn(5, 13), torch.randn(5, 8)
    layer(x).backward(g)
    ours = [p.grad for p in term.parameters()]
    expected = torch.autograd.grad(0.5 * x @ product(term).T, list(term.parameters()), g)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_inactive_terms_return_the_layers_own_tensor() -> None:
    layer, term = relaxed_linear()
    output = torch.randn(5, 8)
    assert term.eval().hook(layer, (torch.randn(5, 13),), {}, output) is None


@SKETCHES
@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_activation_checkpointing_counts_no_row_twice(config: RelaxConfig, read: bool) -> None:
    """The second forward pass, within backward, leaves the sketch alone; the penalty may be read before or after it."""
    layer, term = relaxed_linear(config)
    plain = copy.deepcopy(layer)
    for step, x in enumerate(torch.randn(2, 6, 13, requires_grad=True), start=1):
        for net, output in ((layer, checkpoint(layer, x, use_reentrant=False)), (plain, plain(x))):
            assert net.relaxation.sketch.seen == 6 * (1 if read else step)
            if read:
                penalty(net)
            output.square().sum().backward()
    torch.testing.assert_close(penalty(layer), penalty(plain), rtol=0, atol=0)
    torch.testing.assert_close(term.weight.grad, plain.relaxation.weight.grad)


def energy(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x).square().sum()


def with_no_grad(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return energy(layer, x)


def with_inference_mode(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return energy(layer, x)


def with_eval(layer: nn.Module, x: Tensor) -> Tensor:
    return energy(layer.eval(), x)


def with_grad(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.func.grad(lambda x: energy(layer, x))(x)


def with_grad_of_parameters(layer: nn.Module, x: Tensor) -> Tensor:
    parameters = dict(layer.named_parameters())
    return torch.func.grad(lambda p: functional_call(layer, p, (x,)).square().sum())(parameters)["relaxation.weight"]


def with_vmap(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.func.vmap(layer)(x)


def with_jvp(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1]


def with_hessian(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.func.hessian(lambda x: energy(layer, x))(x[0])


@SKETCHES
@pytest.mark.parametrize(
    "look",
    [
        with_no_grad,
        with_inference_mode,
        with_eval,
        with_grad,
        with_grad_of_parameters,
        with_vmap,
        with_jvp,
        with_hessian,
    ],
)
def test_passes_that_do_not_train_leave_the_sketch_alone(look: Callable, config: RelaxConfig) -> None:
    layer, term = relaxed_linear(config)
    layer(torch.randn(5, 13))
    before, seen = penalty(layer).detach(), term.sketch.seen
    assert look(layer, torch.randn(4, 13)).isfinite().all()
    assert term.sketch.seen == seen
    assert torch.equal(penalty(layer), before)


def test_function_transforms_compute_what_they_should() -> None:
    layer, term = relaxed_linear()
    x = torch.randn(4, 13)
    jacobian = torch.autograd.functional.jacobian(layer, x[0])
    torch.testing.assert_close(with_vmap(layer, x), layer(x))
    torch.testing.assert_close(with_jvp(layer, x), (jacobian @ torch.ones(13)).expand(4, -1))
    torch.testing.assert_close(with_grad(layer, x), 2 * layer(x) @ jacobian)
    torch.testing.assert_close(with_hessian(layer, x), 2 * jacobian.T @ jacobian)
    torch.testing.assert_close(with_grad_of_parameters(layer, x), torch.autograd.grad(energy(layer, x), term.weight)[0])


class Transforming(nn.Module):
    """A model that transforms its layer itself, in its forward."""

    def __init__(self, layer: nn.Module, transform: Callable) -> None:
        super().__init__()
        self.layer, self.transform = layer, transform

    def forward(self, x: Tensor) -> Tensor:
        return self.transform(self.layer, x)


def mapped_twice(layer: nn.Module, x: Tensor) -> Tensor:
    """By vmap over vmap, the axes that are mapped in places of their own."""
    return torch.func.vmap(torch.func.vmap(layer, in_dims=1), in_dims=2)(x.T.unflatten(1, (2, -1)))


def mapped_slopes(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.grad(lambda each: energy(layer, each)))(x)


@SKETCHES
@pytest.mark.parametrize("transform", [with_grad, with_vmap, with_jvp, mapped_twice, mapped_slopes])
def test_transforms_that_a_model_makes_are_a_part_of_its_pass(transform: Callable, config: RelaxConfig) -> None:
    """The terms see each row once, as in a pass without a transform; and can be trained."""
    layer, term = relaxed_linear(config)
    plain, x = copy.deepcopy(layer), torch.randn(6, 13)
    Transforming(layer, transform)(x).square().sum().backward()
    plain(x)
    assert term.sketch.seen == plain.relaxation.sketch.seen == len(x)
    assert all(parameter.grad.isfinite().all() for parameter in term.parameters())
    torch.testing.assert_close(penalty(layer), penalty(plain))
    penalty(layer).backward()


def test_images_that_a_model_maps_over_are_seen_like_a_batch() -> None:
    layer = relaxify(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)), "C(4)")
    plain, x = copy.deepcopy(layer), torch.randn(4, 5, 2, 6, 6)
    Transforming(layer, with_vmap)(x)
    plain(x.flatten(0, 1))
    assert layer[0].relaxation.sketch.seen == plain[0].relaxation.sketch.seen == 4 * 5 * 36
    torch.testing.assert_close(penalty(layer), penalty(plain))


@SKETCHES
def test_forward_mode_derivatives_go_through(config: RelaxConfig) -> None:
    """And leave no tangents in the sketch."""
    layer, _ = relaxed_linear(config)
    x, tangent = torch.randn(5, 13), torch.randn(5, 13)
    with fwad.dual_level():
        y = fwad.unpack_dual(layer(fwad.make_dual(x, tangent))).tangent
    layer(x)
    torch.testing.assert_close(y, layer(tangent) - layer(torch.zeros_like(x)), atol=1e-5, rtol=1e-5)
    penalty(layer).backward()


def forces(layer: nn.Module, positions: Tensor) -> Tensor:
    return -torch.autograd.grad(energy(layer, positions), positions, create_graph=True)[0]


@SKETCHES
def test_forces_can_be_trained_on(config: RelaxConfig) -> None:
    """F = -dE/dx = -2 J^T f(x): their gradient by W is that of this formula, and the sketch sees each row once."""
    layer, term = relaxed_linear(config)
    x = torch.randn(5, 13, requires_grad=True)
    target = torch.randn(5, 13)
    (forces(layer, x) - target).square().sum().backward()
    assert term.sketch.seen == 5
    jacobian = torch.stack([added(layer, row) for row in torch.eye(13)], dim=1)
    with projected(layer):
        jacobian = jacobian + torch.stack([layer(row) - layer(torch.zeros(13)) for row in torch.eye(13)], dim=1)
    by_hand = -2 * layer(x) @ jacobian
    (expected,) = torch.autograd.grad((by_hand - target).square().sum(), term.weight)
    torch.testing.assert_close(term.weight.grad, expected, rtol=1e-4, atol=1e-3)


def test_second_derivatives_are_right_to_rounding() -> None:
    model = relaxify(nn.Sequential(VNLinear(2, 2), VNLeakyReLU(2)).double(), "SO(3)", exclude=["1"])
    randomise_terms(model)
    term = model[0].map_to_feat.relaxation
    x = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)

    def by_input_and_weight(x: Tensor, weight: Tensor) -> Tensor:
        parameters = {"0.map_to_feat.relaxation.weight": weight}
        return functional_call(model, parameters, (x,), tie_weights=False)

    assert torch.autograd.gradgradcheck(by_input_and_weight, (x, term.weight.detach().requires_grad_()))


def linear_net() -> tuple[nn.Module, str, Batch]:
    """What of e3nn runs under autocast."""
    model = nn.Sequential(o3.Linear("4x0e+3x1o", "6x0e+4x1o", biases=True), o3.Linear("6x0e+4x1o", "2x0e+2x1o"))
    return model, "O(3)", (torch.randn(12, 13),)


def vn_layers() -> tuple[nn.Module, str, Batch]:
    """Without jumps, as a maximum over points has."""
    return nn.Sequential(VNLinear(3, 6), VNLeakyReLU(6)), "SO(3)", (torch.randn(4, 3, 3, 10),)


@CONFIGS
@pytest.mark.parametrize("make", [linear_net, vn_layers])
def test_autocast_gives_the_base_models_type_and_nearly_the_full_value(make: Make, config: RelaxConfig) -> None:
    model, group, batch = make()
    base = copy.deepcopy(model)
    train(relaxify(model, group, config=config), batch)
    full = run(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half, expected = run(model, batch), run(base, batch)
    assert half.dtype == expected.dtype
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)
    half.float().square().sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


@SKETCHES
def test_the_sketch_is_as_precise_under_autocast(config: RelaxConfig) -> None:
    """Over two micro-batches."""
    layer, _ = relaxed_linear(config)
    batches = torch.randn(2, 20, 13)
    moments = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for x in batches:
                layer(x)
        moments.append(layer.relaxation.sketch.moment)
        penalty(layer)
    torch.testing.assert_close(*moments)


@SKETCHES
def test_the_penalty_is_as_precise_under_autocast(config: RelaxConfig) -> None:
    """The Lie-derivative part of an equivariant W is 0."""
    layer, term = relaxed_linear(config)
    with torch.no_grad():
        term.weight.copy_(torch.block_diag(torch.randn(2, 4), torch.kron(torch.randn(2, 3), torch.eye(3))))
    layer(torch.randn(20, 13))
    with torch.autocast("cpu", torch.bfloat16):
        inside = penalties(layer)[""]
    outside = penalties(layer)[""]
    torch.testing.assert_close(inside.norm, outside.norm)
    torch.testing.assert_close(inside.lie, torch.zeros(4), atol=1e-5, rtol=0)


@SKETCHES
@WITH_CNN
def test_double_precision_after_relaxing(make: Make, config: RelaxConfig) -> None:
    model, group, batch = make()
    train(relaxify(model, group, config=config), batch)
    single = run(model, batch)
    penalty(model)
    model.double()
    batch = tuple(x.double() for x in batch)
    double = run(model, batch)
    assert double.dtype == penalty(model).dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-3)
    train(model, batch)
    assert project(model, mode="fit")(*batch).dtype == torch.float64
    assert summary(model).share is not None


@pytest.mark.parametrize(
    "config",
    [
        RelaxConfig(),
        RelaxConfig(rows=None),
        RelaxConfig(rows=None, reduction="norm"),
    ],
)
def test_double_precision_between_a_forward_pass_and_its_penalty(config: RelaxConfig) -> None:
    layer, term = relaxed_linear(config)
    x = torch.randn(5, 13)
    layer(x)
    layer.double()(x.double())
    assert penalty(layer).isfinite()
    assert term.sketch.seen == 10


@WITH_CNN
def test_terms_train_beside_a_frozen_base(make: Make) -> None:
    model, group, batch = make()
    model.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    train(relaxify(model, group), batch)
    assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())
    assert any(term.weight.any() for term in terms_of(model).values())
    assert all(p.requires_grad == ("relaxation" in name) for name, p in model.named_parameters())


def test_frozen_terms_stay() -> None:
    layer, term = relaxed_linear()
    term.requires_grad_(False)
    before = term.weight.clone()
    layer(torch.randn(5, 13)).square().sum().backward()
    assert term.weight.grad is None
    assert torch.equal(term.weight, before)
    assert penalty(layer).isfinite()


@pytest.mark.filterwarnings("ignore")
@SKETCHES
def test_a_compiled_model_is_relaxed_and_sketched_and_not_compiled_anew_for_each_theta(config: RelaxConfig) -> None:
    layer, term = relaxed_linear(config)
    graphs = []
    with unchecked():
        torch._dynamo.reset()
        compiled = torch.compile(layer, backend="eager")
        for step in range(5):
            set_theta(layer, 0.1 * step)
            x = torch.randn(6, 13)
            output = compiled(x)
            assert term.sketch.seen == 6
            penalty(layer)
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            torch.testing.assert_close(output, layer(x))
            penalty(layer)
    assert len(set(graphs)) == 1
