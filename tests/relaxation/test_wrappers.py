"""Under Accelerate's and Lightning's wrapping a relaxed model trains as in a loop by hand, and comes out whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import WITH_CNN, Batch, Make, e3nn_net, randomise_terms, unchecked, vn_net
from torch import Tensor, nn

from relaxify import RelaxConfig, Triangle, penalty, project, relaxify
from relaxify.relaxation.terms.term import terms_of

STEPS = 4


def relaxed_net(make: Make) -> tuple[nn.Module, Batch]:
    model, group, batch = make()
    randomise_terms(relaxify(model, group, config=RelaxConfig(rows=4)))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model, batch


HALF = {"rtol": 5e-2, "atol": 5e-2}


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    return model(*batch).float().square().mean() + penalty(model)


def train_by_hand(model: nn.Module, batch: Batch) -> None:
    optimizer, theta = torch.optim.SGD(model.parameters(), 1e-2), Triangle(model, STEPS, until=1)
    for _ in range(STEPS):
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        theta.step()


def assert_same(model: nn.Module, expected: nn.Module, **tolerances: float) -> None:
    """Parameters, thetas and sketches are equal, and so is what projecting gives."""
    for ours, theirs in ((model, expected), (project(model), project(expected))):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, **tolerances)
    for a, b in zip(terms_of(model).values(), terms_of(expected).values(), strict=True):
        assert torch.equal(a.theta, b.theta)
        assert a.sketch.updates == b.sketch.updates == STEPS


@pytest.mark.filterwarnings("ignore")
# e3nn's tensor products do not run in mixed precision, with or without terms
@pytest.mark.parametrize(("make", "precision"), [(e3nn_net, "no"), (vn_net, "no"), (vn_net, "bf16")])
def test_accelerate(make: Make, precision: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model, batch = relaxed_net(make)
    twin = copy.deepcopy(model)
    train_by_hand(twin, batch)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    with unchecked():
        wrapped, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 1e-2))
        theta = Triangle(wrapped, STEPS, until=1)
        for _ in range(STEPS):
            with accelerator.accumulate(wrapped):
                accelerator.backward(loss_of(wrapped, batch))
                optimizer.step()
                optimizer.zero_grad()
                theta.step()
        accelerator.save_state(str(tmp_path), safe_serialization=False)
    assert accelerator.unwrap_model(wrapped) is model
    assert_same(accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False), twin, **({} if precision == "no" else HALF))
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    fresh, _ = relaxed_net(make)
    fresh.load_state_dict(state, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore")
@WITH_CNN
def test_lightning(make: Make, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Task(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model, self.theta = model, Triangle(model, STEPS, until=1)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return loss_of(self.model, batch)

        def on_train_batch_end(self, *args: Any) -> None:
            self.theta.step()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-2)

    model, batch = relaxed_net(make)
    twin = copy.deepcopy(model)
    train_by_hand(twin, batch)
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with unchecked():
        trainer.fit(Task(model), torch.utils.data.DataLoader([batch] * STEPS, batch_size=None))
        trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert_same(model, twin)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == {f"model.{key}" for key in model.state_dict()}
