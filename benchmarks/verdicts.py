"""What a verdict costs: the time of `plan` and of `inspect` on sound models, in forward passes.

A forward pass is `model(*inputs)` as a user calls it: in float64, in eval mode, with gradients on. All three are timed in
turn within one run on one thread, in that thread's own seconds, which other jobs on the machine do not lengthen; the
shortest of each counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.models import SEGNN, VNDGCNN, VNPointNet, particles
from relaxify import inspect, plan

PLAN, INSPECT = 25, 60
"""The most forward passes that either may take on the Vector Neurons."""
FORWARDS = 10
RESULTS = Path(__file__).parent / "results" / "verdicts-cpu.json"


@dataclass(frozen=True)
class Judged:
    """A model with inputs to judge it on, and the most forward passes of `plan` and of `inspect`."""

    name: str
    group: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    bars: tuple[int, int] | None = None


def clouds() -> tuple[Any, ...]:
    return (torch.randn(2, 3, 64),)


def ordinary_cnn() -> nn.Module:
    """Made equivariant for its plan, and inspected as it is: broken."""
    convolutions = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Biased(nn.Module):
    """A layer to whose output a constant is added, another for each component."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        return y + torch.linspace(0, 0.1, y[0].numel(), dtype=y.dtype).reshape(y.shape[1:])


def broken(make: Callable[[], nn.Module], path: str) -> Callable[[], nn.Module]:
    """The same with a fault at one of its layers."""

    def spoilt() -> nn.Module:
        model = make()
        model.set_submodule(path, Biased(model.get_submodule(path)))
        return model

    return spoilt


def images() -> tuple[Any, ...]:
    return (torch.randn(3, 1, 17, 17),)


MODELS = (
    Judged("VN-DGCNN, 2 x 64 points", "SO(3)", VNDGCNN, clouds, (PLAN, INSPECT)),
    Judged("VN-PointNet, 2 x 64 points", "SO(3)", VNPointNet, clouds, (PLAN, INSPECT)),
    Judged("VN-DGCNN, broken early", "SO(3)", broken(VNDGCNN, "conv1.map_to_feat"), clouds, (PLAN, INSPECT)),
    Judged("VN-DGCNN, broken late", "SO(3)", broken(VNDGCNN, "std_feature.vn1"), clouds, (PLAN, INSPECT)),
    Judged("VN-PointNet, broken early", "SO(3)", broken(VNPointNet, "feat.conv_pos.map_to_feat"), clouds, (PLAN, INSPECT)),
    Judged("SEGNN 64x4, 4 x 5 particles", "O(3)", SEGNN, lambda: particles(4)),
    Judged("ordinary CNN, 17 x 17 pixels", "C(4)", ordinary_cnn, images),
)


def measured(judged: Judged, rounds: int) -> dict[str, Any]:
    """Seconds of `plan` and of `inspect` over those of a forward pass."""
    torch.manual_seed(0)
    model = judged.make().double().eval()
    inputs = tuple(value.double() if value.is_floating_point() else value for value in judged.inputs())
    steps = {
        "forward": lambda: model(*inputs),
        "plan": lambda: plan(model, judged.group, example_inputs=inputs),
        "inspect": lambda: inspect(model, judged.group, *inputs),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name] += [seconds(step) for _ in range(FORWARDS if name == "forward" else 1)]
    forward, planned, inspected = (min(times[name]) for name in steps)
    return {
        "model": judged.name,
        "forward, ms": 1e3 * forward,
        "plan, forwards": planned / forward,
        "inspect, forwards": inspected / forward,
        "bars": judged.bars,
    }


def seconds(step: Callable[[], Any]) -> float:
    start = time.thread_time()
    step()
    return time.thread_time() - start


def save(rows: list[dict[str, Any]], machine: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
