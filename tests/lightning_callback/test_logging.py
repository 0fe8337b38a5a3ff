"""What goes to the loggers, and that finding it out changes nothing."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import Logger
from lightning_callback.tasks import GROUP, STEPS, Task, Two, assert_equal, loader, loss_of, trainer
from networks import unchecked
from torch import Tensor, nn

from relaxify import Cosine, projected, thetas
from relaxify.lightning import Relaxation
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.terms.term import terms_of

pytestmark = pytest.mark.filterwarnings("ignore")
PREFIX = "relaxation/"


class Rows(Logger):
    """Keeps what it is given."""

    name, version = "rows", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append({"step": step or 0} | metrics)

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


class Busy(Task):
    """Draws random numbers of three kinds, keeps statistics, changes its batch, and logs."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.norm, self.count, self.drawn = nn.Dropout(0.5), nn.BatchNorm1d(3), 0, 0.0

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.count += 1
        self.drawn += random.random() + np.random.rand()  # noqa: NPY002
        batch.mul_(1 + self.trainer.current_epoch)
        loss = loss_of(self.net, self.drop(batch)) + self.norm(batch[:, 0, :, 0]).square().mean()
        self.log("loss", loss)
        return loss


def fitted(folder: Path, task: Task, relaxation: Relaxation, **options: Any) -> list[dict[str, float]]:
    logger = Rows()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    with unchecked():
        trainer(folder, relaxation, logger=logger, **options).fit(task, loader())
    return logger.rows


def test_values(tmp_path: Path) -> None:
    """theta of each step, shares, penalties, and the losses of its batch with the terms and without."""
    task, relaxation = Task(), Relaxation(GROUP, log="layers")
    expected: list[tuple[float, float, float]] = []

    def compare(batch: Tensor, index: int) -> None:
        with projected(task.net), torch.no_grad():
            without = loss_of(task.net, batch)
        with torch.no_grad():
            expected.append((max(thetas(task.net).values()), loss_of(task.net, batch).item(), without.item()))

    task.on_train_batch_start = compare
    rows = fitted(tmp_path, task, relaxation, log_every_n_steps=1)
    names = ("theta", "loss/relaxed", "loss/projected")
    assert [tuple(row[PREFIX + name] for name in names) for row in rows] == expected
    assert any(row[PREFIX + "loss/relaxed"] != row[PREFIX + "loss/projected"] for row in rows)
    acting = next(row for row in rows if row[PREFIX + "theta"] == 1)
    layers = [acting[f"{PREFIX}{path}.map_to_feat/share"] for path in ("first", "second")]
    assert acting[PREFIX + "share"] == max(layers) > 0
    assert acting[PREFIX + "penalty"] > 0 == rows[-1][PREFIX + "penalty"]


@pytest.mark.parametrize(("accumulate", "every"), [(1, 4), (2, 3)])
def test_every_few_steps(accumulate: int, every: int, tmp_path: Path) -> None:
    rows = fitted(tmp_path, Task(), Relaxation(GROUP), log_every_n_steps=every, accumulate_grad_batches=accumulate)
    assert [row["step"] for row in rows] == list(range(every - 1, STEPS // accumulate, every))
    assert {"theta", "share", "penalty", "loss/relaxed", "loss/projected"} == {
        name.removeprefix(PREFIX) for name in rows[0] if name.startswith(PREFIX)
    }


def test_it_leaves_no_trace(tmp_path: Path) -> None:
    tasks = [Busy(), Busy()]
    silent = fitted(tmp_path, tasks[0], Relaxation(GROUP, log=False), log_every_n_steps=1)
    rows = fitted(tmp_path, tasks[1], Relaxation(GROUP), log_every_n_steps=1)
    assert_equal(*tasks)
    assert vars(tasks[0])["drawn"] == vars(tasks[1])["drawn"]
    assert tasks[0].count == tasks[1].count == STEPS
    assert [row["loss"] for row in rows] == [row["loss"] for row in silent]
    assert [row[PREFIX + "loss/relaxed"] for row in rows] == [row["loss"] for row in rows]
    assert len({row[PREFIX + "loss/projected"] for row in rows}) == STEPS
    assert not any(name.startswith(PREFIX) for row in silent for name in row)


class Forward(Task):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return loss_of(self, batch)


def test_compiled(tmp_path: Path) -> None:
    rows = fitted(tmp_path, torch.compile(Forward(), backend="eager"), Relaxation(GROUP), log_every_n_steps=5)
    assert rows[0][PREFIX + "loss/relaxed"] != rows[0][PREFIX + "loss/projected"]


class Alone(Task):
    """Cannot be copied."""

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return super().training_step(batch, index)

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("there is one of me")


def test_a_module_that_cannot_be_copied(tmp_path: Path) -> None:
    with pytest.warns(PitfallWarning, match="projected loss is not logged, .* Alone: TypeError: there is one of me"):
        rows = fitted(tmp_path, Alone(), Relaxation(GROUP), log_every_n_steps=1)
    assert [math.isnan(row[PREFIX + "loss/projected"]) for row in rows] == [bool(row[PREFIX + "theta"]) for row in rows]


def test_two_parts_of_their_own(tmp_path: Path) -> None:
    """Each has its own theta, and its own names at the loggers."""
    task, logger = Two(), Rows()
    first, second = Relaxation(GROUP, at="net"), Relaxation(GROUP, at="head", controller=Cosine)
    with unchecked():
        trainer(tmp_path, first, second, logger=logger, log_every_n_steps=1).fit(task, loader())
    assert [logger.rows[0][f"{PREFIX}{part}/theta"] for part in ("net", "head")] == [0.0, 1.0]
    assert first.steps == second.steps == STEPS
    assert not terms_of(task)
    assert "training_step" not in vars(task)
