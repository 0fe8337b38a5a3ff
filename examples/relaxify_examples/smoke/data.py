"""Smoke plumes as a prediction task: a few velocity frames in, the frames after them out, in splits that share no target.

"future" asks for later times of the simulations trained on, "domain" for the times trained on of other simulations
(CR sec. 4.4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify_examples.smoke.generation import SYMMETRIES, Symmetry

Name = Literal["train", "valid", "future", "domain"]
NAMES: tuple[Name, ...] = ("train", "valid", "future", "domain")

# The simulations that the published code tests "domain" on, counted from 0, and one that it uses for nothing.
PUBLISHED_DOMAIN = {
    ("rotation", 36): (4, 5, 9, 12, 13, 14, 17, 19, 20, 23),
    ("scale", 38): (5, 6, 16, 17, 21, 22, 23, 30, 32, 33),
}
PUBLISHED_UNUSED = {("rotation", 36): (31,)}

# Frames that come before the first target besides the inputs, and the most windows a simulation has, as published.
LEAD = 2
MOST_WINDOWS = 250


@dataclass(frozen=True)
class Simulations:
    """Velocities of all simulations of one data set, row 0 of each frame at the top of the box."""

    symmetry: Symmetry
    velocity: Float[Tensor, "simulation time 2 height width"]

    @property
    def size(self) -> int:
        return self.velocity.shape[-1]

    def to(self, device: str) -> Simulations:
        """The same on that device, where networks are then trained too. ValueError if there is none."""
        try:
            return Simulations(self.symmetry, self.velocity.to(device))
        except (AssertionError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"device {device!r} cannot be used ({reason}); pass one that torch has, such as cpu."
            ) from error


@dataclass(frozen=True)
class Task:
    """What is predicted from what: `frames` in, `horizon` out in training and validation, `reach` in the tests."""

    frames: int = 10
    horizon: int = 6
    reach: int = 20

    def __post_init__(self) -> None:
        if min(self.frames, self.horizon, self.reach) < 1:
            raise ValueError(f"{self} predicts nothing, or from nothing; frames, horizon and reach are 1 or more.")

    @property
    def lead(self) -> int:
        """Frames before the first target of the first window."""
        return self.frames + LEAD


@dataclass(frozen=True)
class Windows:
    """Part of a data set: window i begins `start` frames into `simulation`, where these are row i of `places`.

    Its inputs are the frames [start + LEAD, start + lead) and its targets the `horizon` frames from start + lead on.
    """

    velocity: Float[Tensor, "simulation time 2 height width"]
    places: Int[Tensor, "window 2"]
    frames: int
    horizon: int

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, rows: Int[Tensor, "batch"]) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch t 2 h w"]]:
        """Inputs with frames and components on one axis, (v_x, v_y) of the earliest frame first, and targets."""
        simulations, starts = self.places[rows].unbind(1)
        times = starts[:, None] + LEAD + torch.arange(self.frames + self.horizon)
        seen, asked = self.velocity[simulations[:, None], times].split([self.frames, self.horizon], dim=1)
        return seen.flatten(1, 2), asked


def windows(data: Simulations, name: Name, task: Task) -> Windows:
    """One of the splits "train", "valid", "future" and "domain".

    Of the times that a window may start at, the first 64 % are for training, 16 % for validation, 20 % for "future";
    "domain" has the first 40 %, of other simulations. For the published sizes these are the published ranges, but that
    windows of training and validation end before the first target of the next split: as published, they reach into it.
    ValueError if there are too few frames or simulations.

    >>> data = Simulations("rotation", torch.zeros(36, 309, 2, 1, 1))
    >>> [len(windows(data, name, Task())) for name in ("train", "valid", "future", "domain")]
    [3875, 875, 1250, 1000]
    """
    start, stop = time_ranges(data.velocity.shape[1], task)[name]
    horizon = task.horizon if name in ("train", "valid") else task.reach
    trained, domain = members(data)
    simulations = torch.tensor(domain if name == "domain" else trained)
    places = torch.cartesian_prod(simulations, torch.arange(start, stop)).reshape(-1, 2)
    return Windows(data.velocity, places, task.frames, horizon)


def time_ranges(time: int, task: Task) -> dict[Name, tuple[int, int]]:
    """First and one-past-last start of each split's windows, among `time` frames."""
    starts = min(MOST_WINDOWS, time - task.lead - task.reach + 1)
    train, valid = round(0.64 * starts), round(0.80 * starts)
    ranges: dict[Name, tuple[int, int]] = {
        "train": (0, train - task.horizon + 1),
        "valid": (train, valid - task.horizon + 1),
        "future": (valid, starts),
        "domain": (0, round(0.4 * starts)),
    }
    if short := [name for name, (start, stop) in ranges.items() if stop <= start]:
        raise ValueError(
            f"{time} frames are too few for {task.frames} frames in, {task.horizon} out in training and {task.reach} in the "
            f"tests: nothing is left for {', '.join(short)}; simulate more steps, or predict fewer."
        )
    return ranges


def members(data: Simulations) -> tuple[list[int], list[int]]:
    """The simulations that are trained on, and those of "domain"; as published where there are as many as published."""
    count = len(data.velocity)
    if count < 2:
        raise ValueError(f"{count} simulation cannot be split into those trained on and others; simulate at least 2.")
    key = (data.symmetry, count)
    domain = PUBLISHED_DOMAIN.get(key)
    if domain is None:
        drawn = np.random.default_rng(0).permutation(count)[: max(1, round(count * 10 / 36))]
        domain = tuple(sorted(drawn.tolist()))
    apart = {*domain, *PUBLISHED_UNUSED.get(key, ())}
    return [index for index in range(count) if index not in apart], list(domain)


def load(folder: Path, symmetry: Symmetry) -> Simulations:
    """The simulations of a folder: what `generate` wrote, or the published `raw_data_*.pt`.

    Published files hold the velocities on the faces left of and below each cell, with row 0 at the bottom. They are turned
    over: in no other orientation do a quarter turn of the frame and of its vectors go together in escnn's convention.
    ValueError if there are none, or they do not belong together.
    """
    if symmetry not in SYMMETRIES:
        raise ValueError(f"{symmetry!r} is not a variant of the smoke plumes; choose one of {', '.join(SYMMETRIES)}.")
    generated = sorted(folder.glob(f"{symmetry}-*.safetensors"))
    published = sorted(folder.glob("raw_data_*.pt"), key=_number)
    if not generated and not published:
        raise ValueError(f"{folder} has neither {symmetry}-*.safetensors nor raw_data_*.pt; simulate some there first.")
    if generated and published:
        raise ValueError(f"{folder} has both {symmetry}-*.safetensors and raw_data_*.pt; give a folder of its own to each.")
    frames = [_generated(path) for path in generated] or [_published(path) for path in published]
    shapes = {tuple(velocity.shape) for velocity in frames}
    if len(shapes) > 1:
        raise ValueError(f"the simulations in {folder} differ in shape ({shapes}); keep those of one data set there.")
    return Simulations(symmetry, torch.stack(frames))


def _generated(path: Path) -> Float[Tensor, "time 2 height width"]:
    try:
        velocity = safetensors.torch.load_file(path)["velocity"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}): delete it, and simulate it again.") from error
    return _checked(velocity, path)


def _published(path: Path) -> Float[Tensor, "time 2 height width"]:
    velocity = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(velocity, Tensor):
        raise ValueError(f"{path} holds a {type(velocity).__name__} and no tensor; give the published files as they are.")
    return _checked(velocity, path).float().flip(-2)


def _checked(velocity: Tensor, path: Path) -> Tensor:
    if velocity.ndim != 4 or velocity.shape[1] != 2 or velocity.shape[2] != velocity.shape[3]:
        raise ValueError(f"{path} has shape {tuple(velocity.shape)} and not (time, 2, size, size); give velocities only.")
    if not velocity.isfinite().all():
        raise ValueError(f"{path} has NaN or infinite velocities; simulate it again.")
    return velocity


def _number(path: Path) -> int:
    """Published files are numbered from 1 with their direction behind it, or from 0 without."""
    digits = re.search(r"\d+", path.name)
    return int(digits[0]) if digits else -1
