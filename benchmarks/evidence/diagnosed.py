"""What `relaxify.diagnose` says of a system's networks before they are trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.evidence.system import System, batches
from relaxify import diagnose

SEEDS = 3


def diagnosed(system: System) -> list[dict[str, Any]]:
    """Of fresh networks of some seeds the equivariant share of the gradient, its error and its chance.

    In one pass through data that are drawn for it: of what comes twice, the noise would count as gradient.
    """
    return [_diagnosed(system, seed) for seed in range(SEEDS)]


def _diagnosed(system: System, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model, data = system.make(), system.samples(seed, system.diagnosed * system.batch)
    once = min(system.diagnosed, len(data.targets) // system.batch)
    rows = batches(len(data.targets), once, system.batch, seed)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return system.criterion(model(*(x[batch] for x in data.inputs)), data.targets[batch])

    found = diagnose(model, loss, rows, group=system.group, include=system.include)
    numbers = {name: getattr(found.total, name) for name in ("equivariant", "error", "chance")}
    rounded = {name: None if value is None else float(f"{value:.3g}") for name, value in numbers.items()}
    return {"seed": seed, **rounded, "advice": found.advice}
