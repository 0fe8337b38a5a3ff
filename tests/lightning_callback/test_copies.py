"""Copies of a module while it is trained: they are its class's, and theta of an average is that of what is averaged."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning_callback.tasks import GROUP, Task, loader, relaxed_net, trainer
from networks import unchecked
from torch import nn
from torch.optim.swa_utils import AveragedModel

from relaxify import set_theta, thetas
from relaxify.lightning import Relaxation
from relaxify.lightning.averages import tie_thetas
from relaxify.relaxation.terms.term import terms_of


class Copying(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        for twin in (copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))):
            assert twin.training_step.__self__ is twin
            assert twin.training_step.__func__ is Task.training_step


@pytest.mark.filterwarnings("ignore")
def test_copies_in_a_training(tmp_path: Path) -> None:
    with unchecked():
        trainer(tmp_path, Relaxation(GROUP), Copying(), max_epochs=1).fit(Task(), loader())


def test_theta_of_an_average_that_was_moved() -> None:
    """As to another device, where buffers become other tensors."""
    model = nn.ModuleDict({"net": relaxed_net()})
    average = AveragedModel(model, use_buffers=True)
    for term in terms_of(average).values():
        term.theta = term.theta.clone()
    fit = SimpleNamespace(callbacks=[SimpleNamespace(_average_model=average), SimpleNamespace(_average_model=None)])
    with unchecked():
        tie_thetas(fit, model)  # type: ignore[arg-type]
    set_theta(model, 0.25)
    average.update_parameters(model)
    set_theta(model, 0.75)
    average.update_parameters(model)
    assert set(thetas(average).values()) == set(thetas(model).values()) == {0.75}
