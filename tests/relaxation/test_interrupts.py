"""A Ctrl-C at any line of relaxify leaves a training as it was, or as it is once the call has ended; never in between."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from e3nn import o3
from interrupting import MODES, Training, anatomy, fingerprint, interrupt, leave_modes, lines_of, process_state
from networks import unchecked
from torch import Tensor, nn

from relaxify import (
    ACE,
    RECM,
    RPP,
    Cosine,
    RelaxConfig,
    Triangle,
    inspect,
    penalty,
    project,
    refold,
    relaxed,
    relaxify,
    set_theta,
    summary,
)
from relaxify.inspection.monitor import QUANTITIES, Monitor
from relaxify.relaxation.terms.term import terms_of

EXACT = RelaxConfig(rows=None)


class Irreps(nn.Module):
    """A layer that is merged with its term, and one with an attribute, whose term is hooked."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = o3.Linear("2x0e+1x1o", "2x0e+1x1o")
        self.product = o3.FullyConnectedTensorProduct("2x0e+1x1o", "1x0e", "1x0e+1x1o")

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.linear(x), torch.full((len(x), 1), 0.7))


class Functional(nn.Module):
    """Two functional ops of one module, a layer between the calls, and one of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(3, 1)), nn.Parameter(torch.randn(3, 3))
        self.linear = nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        v = torch.einsum("nci,oc->noi", x.unsqueeze(1), self.first)
        v = torch.einsum("nci,oc->noi", v * torch.tanh(v.norm(dim=-1, keepdim=True)), self.second)
        return self.linear(v.mT)


def irreps() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return relaxify(Irreps(), "O(3)", config=EXACT), (torch.randn(9, 5),)


def functional() -> tuple[nn.Module, tuple[Tensor, ...]]:
    x = torch.randn(20, 3)
    rank = {"linear": RelaxConfig(rows=None, rank=1)}
    return relaxify(Functional(), "O(3)", config=EXACT, overrides=rank, example_inputs=[x]), (x,)


def images() -> tuple[nn.Module, tuple[Tensor, ...]]:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, bias=False))
    return relaxify(model, "C(4)", config=EXACT), (torch.randn(2, 1, 5, 5),)


@pytest.fixture(autouse=True)
def _as_users_have_it() -> Iterator[None]:
    """Without the test run's own checks of types, which are slow line by line."""
    with unchecked():
        yield
    leave_modes()


MODELS = {"irreps": irreps, "functional": functional, "images": images}
CONTROLLERS: dict[str, Callable[[nn.Module], Any]] = {
    "triangle": lambda model: Triangle(model, 8),
    "refold": lambda model: Cosine(model, 8, until=1, refold_every=1),
    "ace": lambda model: ACE(model, 8),
    "recm": lambda model: RECM(model, 8, every=1),
    "rpp": lambda model: RPP(model, 1e-2, 1e-5),
}


@functools.cache
def begun(model: str, controller: str) -> Training:
    """After two steps, with terms that act."""
    torch.manual_seed(0)
    net, batch = MODELS[model]()
    for term in terms_of(net).values():
        for parameter in term.parameters():
            nn.init.normal_(parameter, std=0.1)
    made = Training(net, torch.optim.Adam(net.parameters(), 1e-2), CONTROLLERS[controller](net), batch)
    for _ in range(2):
        made.step()
    # e3nn's layers list their children in another order once they were copied
    return copy.deepcopy(made)


def assert_all_or_nothing(
    model: str,
    action: Callable[[Training], Any],
    *,
    controller: str = "triangle",
    prepare: Callable[[Training], Any] = lambda training: None,
    most: int = 9,
) -> None:
    """After a Ctrl-C in an action at up to `most` lines, spread over it, the training is as before it or as after it."""
    base = copy.deepcopy(begun(model, controller))
    prepare(base)
    before, done = fingerprint(base), copy.deepcopy(base)
    lines = lines_of(lambda: action(done))
    after = fingerprint(done)
    for point in range(0, lines, max(1, lines // most)):
        training = copy.deepcopy(base)
        where = interrupt(functools.partial(action, training), point)
        found = fingerprint(training)
        leave_modes()
        changed = {key for key in before if found.get(key) != before[key]}
        assert found == after or not changed, f"at {where}: {sorted(changed)}"


EVERYWHERE = pytest.mark.parametrize("model", MODELS)


@EVERYWHERE
def test_a_step_that_is_interrupted_before_the_optimizer_has_not_been(model: str) -> None:
    """Nor does the next step differ from that of a training that was not interrupted."""
    twin = copy.deepcopy(begun(model, "triangle"))
    training, before, lines = copy.deepcopy(twin), fingerprint(twin), lines_of(copy.deepcopy(twin).backward)
    for point in range(0, lines, max(1, lines // 20)):
        where = interrupt(training.backward, point)
        training.forget()
        assert fingerprint(training) == before, where
        leave_modes()
    for net in (training, twin):
        net.step()
    assert fingerprint(training) == fingerprint(twin)


def test_no_mode_outlives_a_forward_pass_over_functional_ops() -> None:
    """At every line where modes come and go, and at some of all others, those of torch's own modes included."""
    training = copy.deepcopy(begun("functional", "triangle"))
    before, process = fingerprint(training), process_state()
    for file, most in (("interrupts.py", 10**6), ("", 40)):
        lines = lines_of(training.loss, file)
        for point in range(0, lines, max(1, lines // most)):
            where = interrupt(training.loss, point, file)
            assert process_state() == process, where
    training.forget()
    assert fingerprint(training) == before


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, KeyboardInterrupt, RuntimeError])
def test_whatever_the_model_raises_nothing_stays_behind(kind: type[BaseException]) -> None:
    training = copy.deepcopy(begun("functional", "triangle"))
    before = fingerprint(training)

    def fail(*_: Any) -> None:
        raise kind

    handle = training.model.linear.register_forward_pre_hook(fail)
    with pytest.raises(kind):
        training.loss()
    handle.remove()
    training.forget()
    assert fingerprint(training) == before


@EVERYWHERE
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_controller_has_moved_or_not(model: str, controller: str) -> None:
    assert_all_or_nothing(model, lambda t: t.theta.step(), controller=controller, prepare=Training.backward)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_controller_has_resumed_or_not(controller: str) -> None:
    later = copy.deepcopy(begun("functional", controller))
    later.step()
    saved = later.theta.state_dict()
    assert_all_or_nothing("functional", lambda t: t.theta.load_state_dict(saved), controller=controller)


@EVERYWHERE
def test_a_model_has_been_refolded_or_not(model: str) -> None:
    assert_all_or_nothing(model, lambda t: refold(t.model))


@EVERYWHERE
def test_a_model_has_been_loaded_or_not(model: str) -> None:
    later = copy.deepcopy(begun(model, "triangle"))
    later.step()
    saved = later.model.state_dict()
    assert_all_or_nothing(model, lambda t: t.model.load_state_dict(saved))


@EVERYWHERE
@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_a_model_has_been_projected_in_place_or_not(model: str, mode: Literal["drop", "fold"]) -> None:
    assert_all_or_nothing(model, lambda t: project(t.model, mode=mode, inplace=True))


@EVERYWHERE
def test_what_only_looks_changes_nothing(model: str) -> None:
    def switch(training: Training) -> None:
        with relaxed(training.model):
            pass

    for action in (
        switch,
        lambda t: penalty(t.model),
        lambda t: project(t.model, mode="fit"),
        lambda t: summary(t.model, loss=t.loss),
    ):
        assert_all_or_nothing(model, action, prepare=Training.loss, most=6)


def test_theta_is_set_everywhere_or_nowhere() -> None:
    assert_all_or_nothing("functional", lambda t: set_theta(t.model, 0.25), most=100)


def test_a_monitor_writes_no_step_twice_and_no_half_of_one(tmp_path: Path) -> None:
    training = copy.deepcopy(begun("functional", "triangle"))
    monitor = Monitor(training.model, tmp_path / "counted.csv", every=1)
    for point in range(0, lines_of(monitor.step), 20):
        file = tmp_path / f"{point}.csv"
        monitor = Monitor(training.model, file, every=1)
        interrupt(monitor.step, point)
        monitor.step()
        steps = Counter(line.split(",")[0] for line in file.read_text().splitlines()[1:])
        assert set(steps.values()) == {3 * len(QUANTITIES)} or set(steps.values()) == {3 * (len(QUANTITIES) - 1)}


def test_a_model_is_relaxed_or_not() -> None:
    """At lines of the plan, of which there are many, and at the last ones, which change the model."""
    torch.manual_seed(0)
    model, x = Functional(), torch.randn(12, 3)
    before, process, expected = anatomy(model), process_state(), model(x)

    def action() -> None:
        relaxify(model, "O(3)", example_inputs=[x])

    for _ in range(2):
        # what is kept from the first time on makes later ones shorter
        twin = copy.deepcopy(model)
        lines = lines_of(lambda: relaxify(twin, "O(3)", example_inputs=[x]))  # noqa: B023
    for point in (*range(0, lines, lines // 3), *range(lines - 200, lines, 20)):
        where = interrupt(action, point)
        assert process_state() == process, where
        # once it is relaxed, the one line left returns it
        is_done = anatomy(model) == anatomy(twin)
        assert is_done or anatomy(model) == before, where
        if is_done:
            assert point >= lines - 5, where
            break
    else:
        action()
    assert torch.equal(model(x), expected)
    assert anatomy(model) == anatomy(twin)


def test_an_interrupt_while_torch_has_a_mode_set_aside_is_one() -> None:
    """Whatever is pushed then ends one too early: an error in that must not hide the interrupt."""
    torch.manual_seed(0)
    model, x = Functional(), torch.randn(12, 3)
    before, process = anatomy(model), process_state()

    def action() -> None:
        relaxify(model, "O(3)", example_inputs=[x])

    twin = copy.deepcopy(model)
    lines = lines_of(lambda: relaxify(twin, "O(3)", example_inputs=[x]), Path(MODES).name)
    for point in range(0, lines, lines // 25):
        where = interrupt(action, point, Path(MODES).name)
        assert anatomy(model) == before, where
        assert process_state() == process, where


def test_inspecting_leaves_the_process_as_it_was() -> None:
    model, x = Functional(), torch.randn(12, 3)
    before, process = anatomy(model), process_state()
    lines = lines_of(lambda: inspect(model, "O(3)", x))
    for point in range(0, lines, lines // 4):
        where = interrupt(lambda: inspect(model, "O(3)", x), point)
        assert process_state() == process, where
        assert anatomy(model) == before, where
