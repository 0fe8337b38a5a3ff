"""What is judged is the model as it is, and nothing of the user's is run or changed."""

from __future__ import annotations

import copy
import functools
import random
import threading
import types

import numpy as np
import pytest
import torch
from measuring.models import Mix, Of, points
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from relaxify import relaxify, set_theta
from relaxify.graph.precision import widened
from relaxify.modules.copies import copied, duplicate
from relaxify.verdicts.measuring import measure
from relaxify.verdicts.state import seeded
from relaxify.verdicts.twin import Twin
from relaxify.verdicts.verdict import Reason, Status

X = points()


def sound(model: nn.Module, **options) -> bool:
    return measure(model, "SO(3)", (X,), **options).is_sound


# a script's own names, at module level
net = Mix()
plain_forward = net.forward


def with_hook() -> nn.Module:
    model = Mix()
    model.register_forward_hook(lambda module, args, output: torch.relu(output))
    return model


def with_pre_hook() -> nn.Module:
    model = Mix()
    model.mix.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return model


def with_closure() -> nn.Module:
    model = Mix()
    before = model.forward
    model.forward = lambda x: torch.relu(before(x))
    return model


def with_global() -> nn.Module:
    net.forward = lambda x: torch.relu(plain_forward(x))
    return net


def with_method() -> nn.Module:
    model = Mix()
    model.forward = types.MethodType(lambda self, x: torch.relu(Mix.forward(self, x)), model)
    return model


def with_partial() -> nn.Module:
    model = Mix()
    model.forward = functools.partial(lambda module, x: torch.relu(Mix.forward(module, x)), model)
    return model


@pytest.mark.parametrize("make", [with_hook, with_pre_hook, with_closure, with_global, with_method, with_partial])
def test_hooks_and_patched_forwards_are_part_of_the_model(make) -> None:
    verdict = measure(make(), "SO(3)", (X,))
    # the original would run in float32 alone
    assert (verdict.status, verdict.precision) == (Status.BROKEN, torch.float64)


def test_a_patched_forward_runs_the_copy() -> None:
    model, calls = Mix(), []
    before = model.forward

    def counted(x: Tensor) -> Tensor:
        calls.append(1)
        return before(x)

    model.forward = counted
    assert sound(model)
    assert calls == []


WRAPPED = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "weight_norm, parametrised": parametrizations.weight_norm,
    "spectral_norm, parametrised": parametrizations.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_parametrisations_stay(name: str, training: bool) -> None:
    model = Mix()
    model.mix = WRAPPED[name](model.mix)
    expected = copy.deepcopy(model.state_dict())
    assert sound(model, training=training)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    model.then = torch.relu
    assert not sound(model, training=training)


class Keeping(nn.Module):
    """Keeps what it computes, counts its calls, writes its buffers and holds what Python does not copy."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.gate = nn.Linear(1, 4, bias=False), nn.Linear(4, 4)
        self.register_buffer("average", torch.ones(4))
        self.calls, self.seen, self.lock, self.stream = 0, [], threading.Lock(), iter(lambda: 0, 1)
        self.values = (value for value in range(3))
        self.random = torch.Generator()
        self.module = threading

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.calls += 1
            self.average.mul_(0.9)
            v = self.mix(x.unsqueeze(-1))
            self.attention = self.gate(v.norm(dim=1)).sigmoid()
            self.seen.append(self.attention)
            noise = np.random.rand() * random.random() * torch.rand(()) * torch.rand(1, generator=self.random)  # noqa: NPY002
            return v * self.attention[:, None] * self.average * self.calls * noise


def test_nothing_of_the_users_changes() -> None:
    model = Keeping()
    model(X)
    attention, stream = model.attention, model.random.get_state()
    x = X.clone()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    # the same random numbers in each run, or it would not be the same twice
    assert sound(model, training=True)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert (model.calls, len(model.seen), model.attention is attention) == (1, 1, True)
    assert torch.equal(model.average, torch.full((4,), 0.9))
    assert torch.equal(model.random.get_state(), stream)
    assert torch.equal(X, x)
    assert torch.get_default_dtype() == torch.float32


def test_every_random_stream_is_put_back() -> None:
    before = random.getstate()
    with seeded():
        drawn = random.random(), float(torch.rand(())), np.random.rand()  # noqa: NPY002
    assert random.getstate() == before
    with seeded():
        assert (random.random(), float(torch.rand(())), np.random.rand()) == drawn  # noqa: NPY002


def test_every_run_starts_from_the_same_state() -> None:
    twin = Twin(Keeping())
    inputs = twin.inputs((X,))
    assert torch.equal(twin.run(inputs), twin.run(inputs))


def test_what_cannot_be_copied_is_told_in_one_sentence() -> None:
    model = Keeping()
    model.mix.register_forward_hook(lambda module, args, output: output * next(model.values))
    with pytest.raises(ValueError, match="is a generator, which cannot be copied, and forward uses it"):
        measure(model, "SO(3)", (X,))


def test_an_action_may_assign_to_the_data_that_it_is_given() -> None:
    from torch_geometric.data import Data

    def act(g: Tensor, inputs):
        (data,) = inputs
        data.pos = data.pos @ g.mT
        return (data,)

    data = Data(pos=points(9))
    before = data.pos.clone()
    assert measure(Of(lambda data: data.pos.norm(dim=1)), "SO(3)", (data,), input_action=act).is_sound
    assert torch.equal(data.pos, before)


def test_complex_parameters_keep_their_imaginary_part() -> None:
    class Complex(Mix):
        def __init__(self, part) -> None:
            super().__init__()
            self.phase, self.part = nn.Parameter(torch.randn(4, dtype=torch.cfloat)), part

        def forward(self, x: Tensor) -> Tensor:
            return self.part(super().forward(x) * self.phase)

    assert sound(Complex(lambda z: z))
    assert sound(Complex(lambda z: z.imag))
    assert not sound(Complex(lambda z: torch.relu(z.imag) + z.real))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_precision_is_measured_in_float64_and_told_in_its_own(dtype: torch.dtype) -> None:
    verdict = measure(Mix().to(dtype), "SO(3)", (X.to(dtype),), input_action=lambda g, inputs: (inputs[0] @ g.mT,))
    assert (verdict.is_sound, verdict.precision) == (True, torch.float64)
    assert verdict.error.largest < 1e-14
    if dtype is torch.float64:
        assert verdict.own is None
    else:
        eps = torch.finfo(dtype).eps
        assert verdict.own.precision is dtype
        assert eps / 50 < verdict.own.rounding < verdict.own.error.largest < 2 * eps


@pytest.mark.parametrize(("dtype", "power"), [(torch.float32, 40), (torch.bfloat16, 40), (torch.float16, 6)])
@pytest.mark.parametrize("own", [True, False])
def test_what_overflows_in_the_models_own_precision_alone_is_not_sound(dtype: torch.dtype, power: int, own: bool) -> None:
    def softmax_by_hand(v: torch.Tensor) -> torch.Tensor:
        weights = (10 * v.square().sum(-2, keepdim=True)).pow(power)
        return v * weights / weights.sum(0, keepdim=True)

    def act(g: torch.Tensor, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0] @ g.mT,)

    model = Mix(then=softmax_by_hand)
    nn.init.ones_(model.mix.weight)
    verdict = measure(model.to(dtype), "SO(3)", (X.to(dtype),), input_action=act, own=own)
    assert (verdict.status, verdict.reason) == (Status.UNDECIDED, Reason.OVERFLOW)
    assert "the model's own precision" in verdict.told
    assert measure(model.double(), "SO(3)", (X.double(),), input_action=act, own=own).is_sound


def test_names_of_precisions_in_forward_do_not_matter() -> None:
    def function(x: Tensor) -> Tensor:
        weight = torch.ones(1, 4) + torch.eye(4, dtype=torch.float32)[:1] + torch.arange(4) / 3
        return (x.unsqueeze(-1).float() @ weight).to(torch.float32)

    verdict = measure(Of(function), "SO(3)", (X,))
    assert (verdict.is_sound, verdict.precision) == (True, torch.float64)
    assert verdict.error.largest < 1e-14


def test_a_model_that_runs_in_its_own_precision_alone_is_measured_in_that() -> None:
    def function(x: Tensor) -> Tensor:
        if x.dtype is not torch.float32:
            raise TypeError("float32 only")
        return x * x.norm()

    verdict = measure(Of(function), "SO(3)", (X,))
    assert (verdict.is_sound, verdict.precision) == (True, torch.float32)
    with pytest.raises(ValueError, match="does not run on the example inputs in float64"):
        measure(Of(lambda x: x @ x), "SO(3)", (X,))


def test_relaxed_models_are_judged_without_their_terms() -> None:
    model = relaxify(Mix(), "SO(3)", example_inputs=(X,))
    nn.init.normal_(model.mix.relaxation.weight)
    set_theta(model, 1.0)
    keys = set(model.state_dict())
    assert sound(model, training=True)
    assert set(model.state_dict()) == keys


@pytest.mark.parametrize("form", ["scripted", "traced", "exported"])
def test_graphs_of_every_form_are_measured(form: str) -> None:
    model = nn.Sequential(nn.Unflatten(-1, (3, 1)), nn.Linear(1, 4, bias=False))
    forms = {
        "scripted": torch.jit.script,
        "traced": fx.symbolic_trace,
        "exported": lambda m: torch.export.export(m, (X,)).module(),
    }
    assert sound(forms[form](model))
    model.append(nn.ReLU())
    assert not sound(forms[form](model))


def test_forces_by_gradients_of_the_inputs() -> None:
    def forces(x: Tensor) -> Tensor:
        energy = (x[:, None] - x[None]).square().sum(-1).add(1).log().sum()
        return torch.autograd.grad(energy, x)[0]

    x = X.clone().requires_grad_()
    with torch.no_grad():
        assert measure(Of(forces), "SO(3)", (x,)).is_sound
    assert x.grad is None
    with torch.inference_mode():
        assert sound(Mix())


class Views(nn.Module):
    """Two buffers and an attribute that are views of one storage, which forward writes to."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.ones(8)
        self.register_buffer("left", flat[:4])
        self.register_buffer("right", flat[4:])
        self.whole = flat.view(2, 4)
        self.mix = nn.Linear(1, 4, bias=False)
        self.mixed = self.mix.weight.data[:2]

    def forward(self, x: Tensor) -> Tensor:
        self.left.mul_(2)
        return self.mix(x.unsqueeze(-1)) * self.whole.sum(0)


def test_views_of_one_storage_are_views_of_one_storage_in_copies() -> None:
    model = Views()
    for twin in (duplicate(model, widened), copied(model)):
        assert torch.equal(twin.left, torch.ones(4))
        twin.left.fill_(3)
        assert torch.equal(twin.whole[0], twin.left)
        assert torch.equal(twin.right, torch.ones(4))
        twin.mix.weight.data.zero_()
        assert not twin.mixed.any()
    assert torch.equal(model.whole, torch.ones(2, 4))
    assert model.mixed.all()
    with torch.no_grad():
        assert torch.allclose(Twin(model, double=False).run((X,)), copied(model)(X))


class SharedBasis(nn.Module):
    """Expands its weights over a basis whenever its mode is set, as escnn's layers; somebody else made the basis float64."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.register_buffer("basis", torch.ones(3, 4, dtype=torch.float64))

    def train(self, mode: bool = True) -> SharedBasis:
        self.expanded = torch.einsum("bk,k->b", self.basis, self.weight)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expanded.sum()


@pytest.mark.parametrize("own", [True, False])
def test_a_model_that_only_float64_can_run_is_judged_by_that(own: bool) -> None:
    model = SharedBasis()
    with pytest.raises(RuntimeError, match="expected scalar type"):
        model.train()
    verdict = measure(model, "SO(3)", (X,), own=own)
    assert verdict.is_sound
    assert verdict.own is None
