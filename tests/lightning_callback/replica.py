"""One of two processes of a fit with strategy="ddp", which Lightning starts, and the same training by hand.

`replica.py OUT`: each compares the two to the last bit, and writes what differs to OUT.RANK.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_callback.tasks import EPOCHS, GROUP, RATE, Task, batches, loss_of, relaxed_net, trainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from relaxify import ACE, Controller, Triangle, penalty, project
from relaxify.lightning import Relaxation

Make = Callable[[nn.Module, int], Controller]
OPTIONS: dict[str, Any] = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": False}


class Share(Task):
    """Trains on every other batch."""

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(batches()[self.global_rank :: 2], batch_size=None)  # type: ignore[arg-type]


def by_fitting(folder: Path, make: Make) -> tuple[dict[str, Any], int]:
    task, relaxation = Share(), Relaxation(GROUP, controller=make)
    fit = trainer(folder, relaxation, ModelCheckpoint(folder), **OPTIONS)
    fit.fit(task)
    for path in (fit.checkpoint_callback.best_model_path, folder / "projected.ckpt"):
        Task.load_from_checkpoint(path)
    return task.net.state_dict(), relaxation.steps


def by_hand(make: Make) -> tuple[dict[str, Any], int]:
    own = batches()[dist.get_rank() :: 2]
    model = relaxed_net()
    wrapped = DistributedDataParallel(model)
    optimizer, theta = torch.optim.Adam(model.parameters(), RATE), make(wrapped, EPOCHS * len(own))
    for _ in range(EPOCHS):
        for x in own:
            loss = loss_of(wrapped, x)
            (loss + penalty(wrapped, relative_to=loss)).backward()
            optimizer.step()
            optimizer.zero_grad()
            theta.step()
    return project(model).state_dict(), EPOCHS * len(own)


def difference(folder: Path, make: Make) -> str:
    (ours, steps), (theirs, count) = by_fitting(folder, make), by_hand(make)
    if steps != count or list(ours) != list(theirs):
        return f"{steps} steps, {list(ours)}"
    return " ".join(key for key, value in ours.items() if not torch.equal(value, theirs[key]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    out = Path(sys.argv[1])
    found = [difference(out.parent, make) for make in (Triangle, ACE)]
    out.with_suffix(f".{dist.get_rank()}").write_text("; ".join(filter(None, found)))
    dist.destroy_process_group()
