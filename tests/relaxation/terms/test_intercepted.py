"""Functional ops on a Parameter are relaxed where they stand: the module stays itself, and all round trips are exact."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from relaxify import RelaxConfig, penalty, plan, project, projected, relaxify, set_theta, summary
from relaxify.checkpoint import convert
from relaxify.relaxation.terms.term import terms_of

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))


class Mixing(nn.Module):
    """Four ways to mix vector channels with Parameters, one of them scaled first; `scale` is read by its callers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(6, 1))
        self.weights = nn.ParameterDict({"u": nn.Parameter(torch.randn(6, 6))})
        self.scaled = nn.Parameter(torch.randn(5, 6))
        self.out = nn.Parameter(torch.randn(1, 5))
        self.scale = 0.5

    def forward(self, x: Tensor) -> Tensor:
        v = torch.einsum("nci,oc->noi", (x - x.mean(0)).unsqueeze(1), self.embed)
        v = (self.weights["u"] @ v) * torch.tanh(v.norm(dim=-1, keepdim=True))
        v = torch.tensordot(v, self.scaled * self.scale, dims=([1], [1])).transpose(1, 2)
        return torch.nn.functional.linear(v.mT, self.out).squeeze(-1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixing = Mixing()

    def forward(self, x: Tensor) -> Tensor:
        return self.mixing(x) * (1 + self.mixing.scale)


PATHS = ["mixing.embed", "mixing.weights.u", "mixing.scaled", "mixing.out"]


def relaxed_net(config: RelaxConfig = RelaxConfig(), weight: float = 0.0) -> Net:
    model = relaxify(Net(), "O(3)", example_inputs=[X], config=config)
    for k, term in enumerate(terms_of(model).values()):
        generator = torch.Generator().manual_seed(k)
        for parameter in term.parameters():
            parameter.data.normal_(generator=generator).mul_(weight)
    return model


def test_every_functional_op_is_a_site_under_its_parameters_name() -> None:
    result = plan(Net(), "O(3)", example_inputs=[X])
    assert [site.path for site in result.sites] == PATHS
    assert [str(site.map.rep_in) for site in result.sites] == ["1xvector", "6xvector", "6xvector", "5xvector"]
    assert not result.rejected


def test_the_module_stays_itself_and_starts_unchanged() -> None:
    model = Net()
    mixing, plain = model.mixing, copy.deepcopy(model)
    relaxify(model, "O(3)", example_inputs=[X])
    assert model.mixing is mixing
    assert type(mixing) is Mixing
    assert mixing.scale == 0.5
    assert torch.equal(model(X), plain(X))
    model.load_state_dict(plain.state_dict(), strict=True)


@pytest.mark.parametrize("rank", [None, 2])
def test_each_term_adds_theta_w_x(rank: int | None) -> None:
    """One op at a time, against the op's own formula with W (vectors before channels)."""
    model = relaxed_net(RelaxConfig(rank=rank), weight=0.0)
    plain, term = project(model), terms_of(model)["mixing.out"]
    term.theta.fill_(0.3)
    for parameter in term.parameters():
        parameter.data.normal_()
    seen: list[Tensor] = []
    handle = torch.nn.functional.linear
    v = capture(plain, seen)
    expected = plain.mixing(X) + 0.3 * (v.mT.flatten(1) @ term.matrix.mT)
    torch.testing.assert_close(model.mixing(X), expected)
    assert torch.nn.functional.linear is handle


def capture(plain: Net, seen: list[Tensor]) -> Tensor:
    """The vectors [n, channels, 3] ahead of the last op."""
    mixing = plain.mixing
    v = torch.einsum("nci,oc->noi", (X - X.mean(0)).unsqueeze(1), mixing.embed)
    v = (mixing.weights["u"] @ v) * torch.tanh(v.norm(dim=-1, keepdim=True))
    return torch.tensordot(v, mixing.scaled * mixing.scale, dims=([1], [1])).transpose(1, 2)


def test_relax_train_project() -> None:
    model = relaxed_net()
    plain = Net()
    set_theta(model, 1.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        (model(X).square().mean() + penalty(model)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(term.weight.any() for term in terms_of(model).values())
    assert summary(model).share
    clean = project(model)
    assert [name for name, _ in clean.named_modules()] == [name for name, _ in plain.named_modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in clean.modules())
    plain.load_state_dict(clean.state_dict(), strict=True)
    with projected(model):
        assert torch.equal(plain(X), model(X))
    assert not torch.equal(plain(X), model(X))


def test_an_equivariant_relaxation_folds_exactly() -> None:
    model = relaxed_net()
    set_theta(model, 0.7)
    for term in terms_of(model).values():
        mix = torch.randn(term.map.rep_out.dim // 3, term.map.rep_in.dim // 3)
        term.weight.data = torch.kron(torch.eye(3), mix)
    assert not any(layer.foldable for layer in summary(model).layers.values())
    torch.testing.assert_close(project(model, mode="fold")(X), model(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["drop", "fold"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_convert_equals_project(mode: str, suffix: str, tmp_path: Path) -> None:
    model = relaxed_net(weight=0.1)
    set_theta(model, 0.5)
    source, target = tmp_path / f"relaxed{suffix}", tmp_path / f"plain{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), source)
    else:
        safetensors.torch.save_file(model.state_dict(), source)
    convert(source, target, mode=mode)
    state = torch.load(target, weights_only=True) if suffix == ".pt" else safetensors.torch.load_file(target)
    plain, expected = Net(), project(model, mode=mode)
    plain.load_state_dict(state, strict=True)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(state[key], value, atol=0 if mode == "drop" else 1e-6, rtol=0)


def test_copies_are_whole_and_independent() -> None:
    model = relaxed_net(weight=0.1)
    set_theta(model, 1.0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(X), model(X))
        set_theta(twin, 0.0)
        assert not torch.equal(twin(X), model(X))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whatever_is_raised_in_forward_leaves_nothing_watching(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C too, for which torch calls no hooks: neither outputs nor gradients change."""
    model = relaxed_net(weight=0.1)
    set_theta(model, 1.0)
    trained, evaluated = model(X), model.eval()(X)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "tanh", raising(error))
        for mode in (True, False):
            with pytest.raises(error):
                model.train(mode)(X)
    assert not _get_current_function_mode_stack()
    assert torch.equal(model(X), evaluated)
    assert torch.equal(model.train()(X), trained)
    assert torch.equal(project(model)(X), evaluated)


def raising(error: type[BaseException]) -> Callable[..., Tensor]:
    def function(*args: object) -> Tensor:
        raise error

    return function


def doubled(self: Mixing, x: Tensor) -> Tensor:
    return 2 * Mixing.forward(self, x)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), lambda model: model])
def test_a_forward_that_the_user_replaced_stays_the_users(copied: Callable[[Net], Net]) -> None:
    """It is what the terms are added to, and what is left when they are gone."""
    plain = Net()
    plain.mixing.forward = functools.partial(doubled, plain.mixing)
    model = relaxify(copy.deepcopy(plain), "O(3)", example_inputs=[X])
    assert torch.equal(model(X), plain(X))
    model.mixing.functional_embed.relaxation.weight.data.normal_()
    set_theta(model, 1.0)
    twin = copied(model)
    assert torch.equal(twin(X), model(X))
    assert not torch.equal(twin(X), plain(X))
    clean = project(twin)
    assert torch.equal(clean(X), plain(X))
    assert vars(clean.mixing)["forward"].func is doubled
    assert vars(clean.mixing)["forward"].args == (clean.mixing,)
    assert vars(clean.mixing).keys() == vars(plain.mixing).keys()
    assert torch.equal(project(twin, inplace=True)(X), plain(X))


def test_each_of_two_modules_with_one_weight_is_watched() -> None:
    plain = nn.Sequential(Mix(), Mix())
    plain[1].w = plain[0].w
    v = torch.randn(8, 4, 3)
    model = relaxify(copy.deepcopy(plain), "SO(3)", example_inputs=[v])
    (term,) = terms_of(model).values()
    term.weight.data = torch.kron(torch.diag(torch.tensor([0.0, 0.0, 0.5])), torch.eye(4))
    set_theta(model, 1.0)

    def expected(v: Tensor) -> Tensor:
        return torch.einsum("nci,oc->noi", v, plain[0].w) + v * torch.tensor([0.0, 0.0, 0.5])

    torch.testing.assert_close(model(v), expected(expected(v)))
    clean = project(model)
    assert torch.equal(clean(v), plain(v))
    assert not any("forward" in vars(m) for m in clean.modules())


class Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, v: Tensor) -> Tensor:
        return torch.einsum("nci,oc->noi", v, self.w)


def test_only_the_owners_forward_is_watched() -> None:
    """The same Parameter in a call elsewhere is left alone."""
    model = relaxed_net(weight=0.1)
    set_theta(model, 1.0)
    v = torch.randn(2, 3, 5)
    assert torch.equal(v @ model.mixing.out.mT, v @ project(model).mixing.out.mT)
