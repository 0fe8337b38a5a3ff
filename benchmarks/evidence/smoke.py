"""A narrow relaxed steerable network predicts a smoke plume's next frames (CR sec. 4.4): nearly symmetric, as plumes are.

The plumes of `benchmarks/data` were simulated and packed by `python -m relaxify_examples.smoke`. Learned from are windows of
earlier times; tested are those of the last times ("future"), and rates are chosen by the times between. Weights and batches
are a seed's own.

Coefficients that vary from tap to tap make any kernel but for its middle tap: terms add little to what this network can
express, and change how it gets there.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.evidence.system import SWEPT_FROM, Data, System, drawn
from relaxify_examples.smoke.data import Name, Simulations, Task, Windows, windows
from relaxify_examples.smoke.packing import unpack
from relaxify_examples.smoke.training import rollout

PLUMES = Path(__file__).parent.parent / "data" / "smoke.npz"
TASK = Task(frames=10, horizon=3, reach=8)
WIDTH = 4
PERSISTENCE = 0.147
"""The tests' error where every frame is predicted to be the last one seen."""


class Rollout(nn.Module):
    """The next `horizon` frames, each predicted from what was seen or predicted.

    A network says how a frame differs from the one before, in units of `change`: networks that say the frame itself are
    worse than to say that nothing moves.
    """

    def __init__(self, network: nn.Module, horizon: int, change: float) -> None:
        super().__init__()
        self.network, self.horizon, self.change = network, horizon, change

    def forward(self, seen: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch time 2 h w"]:
        return rollout(self.next, seen, self.horizon)

    def next(self, seen: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 2 h w"]:
        moved: Tensor = self.network(seen)
        return seen[:, -2:] + self.change * moved


def make() -> nn.Module:
    # escnn is not to be had for every Python, and says so much on import
    from relaxify_examples.models.relaxed_steerable import steerable_net

    return Rollout(steerable_net("rotation", frames=TASK.frames, width=WIDTH), TASK.horizon, change())


@cache
def plumes() -> Simulations:
    return unpack(PLUMES)


@cache
def part(name: Name) -> Windows:
    return windows(plumes(), name, TASK)


@cache
def change() -> float:
    """The root mean square difference from a frame to the next, in what is learned from."""
    seen, asked = everything("train")
    return rmse(seen[:, None, -2:], asked[:, :1])


def everything(name: Name) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all windows: of later frames than are learned from nothing is asked."""
    seen, asked = part(name).batch(torch.arange(len(part(name))))
    return seen, asked[:, : TASK.horizon]


def samples(seed: int, size: int) -> Data:
    """So many windows of those to learn from, drawn by the seed, and all that are tested."""
    rows = drawn(len(part("train")), size, seed)
    (x, y), (test, targets) = part("train").batch(rows), everything("future" if seed < SWEPT_FROM else "valid")
    return Data((x,), y, (test,), targets)


def rmse(output: Float[Tensor, "batch time 2 h w"], targets: Float[Tensor, "batch time 2 h w"]) -> float:
    """Over windows, frames, components and cells."""
    return float(mse_loss(output, targets)) ** 0.5


def persistence(name: Name) -> float:
    """The error of saying that nothing moves."""
    seen, asked = everything(name)
    return rmse(seen[:, None, -2:].expand_as(asked), asked)


SMOKE = System(
    name="smoke",
    title="Smoke plumes",
    what=(
        f"A relaxed steerable network (RSteer of CR Table 2, {WIDTH} regular fields of C(4), five layers, without its own "
        f"regulariser) learns how a plume's velocities change from frame to frame: from {TASK.frames} frames of six plumes "
        f"it predicts the next {TASK.horizon}, each from those before it, and is tested on later times of the same plumes. "
        f"Measured is the root mean square error, which is {PERSISTENCE} where nothing is predicted to move."
    ),
    make=make,
    samples=samples,
    size=156,
    criterion=mse_loss,
    measure=rmse,
    column="RMSE, cells a step",
    higher_is_better=False,
    group="C(4)",
    steps=800,
    batch=4,
    rate=1e-3,
    rates=(3e-3, 8e-3, 2e-2),
    seeds=10,
    sweep=2,
    timed=30,
    diagnosed=39,
    form=".4f",
    is_stacked=False,
)
