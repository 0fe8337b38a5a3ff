"""theta that moves between a forward pass and its backward pass: the gradient is that of the forward pass, or it is told."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from networks import Make, cnn_net, e3nn_net, randomise_terms, vn_net
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from relaxify import ACE, RelaxConfig, Triangle, penalty, relaxify, set_theta
from relaxify.relaxation.switching import end_terms
from relaxify_examples.models.vector_neurons import VNLinear

MOVES: dict[str, Callable[[nn.Module], Callable[[], None]]] = {
    "set_theta": lambda model: lambda: set_theta(model, 2.0),
    "the end": lambda model: lambda: end_terms(model),
    "Triangle": lambda model: Triangle(model, 8, peak=3.0).step,
    "ACE": lambda model: ACE(model, 8, normalise=False).step,
}


def vn_layer() -> tuple[nn.Module, str, tuple[Tensor, ...]]:
    return nn.Sequential(VNLinear(3, 4)), "SO(3)", (torch.randn(4, 3, 3, 10),)


def relaxed_net(make: Make, rank: int | None) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    model, group, batch = make()
    randomise_terms(relaxify(model, group, config=RelaxConfig(rank=rank)))
    return model, batch


def gradients(model: nn.Module, batch: tuple[Tensor, ...], call: Callable, between: Callable[[], None]) -> list[Tensor]:
    torch.manual_seed(1)
    loss = call(*batch).square().mean() + penalty(model)
    between()
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("make", "move", "rank"),
    [(e3nn_net, "set_theta", None), (vn_net, "the end", 2), (cnn_net, "Triangle", None), (e3nn_net, "Triangle", 2),
     (vn_net, "Triangle", None), (cnn_net, "the end", None), (vn_net, "ACE", None)],
)  # fmt: skip
def test_the_gradient_is_that_of_the_forward_pass(make: Make, move: str, rank: int | None) -> None:
    model, batch = relaxed_net(make, rank)
    between, twin = MOVES[move](model), copy.deepcopy(model)
    expected = gradients(twin, batch, twin, list)
    torch.testing.assert_close(gradients(model, batch, model, between), expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_the_same_of_a_compiled_model(compiler: None) -> None:
    model, batch = relaxed_net(vn_layer, None)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = gradients(twin, batch, twin, list)
    torch.testing.assert_close(gradients(model, batch, compiled, lambda: set_theta(model, 2.0)), expected)
    set_theta(model, 0.25)
    gradients(model, batch, compiled, list)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("move", ["set_theta", "the end"])
def test_checkpointing_which_cannot_know_the_theta_of_the_first_pass_is_told(move: str, reentrant: bool) -> None:
    model, (x,) = relaxed_net(vn_net, None)
    x.requires_grad_()
    for _ in range(2):
        checkpoint(model, x, use_reentrant=reentrant).square().mean().backward()
        set_theta(model, 0.5)
    loss = checkpoint(model, x, use_reentrant=reentrant).square().mean()
    MOVES[move](model)()
    with pytest.raises(RuntimeError, match=r"set between a forward pass and its backward pass.* step\(\) after backward"):
        loss.backward()
