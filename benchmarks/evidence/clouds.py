"""A narrow VN-PointNet tells fifteen kinds of procedural point clouds apart, in one pose or each in a pose of its own.

The network is invariant, so that poses make no difference to plain training; they do to what terms can learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.classifier import NarrowPointNet, neighbourhoods
from benchmarks.evidence.system import Data, System
from benchmarks.shapes import SHAPES, clouds

CLOUDS, POINTS, WIDTH = 300, 16, 4


def aligned(seed: int, size: int) -> Data:
    """Clouds that are all upright, and twice as many to be tested on."""
    (x, y), (test, labels) = clouds(size, POINTS, seed), clouds(2 * size, POINTS, 10_000 + seed)
    return Data((neighbourhoods(x),), y, (neighbourhoods(test),), labels)


def rotated(seed: int, size: int) -> Data:
    """The same clouds, each turned by a rotation of its own."""
    data = aligned(seed, size)
    generator = torch.Generator().manual_seed(20_000 + seed)
    (x,) = data.inputs
    return replace(data, inputs=(torch.einsum("bij,bcjn->bcin", rotations(len(x), generator), x),))


def rotations(count: int, generator: torch.Generator) -> Float[Tensor, "count 3 3"]:
    """Uniform in SO(3): unit quaternions are."""
    w, x, y, z = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=1).unbind(1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=1),
    ]
    return torch.stack(rows, dim=1)


def percent(logits: Tensor, labels: Tensor) -> float:
    """Accuracy."""
    return 100 * float((logits.argmax(1) == labels).float().mean())


def _system(name: str, title: str, poses: str, samples: Callable[[int, int], Data]) -> System:
    return System(
        name=name,
        title=title,
        what=(
            f"A classifier of three Vector Neurons layers ({WIDTH} to {2 * WIDTH} channels, 7 sites) tells {len(SHAPES)} "
            f"kinds of procedural shapes apart, from {CLOUDS} clouds of {POINTS} points, {poses}, and is tested on "
            f"{2 * CLOUDS} others."
        ),
        make=partial(NarrowPointNet, len(SHAPES), WIDTH),
        samples=samples,
        size=CLOUDS,
        criterion=cross_entropy,
        measure=percent,
        column="accuracy, %",
        higher_is_better=True,
        group="SO(3)",
        steps=600,
        batch=16,
        rate=1e-2,
        rates=(3e-3, 1e-2, 3e-2, 1e-1),
        sweep=4,
        side_by_side=20,
        form=".1f",
    )


ALIGNED = _system("clouds-aligned", "Point clouds in one pose", "all upright", aligned)
ROTATED = _system("clouds-rotated", "Point clouds in all poses", "each turned at random", rotated)
