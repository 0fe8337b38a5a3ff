"""The narrow VN-PointNet on ModelNet40, of whoever has the files: all in one pose, as they are there (CR sec. 4.1)."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from benchmarks.classifier import NarrowPointNet, neighbourhoods
from benchmarks.evidence.clouds import percent
from benchmarks.evidence.system import SWEPT_FROM, Data, System, drawn
from benchmarks.modelnet40 import Clouds, Split, load

CLASSES, POINTS, WIDTH, HELD_OUT = 40, 128, 16, 10


@cache
def read(folder: Path, split: Split) -> Clouds:
    """What the network reads of each cloud, and its class."""
    clouds, labels = load(folder, split, POINTS)
    return torch.cat([neighbourhoods(part) for part in clouds.split(500)]), labels


def samples(folder: Path, seed: int, size: int) -> Data:
    """So many training clouds, drawn by the seed, and the test clouds; rates are chosen by a tenth of the former."""
    x, y = read(folder, "train")
    is_held_out = torch.arange(len(y)) % HELD_OUT == 0
    pool = torch.arange(len(y))[~is_held_out]
    rows = pool[drawn(len(pool), size, seed)]
    test, labels = read(folder, "test") if seed < SWEPT_FROM else (x[is_held_out], y[is_held_out])
    return Data((x[rows],), y[rows], (test,), labels)


def modelnet40(folder: Path) -> System:
    """With 2,000 of the 9,840 training clouds and 128 points of each, what a few processor hours pay for."""
    return System(
        name="modelnet40",
        title="ModelNet40",
        what=(
            f"A classifier of three Vector Neurons layers ({WIDTH} to {2 * WIDTH} channels, 7 sites) learns ModelNet40's "
            f"{CLASSES} classes from 2,000 clouds of {POINTS} points, all upright, and is tested on its test clouds."
        ),
        make=partial(NarrowPointNet, CLASSES, WIDTH),
        samples=partial(samples, folder),
        size=2_000,
        criterion=cross_entropy,
        measure=percent,
        column="accuracy, %",
        higher_is_better=True,
        group="SO(3)",
        steps=2_000,
        batch=32,
        rate=1e-2,
        rates=(3e-3, 1e-2, 3e-2),
        seeds=10,
        sweep=3,
        side_by_side=5,
        form=".1f",
    )
