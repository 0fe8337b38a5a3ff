"""A student of two Vector Neurons layers learns what a teacher of its kind says of white inputs; many get stuck.

Measured is log10 of the test's mean square error over that of a zero output.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.evidence.system import Data, System
from relaxify_examples.models.vector_neurons import VNLeakyReLU, VNLinear

CLOUDS, POINTS, WIDTH = 512, 4, 4


class VectorNet(nn.Module):
    """Vectors [B, C, 3] to vectors [B, 2, 3]."""

    def __init__(self, channels: int = POINTS, width: int = WIDTH) -> None:
        super().__init__()
        self.first, self.act, self.second = VNLinear(channels, width), VNLeakyReLU(width), VNLinear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.act(self.first(x)))
        return out


def samples(seed: int, size: int) -> Data:
    """A teacher, and so many inputs to learn from and to be tested on."""
    torch.manual_seed(1_000_000 + seed)
    teacher = VectorNet().requires_grad_(False)
    x, test = torch.randn(2, size, POINTS, 3)
    return Data((x,), teacher(x), (test,), teacher(test))


def log10_error(output: Tensor, targets: Tensor) -> float:
    return math.log10(float(mse_loss(output, targets) / targets.square().mean()))


TEACHER = System(
    name="teacher",
    title="Teacher and student",
    what=(
        f"A student of two Vector Neurons layers ({WIDTH} channels) learns what a teacher of its kind says of white inputs, "
        f"{CLOUDS} of {POINTS} vectors each. Many students end on a plateau. Measured is log10 of the test's mean square "
        "error over that of a zero output."
    ),
    make=VectorNet,
    samples=samples,
    size=CLOUDS,
    criterion=mse_loss,
    measure=log10_error,
    column="log10 error",
    higher_is_better=False,
    group="SO(3)",
    steps=1_000,
    batch=32,
    rate=3e-2,
    rates=(1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    seeds=40,
    sweep=40,
)
