"""relaxify changes the model in place and as little as can be: checkpoints, optimisers, hooks and copies go on working."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from networks import NETWORKS, WITH_CNN, Make, anatomy, e3nn_net, randomise_terms, run, train, vn_net
from torch import Tensor, nn

from relaxify import Group, RelaxConfig, UncheckedWarning, plan, project, relaxed, relaxify
from relaxify.relaxation.attach import say_unchecked
from relaxify.relaxation.terms.term import terms_of

CONFIGS = pytest.mark.parametrize("config", [RelaxConfig(theta=0.7), RelaxConfig(theta=0.7, rank=3)], ids=["dense", "rank"])
TERM_KEYS = [(None, ["weight", "theta", "_extra_state"]), (3, ["up", "down", "theta", "_extra_state"])]


def base_keys(model: nn.Module) -> list[str]:
    return [key for key in model.state_dict() if "relaxation" not in key]


@WITH_CNN
def test_same_object_class_parameters_and_keys(make: Make) -> None:
    model, group, _ = make()
    kind, keys, parameters = type(model), list(model.state_dict()), dict(model.named_parameters())
    assert relaxify(model, group) is model
    assert type(model) is kind
    assert base_keys(model) == keys
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in parameters.items())


@NETWORKS
@CONFIGS
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_starts_bit_equal_to_the_base_model(make: Make, config: RelaxConfig, training: bool) -> None:
    """Outputs and the gradients of inputs and of base parameters, whatever theta is."""
    model, group, (x, *rest) = make()
    base = copy.deepcopy(model).train(training)
    relaxify(model.train(training), group, config=config)
    assert all(not term.matrix.any() for term in terms_of(model).values())
    outputs, gradients = [], []
    for net in (base, model):
        own = x.clone().requires_grad_()
        outputs.append(run(net, (own, *rest)))
        outputs[-1].square().sum().backward()
        gradients.append([own.grad, *(net.get_parameter(name).grad for name, _ in base.named_parameters())])
    assert torch.equal(*outputs)
    for ours, expected in zip(*gradients, strict=True):
        assert (ours is None and expected is None) or torch.equal(ours, expected)


@WITH_CNN
def test_terms_do_something_once_trained(make: Make) -> None:
    model, group, batch = make()
    base = copy.deepcopy(relaxify(model, group))
    train(model, batch)
    assert all(path.startswith("pool") or term.matrix.any() for path, term in terms_of(model).items())
    base.load_state_dict({key: value for key, value in model.state_dict().items() if "relaxation" not in key})
    assert not torch.allclose(run(model, batch), run(base, batch), atol=1e-4)


@NETWORKS
@CONFIGS
def test_a_base_checkpoint_loads_strictly_and_means_that_w_is_zero(make: Make, config: RelaxConfig) -> None:
    model, group, batch = make()
    base = copy.deepcopy(model)
    train(relaxify(model, group, config=config), batch)
    assert model.load_state_dict(base.state_dict(), strict=True) == ([], [])
    assert all(not term.matrix.any() for term in terms_of(model).values())
    assert torch.equal(run(model, batch), run(base, batch))


@WITH_CNN
@CONFIGS
def test_a_relaxed_checkpoint_loads_strictly_with_w_and_theta(make: Make, config: RelaxConfig) -> None:
    model, group, batch = make()
    other = relaxify(copy.deepcopy(model), group, config=config)
    train(relaxify(model, group, config=config), batch, theta=0.25)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert other.load_state_dict(torch.load(file, weights_only=True), strict=True) == ([], [])
    assert {float(term.theta) for term in terms_of(other).values()} == {0.25}
    assert torch.equal(run(other, batch), run(model, batch))


@pytest.mark.parametrize(("rank", "key"), [(rank, key) for rank, keys in TERM_KEYS for key in keys])
def test_a_checkpoint_with_half_a_term_is_an_error(rank: int | None, key: str) -> None:
    model = relaxify(e3nn_net()[0], "O(3)", config=RelaxConfig(rank=rank))
    state = model.state_dict()
    del state[f"first.relaxation.{key}"]
    with pytest.raises(RuntimeError, match=f'Missing key.*"first.relaxation.{key}"'):
        model.load_state_dict(state)


@pytest.mark.parametrize(
    ("saved", "loaded", "parts"),
    [
        (("SO(3)", RelaxConfig()), ("O(3)", RelaxConfig()), ["'first'", "group SO(3)", "has O(3)"]),
        (("O(3)", RelaxConfig(rank=2)), ("O(3)", RelaxConfig()), ["'first'", "weight_keys up+down", "has weight"]),
    ],
)
def test_a_checkpoint_of_another_relaxation_is_an_error(saved: tuple, loaded: tuple, parts: list[str]) -> None:
    state = relaxify(e3nn_net()[0], saved[0], config=saved[1]).state_dict()
    with pytest.raises(ValueError, match="relax the model as it was") as error:
        relaxify(e3nn_net()[0], loaded[0], config=loaded[1]).load_state_dict(state)
    assert all(part in str(error.value) for part in parts)


@NETWORKS
def test_an_optimiser_made_before_goes_on_training_the_base_parameters(make: Make) -> None:
    """Its first step is that of the base model, for W is still zero; the terms are not in it."""
    model, group, batch = make()
    base = copy.deepcopy(model)
    before = copy.deepcopy(model)
    optimizers = [torch.optim.Adam(net.parameters(), 1e-2) for net in (base, model)]
    relaxify(model, group, config=RelaxConfig(theta=1.0))
    for net, optimizer in zip((base, model), optimizers, strict=True):
        run(net, batch).square().mean().backward()
        optimizer.step()
    for name, parameter in base.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)
        assert parameter.grad is None or not torch.equal(parameter, before.get_parameter(name))
    assert all(not term.matrix.any() for term in terms_of(model).values())


def test_relaxing_again_in_the_same_way_does_nothing() -> None:
    model, group, batch = e3nn_net()
    train(relaxify(model, group, config=RelaxConfig(rank=2)), batch)
    before = anatomy(model)
    assert relaxify(model, Group.parse("o_3"), config=RelaxConfig(rank=2)) is model
    assert anatomy(model) == before


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"config": RelaxConfig(rank=3)}, ["'first'", "relaxed before with O(3)", "RelaxConfig(weight=0.01"]),
        ({"overrides": {"last": RelaxConfig(rank=3)}}, ["'last'", "relaxed before with O(3)"]),
        ({"group": "SO(3)"}, ["'first'", "relaxed before with O(3)"]),
        ({"keep_relaxed": True}, ["'first'", "keep_relaxed=False"]),
        ({"exclude": ["last"]}, ["'last'", "relaxed before but not now"]),
    ],
)
def test_relaxing_again_in_another_way_is_an_error(change: dict, parts: list[str]) -> None:
    model = relaxify(e3nn_net()[0], "O(3)")
    before = anatomy(model)
    with pytest.raises(ValueError, match="already relaxed in another way") as error:
        relaxify(model, **{"group": "O(3)", **change})
    assert all(part in str(error.value) for part in [*parts, "project(model) it first"])
    assert anatomy(model) == before


def test_relaxing_more_of_a_relaxed_model_is_an_error() -> None:
    model = relaxify(e3nn_net()[0], "O(3)", include=["first"])
    with pytest.raises(ValueError, match="'product' was not relaxed before but now"):
        relaxify(model, "O(3)")


def test_a_projected_model_can_be_relaxed_again() -> None:
    model, group, batch = e3nn_net()
    train(relaxify(model, group), batch)
    clean = project(model)
    again = relaxify(copy.deepcopy(clean), group, config=RelaxConfig(rank=2))
    assert torch.equal(run(again, batch), run(clean, batch))


@pytest.mark.parametrize("inplace", [False, True])
def test_the_users_hooks_stay_and_keep_their_order(inplace: bool) -> None:
    model, group, batch = e3nn_net()
    calls: list[str] = []

    def log(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, args, output: calls.append(name)

    model.first.register_forward_pre_hook(lambda module, args: calls.append("pre"))
    model.first.register_forward_hook(log("one"))
    relaxify(model, group)
    model.first.register_forward_hook(log("two"))
    model.first.register_forward_hook(log("zero"), prepend=True)
    randomise_terms(model)
    clean = project(model, inplace=inplace)
    for net in {model, clean}:
        calls.clear()
        net(*batch)
        assert calls == ["pre", "zero", "one", "two"]
    assert len(clean.first._forward_hooks) == 3


def test_a_hook_set_before_sees_the_equivariant_output_and_one_set_after_the_relaxed() -> None:
    model, group, batch = e3nn_net()
    seen: list[Tensor] = []
    model.last.register_forward_hook(lambda module, args, output: seen.append(output))
    relaxify(model, group)
    model.last.register_forward_hook(lambda module, args, output: seen.append(output))
    randomise_terms(model)
    out = model(*batch)
    assert torch.equal(seen[1], out)
    assert not torch.allclose(seen[0], out)


def through_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save])


@WITH_CNN
@COPIES
@CONFIGS
def test_copies_of_a_relaxed_model_compute_the_same(make: Make, duplicate: Callable, config: RelaxConfig) -> None:
    model, group, batch = make()
    train(relaxify(model, group, config=config), batch)
    twin = duplicate(model)
    assert torch.equal(run(twin, batch), run(model, batch))
    assert twin.state_dict().keys() == model.state_dict().keys()


@WITH_CNN
@COPIES
def test_copies_of_a_relaxed_model_are_independent(make: Make, duplicate: Callable) -> None:
    """Each hook acts through its own model's term, theta and sketch."""
    model, group, batch = make()
    train(relaxify(model, group), batch)
    twin, expected, before = duplicate(model), run(model, batch), anatomy(model)
    seen = [term.sketch.seen for term in terms_of(model).values()]
    train(twin, batch, steps=2, theta=1.0)
    with relaxed(twin.eval()):
        run(twin, batch)
    assert anatomy(model) == before
    assert [term.sketch.seen for term in terms_of(model).values()] == seen
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    assert torch.equal(run(model.train(), batch), expected)


class InPlaceNeighbours(nn.Module):
    """Changes in place what a layer returned, and what it was given after that."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y += x
        y.narrow(-1, 0, 2).add_(1.0).mul_(2.0)
        return y


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_layer_outputs_may_be_changed_in_place(training: bool) -> None:
    model = InPlaceNeighbours(o3.Linear("4x0e+3x1o", "4x0e+3x1o")).train(training)
    base = copy.deepcopy(model)
    relaxify(model, "O(3)", config=RelaxConfig(theta=1.0))
    x = torch.randn(5, 13)
    outputs = [net(x) for net in (base, model)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    assert torch.equal(base.layer.weight.grad, model.layer.weight.grad)


def test_the_relaxed_output_is_a_fresh_tensor() -> None:
    """What others kept of the layer's own output does not change with it."""
    model, group, batch = vn_net()
    kept: list[Tensor] = []
    model.head.map_to_feat.register_forward_hook(lambda module, args, output: kept.append(output))
    relaxify(model, group)
    model(*batch).detach().zero_()
    assert kept[0].any()


ERRORS = {
    "unknown group": {"group": "SU(3)"},
    "no such layer": {"exclude": ["nowhere"]},
    "bad override": {"overrides": {"nowhere": RelaxConfig()}},
    "every layer excluded": {"exclude": ["*"]},
    "a group of other vectors": {"group": "SO(2)"},
}


@NETWORKS
@pytest.mark.parametrize("problem", ERRORS)
def test_an_error_leaves_the_model_as_it_was(make: Make, problem: str) -> None:
    model, group, _ = make()
    before, rng = anatomy(model), torch.get_rng_state()
    with pytest.raises(ValueError, match=r"."):
        relaxify(model, **{"group": group, **ERRORS[problem]})
    assert anatomy(model) == before
    assert torch.equal(torch.get_rng_state(), rng)


def test_an_error_at_the_last_layer_leaves_the_first_as_they_were() -> None:
    model, group, _ = e3nn_net()
    model.last.relaxation = nn.Identity()
    before = anatomy(model)
    with pytest.raises(ValueError, match="'last' already has an attribute named 'relaxation'"):
        relaxify(model, group)
    assert anatomy(model) == before


def test_a_model_without_example_inputs_is_said_not_to_be_checked() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, stride=2), nn.Flatten(), nn.Linear(64, 1))
    say_unchecked.cache_clear()
    with pytest.warns(UncheckedWarning, match=r"whole model not checked.*pass example_inputs"):
        relaxify(model, "C(4)", include=["0"])
    assert "whole model not checked" in str(plan(model, "C(4)"))


def test_a_model_with_example_inputs_is_checked_without_a_word() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False)), torch.randn(16, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relaxify(model, "SO(3)", example_inputs=x)
    assert "not checked" not in str(plan(model, "SO(3)", example_inputs=x))


def test_it_is_said_once_in_a_process() -> None:
    model = "relaxify(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3)), 'C(4)')"
    program = f"import torch\nfrom relaxify import relaxify\n{model}\n{model}\n"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr.count("whole model not checked") == 1
    # the line of the user's that made the call
    assert "<string>:3: UncheckedWarning" in result.stderr
