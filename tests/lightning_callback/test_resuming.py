"""Fits that are interrupted, resumed, lengthened, or begin where others ended; and the checkpoints that they leave."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_callback.tasks import BATCHES, EPOCHS, GROUP, STEPS, Task, assert_equal, loader, relaxed_net, trained, trainer
from networks import unchecked
from torch import Tensor, nn
from torch.utils.data import DataLoader

from relaxify import Cosine, Triangle, project, set_theta, thetas
from relaxify.checkpoint import convert
from relaxify.lightning import Relaxation
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.terms.term import terms_of

pytestmark = pytest.mark.filterwarnings("ignore")


class Stop(Callback):
    """Sends SIGTERM to this process while it trains the batch that makes it so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step + 1 == self.steps:
            os.kill(os.getpid(), signal.SIGTERM)


class Thetas(Callback):
    """theta of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append(round(max(thetas(pl_module.net).values()), 3))


def fitted(
    folder: Path, *callbacks: Any, ckpt: Path | None = None, relaxation: Relaxation | None = None, **options: Any
) -> Any:
    task, relaxation = Task(), relaxation or Relaxation(GROUP)
    fit = trainer(folder, *callbacks, relaxation, **options)
    with unchecked():
        fit.fit(task, loader(), ckpt_path=ckpt)
    return task, fit, relaxation


def saving(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, **({"save_top_k": -1, "filename": "{step}"} | options))


@pytest.mark.parametrize("averages", [False, True])
def test_sigterm_and_resume(averages: bool, tmp_path: Path) -> None:
    average = [EMAWeightAveraging(decay=0.9) for _ in range(3 * averages)]
    expected, _, _ = fitted(tmp_path, *average[:1])
    with pytest.raises(SIGTERMException):
        fitted(tmp_path, *average[1:2], Stop(BATCHES), OnExceptionCheckpoint(tmp_path))
    task, fit, relaxation = fitted(tmp_path, *average[2:], ckpt=tmp_path / "on_exception.ckpt")
    assert fit.global_step == relaxation.steps == STEPS
    assert_equal(task.net, expected.net)
    if not averages:
        assert_equal(task.net, project(trained(relaxed_net())))


def test_an_interrupted_fit_leaves_the_module_relaxed(tmp_path: Path) -> None:
    task, relaxation = Task(), Relaxation(GROUP)
    with unchecked(), pytest.raises(SIGTERMException):
        trainer(tmp_path, Stop(4), relaxation).fit(task, loader())
    assert terms_of(task)
    assert "training_step" not in vars(task)
    with unchecked():
        trainer(tmp_path, relaxation).fit(task, loader())
    assert not terms_of(task)


def test_a_run_that_is_lengthened_goes_on_by_the_new_length_and_says_so(tmp_path: Path) -> None:
    fitted(tmp_path, saving(tmp_path))
    seen = Thetas()
    with pytest.warns(PitfallWarning, match=r"total_steps is 24, and was 12.* from here on, unless a controller with"):
        fitted(tmp_path, seen, ckpt=tmp_path / "step=12.ckpt", max_epochs=2 * EPOCHS)
    assert set(seen.seen) == {0.0}
    longer = Relaxation(GROUP, controller=partial(Triangle, until=1))
    with pytest.warns(PitfallWarning, match=r"until is 1.0, and was 0.5.*: 1 now, where it was 0, and 0 from step 24 on"):
        fitted(tmp_path, seen := Thetas(), ckpt=tmp_path / "step=12.ckpt", relaxation=longer, max_epochs=2 * EPOCHS)
    assert seen.seen == [round(1 - step / STEPS, 3) for step in range(STEPS)]


def test_a_part_that_is_named_later_goes_on(tmp_path: Path) -> None:
    fitted(tmp_path, saving(tmp_path))
    task, _, relaxation = fitted(tmp_path, ckpt=tmp_path / "step=6.ckpt", relaxation=Relaxation(GROUP, at="net"))
    assert (relaxation.progress.first, relaxation.steps) == (0, STEPS)
    assert_equal(task.net, project(trained(relaxed_net())))


def test_another_controller_does_not_go_on(tmp_path: Path) -> None:
    fitted(tmp_path, saving(tmp_path))
    with pytest.raises(ValueError, match="belongs to the schedule 'Triangle', not 'Cosine'"):
        fitted(tmp_path, ckpt=tmp_path / "step=6.ckpt", relaxation=Relaxation(GROUP, controller=Cosine))


def test_relaxing_from_a_plain_run_on(tmp_path: Path) -> None:
    """Its optimizer goes on; theta begins there, and has the steps that are left."""
    with unchecked():
        trainer(tmp_path, saving(tmp_path)).fit(plain := Task(), loader())
    seen = Thetas()
    _, fit, relaxation = fitted(tmp_path, seen, ckpt=tmp_path / "step=12.ckpt", max_epochs=2 * EPOCHS)
    assert fit.global_step == 2 * STEPS
    assert relaxation.steps == STEPS
    assert seen.seen == [0.0, 0.333, 0.667, 1.0, 0.667, 0.333, *[0.0] * 6]
    saved = torch.load(tmp_path / "step=12.ckpt", weights_only=True)["optimizer_states"][0]
    assert set(map(int, {state["step"] for state in fit.optimizers[0].state_dict()["state"].values()})) == {24}
    assert len(saved["state"]) == len(list(plain.parameters())) == len(fit.optimizers[0].state_dict()["state"])


def test_fits_one_after_the_other(tmp_path: Path) -> None:
    """The same Trainer goes on with the training; a new one begins anew."""
    task, fit, relaxation = fitted(tmp_path)
    fit.fit_loop.max_epochs = 2 * EPOCHS
    with unchecked():
        fit.fit(task, loader())
    assert (fit.global_step, relaxation.steps) == (2 * STEPS, 2 * STEPS)
    fitted(tmp_path, relaxation=relaxation)
    assert relaxation.steps == STEPS


def test_what_is_left_beside_the_last_checkpoint(tmp_path: Path) -> None:
    """The projected model as it is, and the best one converted, which loads into the module of those without relaxify."""
    with unchecked():
        task, relaxation = Task(), Relaxation(GROUP)
        fit = trainer(tmp_path, relaxation, saving(tmp_path, save_top_k=1, monitor="error"))
        fit.fit(task, loader(), loader())
        best = Path(fit.checkpoint_callback.best_model_path)
        assert best.name.startswith("projected-step=")
        tested = fit.test(Task(), loader(), ckpt_path="best", verbose=False)
        assert Path(fit.checkpoint_callback.best_model_path) == best
        (fresh := Task()).load_state_dict(torch.load(best, weights_only=True)["state_dict"])
        assert trainer(tmp_path).test(fresh, loader(), verbose=False) == tested
    assert tested[0]["error"] == pytest.approx(fit.checkpoint_callback.best_model_score.item())
    assert_equal(Task.load_from_checkpoint(tmp_path / "projected.ckpt").net, task.net)
    convert(best.with_name(best.name.removeprefix("projected-")), tmp_path / "again.ckpt")
    saved, again = (torch.load(path, weights_only=True) for path in (best, tmp_path / "again.ckpt"))
    assert all(torch.equal(value, again["state_dict"][key]) for key, value in saved["state_dict"].items())
    assert not any("relaxation" in path.read_bytes().decode("latin1") for path in (best, tmp_path / "projected.ckpt"))
    plain = trainer(tmp_path, max_epochs=2 * EPOCHS)
    plain.fit(Task(), loader(), ckpt_path=tmp_path / "projected.ckpt")
    assert plain.global_step == 2 * STEPS


def test_relaxed_checkpoints_load_into_the_plain_module(tmp_path: Path) -> None:
    expected, _, _ = fitted(tmp_path, saving(tmp_path))
    for name, keys in (("step=6.ckpt", True), ("step=12.ckpt", True), ("projected.ckpt", False)):
        task, fit = Task(), trainer(tmp_path, Relaxation(GROUP))
        assert any("relaxation" in key for key in torch.load(tmp_path / name, weights_only=True)["state_dict"]) == keys
        with unchecked():
            fit.predict(task, loader(), ckpt_path=tmp_path / name)
        assert not terms_of(task)
        if name != "step=6.ckpt":
            assert_equal(task.net, expected.net)


class Pictures(LightningModule):
    """An ordinary CNN, whose terms begin with what of its kernels is not symmetric."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1))

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return (self.net(batch) - 1).square().mean()

    def predict_step(self, batch: Tensor, index: int) -> Tensor:
        return self.net(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-2)


def test_checkpoints_of_an_ordinary_cnn(tmp_path: Path) -> None:
    """Relaxed and projected, they come to the same plain weights."""
    pictures, expected = DataLoader(torch.randn(4, 2, 1, 6, 6), batch_size=None), Pictures()
    with unchecked():
        trainer(tmp_path, saving(tmp_path), Relaxation("C(4)")).fit(expected, pictures)
        for name in ("step=8.ckpt", "projected-step=8.ckpt", "projected.ckpt"):
            task = Pictures()
            trainer(tmp_path, Relaxation("C(4)")).predict(task, pictures, ckpt_path=tmp_path / name)
            assert_equal(task, expected)


@pytest.mark.parametrize("mode", ["fold", "fit"])
def test_ways_to_project(mode: str, tmp_path: Path) -> None:
    """Of a theta that is not 0 at the end."""
    relaxation = Relaxation(GROUP, controller=partial(Triangle, until=1), total_steps=2 * STEPS, mode=mode)
    task, _, _ = fitted(tmp_path, relaxation=relaxation)
    model = trained(relaxed_net(), make=lambda model, _: Triangle(model, 2 * STEPS, until=1))
    assert_equal(task.net, project(model, mode=mode))
    set_theta(model, 0)
    assert not torch.equal(task.net.second.map_to_feat.weight, project(model).second.map_to_feat.weight)


def test_a_model_that_stays_relaxed(tmp_path: Path) -> None:
    task, fit, _ = fitted(tmp_path, relaxation=Relaxation(GROUP, keep_relaxed=True, project_at_end=False))
    fit.save_checkpoint(tmp_path / "relaxed.ckpt")
    fresh = Task()
    with unchecked():
        again = trainer(tmp_path, Relaxation(GROUP, keep_relaxed=True, project_at_end=False))
        again.predict(fresh, loader(), ckpt_path=tmp_path / "relaxed.ckpt")
    assert_equal_but_records(fresh, task)


def assert_equal_but_records(model: Any, expected: Any) -> None:
    ours, theirs = model.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items() if not key.endswith("_extra_state"))
