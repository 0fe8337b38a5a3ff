"""Fifteen kinds of procedural point clouds are told apart, in one pose or each in a pose of its own.

By a narrow network of VN-PointNet's layers, many of which can be trained, and by the whole of VN-PointNet and VN-DGCNN.
Each is invariant, so that poses make no difference to plain training; they do to what terms can learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.classifier import NarrowPointNet, neighbourhoods
from benchmarks.evidence.system import Data, System
from benchmarks.shapes import SHAPES, clouds
from relaxify_examples.models.vn_dgcnn import VNDGCNN
from relaxify_examples.models.vn_pointnet import VNPointNet

CLOUDS, POINTS, WIDTH = 300, 16, 4
WHOLE, PUBLISHED, NEIGHBOURS = 12, 64, 6
Samples = Callable[[int, int], Data]


def aligned(seed: int, size: int) -> Data:
    """Clouds that are all upright, and twice as many to be tested on: of each point its neighbourhood."""
    data = points(seed, size)
    x, test = (tuple(map(neighbourhoods, parts)) for parts in (data.inputs, data.test_inputs))
    return replace(data, inputs=x, test_inputs=test)


def rotated(seed: int, size: int) -> Data:
    """The same clouds, each turned by a rotation of its own."""
    data = aligned(seed, size)
    generator = torch.Generator().manual_seed(20_000 + seed)
    (x,) = data.inputs
    return replace(data, inputs=(torch.einsum("bij,bcjn->bcin", rotations(len(x), generator), x),))


def points(seed: int, size: int) -> Data:
    """The clouds of `aligned`, as points: the network looks for neighbours itself."""
    (x, y), (test, labels) = clouds(size, POINTS, seed), clouds(2 * size, POINTS, 10_000 + seed)
    return Data((x,), y, (test,), labels)


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


def _system(name: str, title: str, poses: str, samples: Samples, width: int = WIDTH, **rest: Any) -> System:
    return System(
        name=name,
        title=title,
        what=(
            f"A classifier of three Vector Neurons layers ({width} to {2 * width} channels, 7 sites) tells {len(SHAPES)} "
            f"kinds of procedural shapes apart, from {CLOUDS} clouds of {POINTS} points, {poses}, and is tested on "
            f"{2 * CLOUDS} others."
        ),
        make=partial(NarrowPointNet, len(SHAPES), width),
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
        form=".1f",
        **rest,
    )


def _whole(name: str, title: str, network: type[VNPointNet] | type[VNDGCNN], sites: int, **rest: Any) -> System:
    return replace(
        ALIGNED,
        name=name,
        title=title,
        what=(
            f"The whole of {title} ({sites} sites) at a width of {WHOLE} where {PUBLISHED} was published ({WHOLE // 3} to "
            f"{16 * WHOLE // 3} channels), with {NEIGHBOURS} neighbours and without dropout, tells {len(SHAPES)} kinds of "
            f"procedural shapes apart, from {CLOUDS} clouds of {POINTS} points, all upright, and is tested on "
            f"{2 * CLOUDS} others."
        ),
        make=partial(_without_dropout, network),
        samples=points,
        steps=400,
        rate=1e-2,
        timed=30,
        is_stacked=False,
        **rest,
    )


def _without_dropout(network: type[VNPointNet] | type[VNDGCNN]) -> nn.Module:
    """What dropout leaves out would differ between the runs of a pair."""
    model = network(len(SHAPES), n_knn=NEIGHBOURS, width=WHOLE)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


RATES = (3e-3, 1e-2, 3e-2, 1e-1)
ALIGNED = _system(
    "clouds-aligned", "Point clouds in one pose", "all upright", aligned, rates=RATES, sweep=4, side_by_side=20
)
ROTATED = _system(
    "clouds-rotated", "Point clouds in all poses", "each turned at random", rotated, rates=RATES, sweep=4, side_by_side=20
)
WIDTHS = tuple(
    _system(
        f"{ALIGNED.name}-{width}",
        ALIGNED.title,
        "all upright",
        aligned,
        width,
        rates=RATES,
        sweep=4,
        is_stacked=False,
        of=ALIGNED.name,
        setting=f"{width} channels",
    )
    for width in (16, 32)
)
POINTNET = _whole("pointnet", "VN-PointNet", VNPointNet, sites=23, rates=RATES[:3], sweep=2)
DGCNN = _whole("dgcnn", "VN-DGCNN", VNDGCNN, sites=15, rates=RATES[1:], sweep=4)
