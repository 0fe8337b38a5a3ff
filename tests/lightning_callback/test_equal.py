"""A fit with `Relaxation` is the training by hand, to the last bit, in each of Lightning's ways to train."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning_callback.tasks import (
    BATCHES,
    GROUP,
    RATE,
    STEPS,
    Task,
    Two,
    assert_equal,
    by_hand,
    loader,
    loss_of,
    net,
    relaxed_net,
    trained,
    trainer,
)
from networks import unchecked
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from relaxify import ACE, RECM, RPP, Cosine, penalty, project, relaxify
from relaxify.lightning import Relaxation
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.terms.term import terms_of

pytestmark = pytest.mark.filterwarnings("ignore")


def fitted(folder: Path, task: Any, *callbacks: Any, relaxation: Relaxation | None = None, **options: Any) -> Relaxation:
    relaxation = relaxation or Relaxation(GROUP, at="net")
    with unchecked():
        trainer(folder, *callbacks, relaxation, **options).fit(task, loader())
    return relaxation


@pytest.mark.parametrize(
    ("options", "by_hand"),
    [
        ({}, {}),
        ({"accumulate_grad_batches": 3}, {"accumulate": 3}),
        ({"gradient_clip_val": 0.05}, {"clip": 0.05}),
        ({"precision": "bf16-mixed"}, {"precise": False}),
    ],
    ids=["plain", "accumulation", "clipping", "bf16"],
)
def test_trainers(options: dict[str, Any], by_hand: dict[str, Any], tmp_path: Path) -> None:
    task = Task()
    relaxation = fitted(tmp_path, task, **options)
    assert_equal(task.net, project(trained(relaxed_net(), **by_hand)))
    assert relaxation.steps == STEPS // by_hand.get("accumulate", 1)
    assert not {"training_step", "load_state_dict"} & vars(task).keys()


@pytest.mark.parametrize("make", [Cosine, ACE, partial(RECM, every=2), lambda model, steps: RPP(model, 1e-2, 1e-5)])
def test_controllers(make: Callable[..., Any], tmp_path: Path) -> None:
    task = Task()
    fitted(tmp_path, task, relaxation=Relaxation(GROUP, controller=make))
    assert_equal(task.net, project(trained(relaxed_net(), make=make)))


class Compiled(Task):
    def __init__(self, way: str) -> None:
        super().__init__()
        if way == "net":
            self.net = torch.compile(self.net, backend="eager")  # type: ignore[assignment]
        if way == "in place":
            self.net.compile(backend="eager")


@pytest.mark.parametrize("way", ["net", "in place", "module"])
def test_compiled(way: str, tmp_path: Path) -> None:
    """Also where the model was compiled before it is relaxed."""
    task = Compiled(way)
    fitted(tmp_path, torch.compile(task, backend="eager") if way == "module" else task)
    with unchecked():
        model = relaxed_net()
        trained(torch.compile(model, backend="eager"))  # type: ignore[arg-type]
    plain = getattr(task.net, "_orig_mod", task.net)
    assert_equal(plain, project(model))


def test_two_processes(tmp_path: Path) -> None:
    """strategy="ddp" over gloo, with a schedule and with ACE."""
    script = Path(__file__).with_name("replica.py")
    tests = script.parents[1]
    places = (str(tests), str(tests.parent / "examples"), os.environ.get("PYTHONPATH"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, str(script), str(tmp_path / "out")]
    run = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    assert [(tmp_path / f"out.{rank}").read_text() for rank in range(2)] == ["", ""]


@pytest.mark.parametrize("comes_first", [True, False])
def test_exponential_average(comes_first: bool, tmp_path: Path) -> None:
    """theta is not averaged; what is saved and validated after the fit is the plain average."""
    task, average = Task(), EMAWeightAveraging(decay=0.9)
    callbacks = [Relaxation(GROUP), average][:: -1 if comes_first else 1]
    fit = trainer(tmp_path, *callbacks)
    with unchecked():
        fit.fit(task, loader())
        model = relaxed_net()
        expected = AveragedModel(model, use_buffers=True, avg_fn=get_ema_avg_fn(0.9))
        trained(model, average=expected)
        fit.save_checkpoint(tmp_path / "final.ckpt")
        fit.validate(task, loader(), verbose=False)
    assert_equal(task.net, project(expected.module))
    saved = torch.load(tmp_path / "final.ckpt", weights_only=True)["state_dict"]
    assert list(saved) == list(Task().state_dict())


def swa() -> StochasticWeightAveraging:
    return StochasticWeightAveraging(RATE, swa_epoch_start=2, annealing_epochs=1)


def test_stochastic_average(tmp_path: Path) -> None:
    """The mean of what the weights are when the second and the third epoch begin."""
    task = Task()
    rates: list[float] = []
    task.on_train_batch_start = lambda *_: rates.append(task.optimizers().param_groups[0]["lr"])
    fitted(tmp_path, task, swa(), max_epochs=3)
    model = relaxed_net()
    average = AveragedModel(model, avg_fn=StochasticWeightAveraging.avg_fn)
    for step, optimizer in by_hand(model, epochs=3):
        optimizer.param_groups[0]["lr"] = [*rates, 0.0][step]
        if step in (BATCHES, 2 * BATCHES):
            average.update_parameters(model)
    assert_equal(task.net, project(average.module))


def test_an_epoch_for_batch_statistics_is_not_counted(tmp_path: Path) -> None:
    task = Task()
    task.norm = nn.BatchNorm1d(1)
    relaxation = fitted(tmp_path, task, swa(), max_epochs=3)
    assert relaxation.controller is not None
    assert relaxation.controller.state_dict()["total_steps"] == 3 * BATCHES


class ByItself(Task):
    """Manual optimization of two optimizers: a critic's loss does not depend on the terms."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(5, 5)

    def training_step(self, batch: Tensor, index: int) -> None:
        for optimizer, sees in zip(self.optimizers(), (True, False), strict=True):
            loss = self.loss(self.net, batch, sees)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def loss(self, model: nn.Module, x: Tensor, sees: bool) -> Tensor:
        v = model(x)
        return (self.critic(v if sees else v.detach()) - 1).square().mean()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), RATE) for part in (self.net, self.critic)]


def test_manual_optimization(tmp_path: Path) -> None:
    task, expected = ByItself(), ByItself()
    expected.critic.load_state_dict(task.critic.state_dict())
    relaxation = fitted(tmp_path, task)
    with unchecked():
        model = relaxify(expected.net, GROUP)
        optimizers = expected.configure_optimizers()
        theta = relaxation.make_controller(model, STEPS)
        for _ in range(STEPS // BATCHES):
            for x in loader():
                for optimizer, sees in zip(optimizers, (True, False), strict=True):
                    loss = expected.loss(model, x, sees)
                    optimizer.zero_grad()
                    (loss + penalty(model, relative_to=loss) if sees else loss).backward()
                    optimizer.step()
                theta.step()
    assert_equal(task.net, project(model))
    assert_equal(task.critic, expected.critic)
    assert relaxation.steps == STEPS


class WithDictionaries(Task):
    """Returns a dictionary, or nothing for some batches, which are then left out."""

    def __init__(self, left_out: tuple[int, ...]) -> None:
        super().__init__()
        self.left_out = left_out

    def training_step(self, batch: Tensor, index: int) -> Any:
        loss = super().training_step(batch, index)
        return None if index in self.left_out else {"loss": loss, "index": index}


def test_what_training_step_returns(tmp_path: Path) -> None:
    whole, partial = WithDictionaries(()), WithDictionaries((0,))
    for task in (whole, partial):
        seen: list[Any] = []
        task.on_train_batch_end = lambda outputs, *_, seen=seen: seen.append(outputs)
        assert fitted(tmp_path, task).steps == STEPS
        assert not terms_of(task)
        left_out = len(task.left_out)
        assert [output and output["index"] for output in seen[:BATCHES]] == [{}][:left_out] + list(range(left_out, BATCHES))
    assert_equal(whole.net, project(trained(relaxed_net())))


class NeverSays(Task):
    """Manual optimization past manual_backward."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, index: int) -> None:
        loss_of(self.net, batch).backward()
        self.optimizers().step()


def test_a_loss_that_is_not_seen_is_told(tmp_path: Path) -> None:
    with pytest.warns(PitfallWarning, match=r"no loss of this training had a penalty .* call self.manual_backward\(loss\)"):
        fitted(tmp_path, NeverSays())


def test_optimizers_made_before(tmp_path: Path) -> None:
    """Of a list of parameters, with names or without: the terms join their layers' weights."""
    for named in (False, True):
        task = Task()
        parameters = list(task.named_parameters() if named else task.parameters())
        made = torch.optim.Adam(parameters, RATE)
        task.configure_optimizers = lambda made=made: made
        fitted(tmp_path, task)
        assert_equal(task.net, project(trained(relaxed_net())))
        (group,) = made.param_groups
        assert group["params"] == list(task.parameters())
        assert group.get("param_names", []) == (list(dict(task.named_parameters())) if named else [])


def test_layers_that_are_not_trained_are_named(tmp_path: Path) -> None:
    task = Task()
    task.configure_optimizers = lambda: torch.optim.Adam(task.net.second.parameters(), RATE)
    with pytest.warns(PitfallWarning, match="no optimizer holds the weights of 'first.map_to_feat'"):
        fitted(tmp_path, task)
    assert torch.equal(task.net.first.map_to_feat.weight, net().first.map_to_feat.weight)


class Late(Task):
    """Has no model before it is set up."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        del self.net
        setattr(self, hook, self.make)

    def make(self, stage: str = "") -> None:
        self.net = net()


def test_a_model_that_is_made_late(tmp_path: Path) -> None:
    class InSetup(Late):
        def setup(self, stage: str) -> None: ...

    class InConfigureModel(Late):
        def configure_model(self) -> None: ...

    for task in (InSetup("setup"), InConfigureModel("configure_model")):
        fitted(tmp_path, task)
        assert_equal(task.net, project(trained(relaxed_net())))


class FSDPStrategy(SingleDeviceStrategy):
    """Of the name of one that shards."""


def test_sharding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot train with FSDPStrategy, which shards the parameters"):
        fitted(tmp_path, Task(), strategy=FSDPStrategy())


def test_parts(tmp_path: Path) -> None:
    """Without `at`, the only part that can be relaxed, or the whole."""
    alone, several = Task(), Two()
    alone.head = nn.Linear(5, 5)
    for task, expected in ((alone, alone.net), (several, several)):
        relaxation = Relaxation(GROUP, project_at_end=False)
        fitted(tmp_path, task, relaxation=relaxation)
        assert relaxation.model is expected
    for at, words in (("nett", "no module 'nett'"), (None, "no part that can be relaxed among 'a', 'b'")):
        task = Task()
        task.net = nn.ModuleDict({"net": net()}) if at else net()
        if at is None:
            del task.net
            task.a, task.b = nn.Linear(5, 5), nn.Linear(5, 5)
        with pytest.raises(ValueError, match=words):
            fitted(tmp_path, task, relaxation=Relaxation(GROUP, at=at))
