"""Ten seeds of an arm trained side by side by `torch.func`, and one after the other: CPU time of a step of a seed."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from benchmarks.lconv_evidence.arms import ARMS, Make
from benchmarks.lconv_evidence.setting import machine

SHAPE = (1, 28, 28)


def everything(path: Path, *, seeds: int = 10, steps: int = 10, arms: Mapping[str, Make] = ARMS["fair"]) -> None:
    """Both ways, of all arms, with batches of either protocol."""
    lines = []
    for batch_size, (arm, make) in itertools.product((32, 64), arms.items()):
        x, y = torch.randn(seeds, batch_size, *SHAPE), torch.randint(10, (seeds, batch_size))
        start = time.process_time()
        alone, together = _milliseconds(one(make, x[0], y[0]), steps), _milliseconds(many(make, x, y), steps) / seeds
        found = {"one by one, ms": round(alone, 2), "side by side, ms": round(together, 2)}
        rest = {"seconds": round(time.process_time() - start, 2), "machine": machine()}
        lines.append(json.dumps({"arm": arm, "batch_size": batch_size, **found, **rest}))
        print(lines[-1], flush=True)
    path.write_text("\n".join(lines) + "\n")


def one(make: Make, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of one model."""
    model = make(SHAPE)
    return _step(list(model.parameters()), lambda: F.cross_entropy(model(x), y))


def many(make: Make, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of as many models as x has batches."""
    models: list[nn.Module] = [make(SHAPE) for _ in x]
    stacked, buffers = stack_module_state(models)
    weights = {name: value.detach().requires_grad_() for name, value in stacked.items()}

    def loss() -> torch.Tensor:
        outputs = vmap(lambda w, b, h: functional_call(models[0], (w, b), (h,)))(weights, buffers, x)
        return F.cross_entropy(outputs.flatten(0, 1), y.flatten()) * len(x)

    return _step(list(weights.values()), loss)


def _step(weights: list[torch.Tensor], loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adam(weights, 1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def _milliseconds(step: Callable[[], None], steps: int) -> float:
    for _ in range(2):
        step()
    start = time.process_time()
    for _ in range(steps):
        step()
    return 1e3 * (time.process_time() - start) / steps
