"""A copy of a model is the model to the last bit, whatever it keeps, and shares nothing that a forward pass changes."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from relaxify import penalty, plan, project, relaxify
from relaxify.modules.copies import copied
from relaxify.modules.hanging import probe

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
DEFAULTS = [1.0]


def scaled(v: Tensor) -> Tensor:
    return v * DEFAULTS[0]


class Gated(nn.Module):
    """Vectors times a gate; what it `keeps` of a pass, and what it holds, differ by the way."""

    def __init__(self, prepare: Callable[[Gated], object] = id) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.gate = nn.Linear(1, 4, bias=False), nn.Linear(4, 4)
        self.act: Callable[[Tensor], Tensor] = torch.sigmoid
        self.keep: Callable[[Gated, Tensor], object] = Gated.nothing
        prepare(self)

    def nothing(self, value: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        v = self.mix(x.unsqueeze(-1))
        gate = self.act(self.gate(v.norm(dim=1)))
        self.keep(self, gate)
        return v * gate[:, None]


def activation(model: Gated) -> None:
    model.keep = keep_activation


def keep_activation(model: Gated, gate: Tensor) -> None:
    model.kept = gate


def activations_in_containers(model: Gated) -> None:
    model.seen, model.last = [], {}
    model.keep = keep_in_containers


def keep_in_containers(model: Gated, gate: Tensor) -> None:
    model.seen.append((gate, {"sum": gate.sum()}))
    model.last["gate"] = gate


def buffer_with_a_history(model: Gated) -> None:
    model.register_buffer("average", torch.zeros(4))
    model.keep = average_in_place


def average_in_place(model: Gated, gate: Tensor) -> None:
    model.average.mul_(0.5).add_(gate.mean(0))


def lock(model: Gated) -> None:
    model.lock, model.event = threading.RLock(), threading.Event()


def reference_to_a_module_of_python(model: Gated) -> None:
    model.functions = torch.nn.functional


def generators(model: Gated) -> None:
    model.random, model.values = torch.Generator().manual_seed(3), (number for number in range(3))


def log(model: Gated) -> None:
    model.log = io.StringIO()


def weak_references(model: Gated) -> None:
    model.owner = weakref.ref(model)
    model.keep = keep_by_owner


def keep_by_owner(model: Gated, gate: Tensor) -> None:
    model.owner().kept = gate


def closure_over_the_model(model: Gated) -> None:
    model.act = lambda h: torch.sigmoid(h + model.gate.bias)


def patched_forward(model: Gated) -> None:
    forward = model.forward
    model.forward = lambda x: 2 * forward(x)


def hook_that_holds_the_model(model: Gated) -> None:
    model.mix.register_forward_hook(lambda module, args, output: output * model.gate.bias.norm())


def function_with_a_global(model: Gated) -> None:
    model.act = scaled


WAYS = [
    activation, activations_in_containers, buffer_with_a_history, lock, reference_to_a_module_of_python, generators, log,
    weak_references, closure_over_the_model, patched_forward, hook_that_holds_the_model, function_with_a_global,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_relaxed_model_is_projected_after_steps_of_training(way: Callable[[Gated], object]) -> None:
    model = relaxify(Gated(way), "SO(3)", example_inputs=(X,))
    (model(X).square().mean() + penalty(model)).backward()
    clean = project(model)
    assert not hasattr(clean.mix, "relaxation")
    assert not clean.mix._forward_hooks or way is hook_that_holds_the_model
    expected = model.eval()(X)
    assert torch.equal(clean.eval()(X), expected)
    # trained on, they go different ways
    with torch.no_grad():
        for parameter in clean.parameters():
            parameter.add_(1)
    assert torch.equal(model(X), expected)
    assert not torch.equal(clean(X), expected)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_that_changes_is_shared(way: Callable[[Gated], object]) -> None:
    model = Gated(way)
    model(X)
    twin = copied(model)
    shared = {id(value) for value in (*model.parameters(), *model.buffers(), *model.modules())}
    assert not shared & {id(value) for value in (*twin.parameters(), *twin.buffers(), *twin.modules())}
    for name in ("kept", "seen", "last", "lock", "event", "random"):
        if hasattr(model, name):
            assert getattr(twin, name) is not getattr(model, name)
    for key, value in model.state_dict().items():
        assert torch.equal(twin.state_dict()[key], value)
        assert twin.state_dict()[key].data_ptr() != value.data_ptr()
    twin(X).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_a_probe_computes_the_same_in_float64(way: Callable[[Gated], object]) -> None:
    model = Gated(way)
    if way is hook_that_holds_the_model:
        return
    before = model(X)
    torch.testing.assert_close(probe(model)(X.double()).float(), before)


def test_weak_references_lead_to_the_copy() -> None:
    model = Gated(weak_references)
    twin = copied(nn.Sequential(model))[0]
    assert twin.owner() is twin
    other = nn.Linear(1, 1)
    model.other = weakref.ref(other)
    assert copied(model).other() is other


def test_what_is_kept_of_a_pass_has_no_history() -> None:
    model = Gated(buffer_with_a_history)
    model(X)
    twin = copied(model)
    assert model.average.requires_grad
    assert not twin.average.requires_grad
    assert torch.equal(twin.average, model.average)


@pytest.mark.parametrize("way", [activation, function_with_a_global, weak_references])
def test_a_copy_pickles_where_the_model_does(way: Callable[[Gated], object]) -> None:
    twin = copied(Gated(way))
    assert twin.act is not scaled or way is function_with_a_global
    if way is not weak_references:
        # torch keeps no history in pickles either
        assert torch.equal(pickle.loads(pickle.dumps(twin))(X), Gated(way)(X))
    if way is activation:
        assert torch.equal(copy.deepcopy(twin)(X), Gated(way)(X))


def test_the_users_files_stay_open_and_take_what_copies_write(tmp_path) -> None:
    model = Gated()
    with (tmp_path / "log").open("w") as model.log:
        copied(model).log.write("written")
    assert (tmp_path / "log").read_text() == "written"


def test_what_cannot_be_copied_is_told_by_the_forward_that_uses_it() -> None:
    model = Gated(generators)
    model.keep = lambda model, gate: next(model.values)
    twin = copied(model)
    with pytest.raises(RuntimeError, match="is a generator, which cannot be copied, and forward uses it"):
        twin(X)
    assert next(model.values) == 0


class Uncopyable:
    def __init__(self) -> None:
        self.own = 1

    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("no copies")


def test_what_refuses_to_be_copied_is_named() -> None:
    model = Gated()
    model.own = Uncopyable()
    with pytest.raises(ValueError, match=r"the model cannot be copied \(TypeError: no copies\)"):
        copied(model)
    with pytest.raises(ValueError, match="cannot be copied"):
        plan(model, "SO(3)", example_inputs=(X,))
