"""A tiny LightningModule, its data and trainers, and the same training as a loop by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from relaxify import Triangle, penalty, relaxify
from relaxify_examples.models.vector_neurons import VNLinear

BATCHES, EPOCHS, RATE = 6, 2, 3e-2
STEPS = BATCHES * EPOCHS
GROUP = "SO(3)"


class Net(nn.Module):
    """Two Vector Neurons layers around a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = VNLinear(2, 3), VNLinear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        v = self.first(x)
        return self.second(v * v.norm(dim=2, keepdim=True))


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - 1).square().mean()


class Task(LightningModule):
    """Automatic optimization of a loss that is a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def training_step(self, batch: Tensor, index: int) -> Any:
        return loss_of(self.net, batch)

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("error", loss_of(self.net, batch))

    test_step = validation_step

    def predict_step(self, batch: Tensor, index: int) -> Tensor:
        return self.net(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), RATE)


class Two(Task):
    """Of two parts that can be relaxed."""

    def __init__(self) -> None:
        super().__init__()
        self.head = net()

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return loss_of(self.net, batch) + loss_of(self.head, batch)


def batches() -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return torch.randn(BATCHES, 4, 2, 3, 5)


def loader() -> DataLoader[Tensor]:
    return DataLoader(batches(), batch_size=None)  # type: ignore[arg-type]


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    standard = {"max_epochs": EPOCHS, "accelerator": "cpu", "enable_checkpointing": saves, "default_root_dir": folder}
    return Trainer(callbacks=list(callbacks), **(quiet | standard | options))


def relaxed_net() -> nn.Module:
    return relaxify(net(), GROUP).train()


def by_hand(
    model: nn.Module,
    *,
    accumulate: int = 1,
    clip: float | None = None,
    precise: bool = True,
    epochs: int = EPOCHS,
    make: Callable[..., Any] = Triangle,
    average: Any = None,
) -> Iterator[tuple[int, torch.optim.Optimizer]]:
    """Train a relaxed model; after each step, its number and the optimizer are yielded."""
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    theta, step = make(model, epochs * BATCHES // accumulate), 0
    for _ in range(epochs):
        for number, x in enumerate(batches()):
            with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
                loss = loss_of(model, x)
            loss = loss + penalty(model, relative_to=loss)
            loss = loss + theta.loss_term() if hasattr(theta, "loss_term") else loss
            (loss / accumulate).backward()
            if (number + 1) % accumulate:
                continue
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            theta.step()
            if average is not None:
                average.update_parameters(model)
            step += 1
            yield step, optimizer


def trained(model: nn.Module, **options: Any) -> nn.Module:
    for _ in by_hand(model, **options):
        pass
    return model


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    """To the last bit, all keys."""
    ours, theirs = model.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert [key for key, value in ours.items() if not torch.equal(value, theirs[key])] == []
