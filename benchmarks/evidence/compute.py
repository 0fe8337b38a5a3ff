"""What a relaxed step costs beside a plain one, measured in relaxify's ordinary loop: processor time, steps in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.evidence.system import System, batches
from relaxify import Constant, penalty, relaxify


def step_ratio(system: System, warm_up: int = 3) -> dict[str, float]:
    """`relaxed`: the median over rounds of a relaxed step's time over a plain one's, with what theta and penalty cost."""
    kinds = [_step(system, is_relaxed=False), _step(system, is_relaxed=True)]
    ratios, plain = [], []
    for round_ in range(warm_up + system.timed):
        order = (0, 1) if round_ % 2 else (1, 0)
        seconds = {kind: _timed(kinds[kind]) for kind in order}
        if round_ >= warm_up:
            ratios.append(seconds[1] / seconds[0])
            plain.append(seconds[0])
    return {"relaxed": round(statistics.median(ratios), 3), "plain, ms": round(1e3 * statistics.median(plain), 3)}


def _timed(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def _step(system: System, *, is_relaxed: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model, data = system.make(), system.data(0)
    theta = Constant(relaxify(model, system.group, include=system.include)) if is_relaxed else None
    optimizer = torch.optim.Adam(model.parameters(), system.rate)
    rows = batches(len(data.targets), 1, system.batch, 0)[0]
    inputs, targets = [x[rows] for x in data.inputs], data.targets[rows]

    def step() -> None:
        loss = system.criterion(model(*inputs), targets)
        total = loss if theta is None else loss + penalty(model, relative_to=loss)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if theta is not None:
            theta.step()

    return step
