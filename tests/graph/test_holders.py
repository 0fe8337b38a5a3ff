"""However a model holds and applies a map on vectors, it is found by evidence, relaxed, projected and reloaded."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from relaxify import penalty, plan, project, relaxify, set_theta
from relaxify.relaxation.terms.term import terms_of

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))


class Vectors(nn.Module):
    """A frame for what is tested: centred positions to 4 channels, `apply` to 4 channels, and their sum."""

    def forward(self, x: Tensor) -> Tensor:
        return self.change((x - x.mean(0)).unsqueeze(-1).expand(-1, -1, 4) * torch.arange(1.0, 5.0)).sum(-1)


def linear() -> nn.Linear:
    return nn.Linear(4, 4, bias=False)


class Called(Vectors):
    """One layer, twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def change(self, v: Tensor) -> Tensor:
        return self.layer(self.layer(v))


class TwoNames(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = linear()

    def change(self, v: Tensor) -> Tensor:
        return self.second(self.first(v))


class Tied(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = linear(), linear()
        self.second.weight = self.first.weight

    def change(self, v: Tensor) -> Tensor:
        return self.second(self.first(v))


class Listed(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([linear(), linear()])
        self.by_name = nn.ModuleDict({"mix": linear()})

    def change(self, v: Tensor) -> Tensor:
        for layer in self.layers:
            v = layer(v)
        return self.by_name["mix"](v)


class Parameters(Vectors):
    """An einsum, a matmul and a batched one with Parameters in a list and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(4, 4) / 2, torch.randn(2, 2, 2)])
        self.named = nn.ParameterDict({"mix": torch.randn(4, 4) / 2})

    def change(self, v: Tensor) -> Tensor:
        v = torch.einsum("oi,nci->nco", self.weights[0], v) @ self.named["mix"]
        heads = v.unflatten(-1, (2, 2)).movedim(-2, 1)
        return (heads @ self.weights[1]).movedim(1, -2).flatten(-2)


class Normed(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.layer = parametrizations.weight_norm(linear())
        self.spectral = parametrizations.spectral_norm(linear())

    def change(self, v: Tensor) -> Tensor:
        return self.spectral(self.layer(v))


class Computed(Vectors):
    """A weight made of two parameters in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(4, 2))

    def change(self, v: Tensor) -> Tensor:
        return F.linear(v, self.up @ self.down)


class Frozen(Called):
    def __init__(self) -> None:
        super().__init__()
        self.layer.requires_grad_(False)


class Hooked(Called):
    """The user's own hooks, before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.layer.register_forward_hook(halve)
        self.layer.register_forward_pre_hook(double)


def halve(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output / 2


def double(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0] * 2,)


class Keyword(Called):
    def change(self, v: Tensor) -> Tensor:
        return self.layer(input=v)


SITES: dict[Callable[[], Vectors], list[str]] = {
    Called: ["layer"],
    TwoNames: ["first"],
    Tied: ["first"],
    Listed: ["layers.0", "layers.1", "by_name.mix"],
    Parameters: ["weights.0", "named.mix", "weights.1"],
    Normed: ["layer", "spectral"],
    Computed: ["up"],
    Frozen: ["layer"],
    Hooked: ["layer"],
    Keyword: ["layer"],
}
each = pytest.mark.parametrize("make", SITES, ids=lambda make: make.__name__)


@each
def test_every_map_is_one_site(make: Callable[[], Vectors]) -> None:
    torch.manual_seed(0)
    result = plan(make(), "O(3)", example_inputs=X)
    assert [site.path for site in result.sites] == SITES[make]
    assert not result.unsound


@each
def test_relax_train_project_and_reload(make: Callable[[], Vectors]) -> None:
    torch.manual_seed(0)
    model = make().train()
    for _ in range(20):  # spectral norm's power iteration settles
        model(X)
    plain = copy.deepcopy(model)
    relaxify(model, "O(3)", example_inputs=X)
    set_theta(model, 0.5)
    trained = [parameter for term in terms_of(model).values() for parameter in term.parameters()]
    optimizer = torch.optim.SGD(trained, 1e-2)
    for _ in range(3):
        (model(X).square().mean() + penalty(model)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.any() for parameter in trained)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(X), copy.deepcopy(model)(X))
    clean = project(model)
    assert type(clean) is type(plain)
    assert list(clean.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(clean.state_dict(), strict=True)
    assert torch.equal(clean.eval()(X), plain.eval()(X))
    folded = project(model, mode="fold").eval()
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    torch.testing.assert_close(folded(X @ rotation.mT), folded(X) @ rotation.mT, rtol=1e-4, atol=1e-4)


def test_users_hooks_stay() -> None:
    model = relaxify(Hooked(), "O(3)", example_inputs=X)
    clean = project(model)
    assert halve in clean.layer._forward_hooks.values()
    assert double in clean.layer._forward_pre_hooks.values()
    assert len(clean.layer._forward_hooks) == len(clean.layer._forward_pre_hooks) == 1


def test_frozen_weights_stay_frozen_and_terms_are_free() -> None:
    model = relaxify(Frozen(), "O(3)", example_inputs=X)
    assert not model.layer.weight.requires_grad
    assert model.layer.relaxation.weight.requires_grad
    assert not project(model).layer.weight.requires_grad
