"""What hangs on a module acts, travels with copies, and is gone without a trace when it is taken off."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relaxify.modules.hanging import StandIn, attach, copy_without, hung, probe, stand_in, take_off

X = torch.arange(3.0)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.settled = False

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class Added(nn.Module):
    """Adds a number to what its module computes, by a hook or in the place of its forward."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def hook(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + self.number

    def compute(self, forward: StandIn, *args: Any, **kwargs: Any) -> Any:
        return forward.own(*args, **kwargs) + self.number

    def settle(self, layer: nn.Module) -> None:
        layer.settled = True


def hooked() -> Layer:
    layer, child = Layer(), Added(1.0)
    attach(layer, child)
    layer.register_forward_hook(child.hook)
    return layer


def standing_in() -> Layer:
    layer, child = Layer(), Added(1.0)
    attach(layer, child)
    stand_in(layer, child.compute)
    return layer


def nested() -> Layer:
    """One for each of two functional ops."""
    layer = Layer()
    for operand, number in (("weight", 0.25), ("other.weight", 0.75)):
        child = Added(number)
        attach(layer, child, operand)
        stand_in(layer, child.compute)
    return layer


WAYS = pytest.mark.parametrize("make", [hooked, standing_in, nested])


def children(model: nn.Module) -> list[nn.Module]:
    return [child for _, child in hung(model)]


def is_plain(layer: nn.Module) -> bool:
    return vars(layer).keys() == vars(Layer()).keys() and not layer._modules and not layer._forward_hooks


@WAYS
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), lambda layer: layer])
def test_it_acts_in_every_copy_until_it_is_taken_off(make: Callable[[], Layer], copied: Callable[[Layer], Layer]) -> None:
    layer = make()
    twin = copied(layer)
    assert torch.equal(twin(x=X) if make is not hooked else twin(X), X + 1)
    children(twin)[0].number += 1
    assert torch.equal(twin(X), X + 2)
    assert torch.equal(layer(X), X + 1 + (twin is layer))
    take_off(twin, {id(child) for child in children(twin)})
    assert torch.equal(twin(X), X)
    assert is_plain(twin)


@WAYS
def test_a_copy_without_and_a_probe_are_plain(make: Callable[[], Layer]) -> None:
    model = nn.Sequential(make())
    for clean in (copy_without(model, children(model)), probe(model, torch.float32)):
        assert is_plain(clean[0])
        assert torch.equal(clean(X), X)
        assert clean[0].weight is not model[0].weight
    assert probe(model)[0].settled
    assert not model[0].settled
    assert torch.equal(model(X), X + 1)


def test_what_hangs_has_the_path_of_what_it_acts_on() -> None:
    model = nn.ModuleDict({"functional_a": standing_in(), "b": nested()})
    assert [path for path, _ in hung(model)] == ["functional_a", "b", "b"]
    assert list(model["b"]._modules) == ["functional_weight", "functional_other_weight"]


def test_one_of_two_is_taken_off() -> None:
    layer = nested()
    first, second = children(layer)
    take_off(layer, {id(second)})
    assert torch.equal(layer(X), X + 0.25)
    take_off(layer, {id(first)})
    assert is_plain(layer)


def test_a_child_of_the_models_own_with_that_name_stays() -> None:
    layer = Layer()
    layer.relaxation = nn.Linear(3, 3)
    layer.register_forward_hook(lambda module, args, output: module.relaxation(output))
    twin = probe(layer)
    assert torch.equal(twin.relaxation.weight, layer.relaxation.weight.double())
    assert not twin._forward_hooks


def test_a_forward_put_around_it_stays_and_calls_what_is_left() -> None:
    """By its function, as Accelerate does: it is then the module's own again."""
    layer = nested()
    inner = layer.forward.__func__
    layer.forward = types.MethodType(lambda module, x: 10 * inner(module, x), layer)
    twin = copy.deepcopy(layer)
    children(twin)[0].number = 1.25
    assert torch.equal(layer(X), 10 * (X + 1))
    assert torch.equal(twin(X), 10 * (X + 2))
    assert torch.equal(copy_without(layer, children(layer))(X), 10 * X)
    layer.forward = types.MethodType(inner, layer)
    assert torch.equal(layer(X), X + 1)
    assert is_plain(copy_without(layer, children(layer)))


def test_a_forward_that_was_there_first_is_what_is_left() -> None:
    layer, child = Layer(), Added(1.0)
    layer.forward = functools.partial(tripled, layer)
    attach(layer, child)
    stand_in(layer, child.compute)
    assert torch.equal(layer(X), 3 * X + 1)
    clean = copy_without(layer, [child])
    assert torch.equal(clean(X), 3 * X)
    assert vars(clean)["forward"].args == (clean,)
    assert torch.equal(probe(layer, None)(X), 3 * X)


def tripled(layer: Layer, x: Tensor) -> Tensor:
    return 3 * Layer.forward(layer, x)


def test_a_forward_that_was_kept_no_longer_acts() -> None:
    layer = standing_in()
    kept = layer.forward
    take_off(layer, {id(child) for child in children(layer)})
    assert torch.equal(kept(X), X)


def test_a_stand_in_has_the_signature_of_the_modules_own_forward() -> None:
    assert inspect.signature(nested().forward) == inspect.signature(Layer().forward)
