"""Symmetries of images in families of generators, with known answers: verdict, name, seconds, and the peak of memory.

python -m benchmarks.discovery_images [--only NAME ...]

Images are sums of random blobs, in a disc and turned anywhere (rotation), or over the border (translations, e(2)), or held
in place (none). Each row runs in a process of its own, whose peak of resident memory is what it needs beside the images.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.discovery import RESULTS, DataSet, Results
from relaxify.lconv import Grid, ImageAlgebra, LowRank, Shifts, symmetries_of, symmetry_of_pairs
from relaxify.lconv.operators.images import AFFINE

STENCIL = Shifts((3, 3), padding=((1, 1), (1, 1)))
BLOBS = 6


def blobs(count: int, size: int, random: torch.Generator, kind: str, turn: float = 0.0) -> Tensor:
    """Of width .12 of an image in [-1, 1]^2, at places of their own in each image, or at six of all images, by `kind`."""
    shape = (count, BLOBS)
    if kind == "everywhere":
        y, x = 2.8 * torch.rand(2, *shape, generator=random) - 1.4
    else:
        angles = 2 * math.pi * torch.rand(2, *shape, generator=random) * torch.tensor([1.0, 0.12])[:, None, None]
        turned = angles[0][:, :1] + angles[1] if kind == "turned" else 2.0 * torch.arange(BLOBS) / BLOBS + angles[1]
        radius = 0.2 + 0.4 * torch.rand(shape, generator=random)
        y, x = radius * (turned + turn).sin(), radius * (turned + turn).cos()
    at = torch.linspace(-1, 1, size)
    along_y, along_x = (torch.exp(-((at - each[..., None]) ** 2) / (2 * 0.12**2)) for each in (y, x))
    heights = 0.5 + torch.rand(shape, generator=random)
    return torch.einsum("nb,nbh,nbw->nhw", heights, along_y, along_x)


def affine(images: Tensor) -> Any:
    return symmetries_of(images, generators=ImageAlgebra(AFFINE))


def grid(images: Tensor) -> Any:
    size = images.shape[-1]
    return symmetries_of(images, generators=Grid(torch.zeros(1, 9, size, size), STENCIL, space=(size, size)))


def low_rank(images: Tensor) -> Any:
    return symmetries_of(images.flatten(1), generators=LowRank.random(1, (images[0].numel(),), rank=8))


def pairs(images: tuple[Tensor, Tensor]) -> Any:
    return symmetry_of_pairs(*images)


def drawn(kind: str, size: int) -> Callable[[int, torch.Generator], Any]:
    return lambda count, random: blobs(count, size, random, kind)


def turned_pairs(size: int) -> Callable[[int, torch.Generator], Any]:
    """The same images, turned by 10 degrees more, with pixels in one random order."""

    def both(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        order, seed = torch.randperm(size * size, generator=random), int(torch.randint(2**31, (1,), generator=random))
        each = (blobs(count, size, torch.Generator().manual_seed(seed), "turned", turn) for turn in (0.0, math.radians(10)))
        first, second = (images.flatten(1)[:, order] for images in each)
        return first, second

    return both


def resembling(report: Any) -> str | None:
    """The name, or what flow it is nearest to."""
    resemblance = getattr(report, "resemblance", None)
    return resemblance.name if resemblance is not None and report.found else report.name


def data_set(
    name: str, kind: str, size: int, count: int, find: Any, answer: str | None = None, dimension: int = 0
) -> DataSet:
    verdict = "found" if dimension else "none"
    return DataSet(name, drawn(kind, size), verdict, answer or None, dimension, find, (count,))


DATA_SETS = (
    *(data_set(f"affine flows, {size}, turned", "turned", size, 2000, affine, "rotation", 1) for size in (28, 64, 224)),
    *(data_set(f"affine flows, {size}, everywhere", "everywhere", size, 2000, affine, "e(2)", 3) for size in (28, 224)),
    *(data_set(f"affine flows, {size}, in place", "in place", size, 2000, affine) for size in (28, 224)),
    *(
        data_set(f"each pixel's weights, {size}, turned", "turned", size, 2000, grid, "rotation", 1)
        for size in (28, 64, 224)
    ),
    *(data_set(f"pixels' own weights, {size}, in place", "in place", size, 2000, grid) for size in (28, 224)),
    data_set("low rank, 28, turned", "turned", 28, 8000, low_rank, "", 1),
    DataSet("pairs, 28, scrambled", turned_pairs(28), "found", "so(2)", 1, pairs, (2000,)),
    DataSet("pairs, 64, scrambled", turned_pairs(64), "found", "so(2)", 1, pairs, (2000,)),
)


def measured(data_set: DataSet, seed: int) -> dict[str, Any]:
    """In this process: memory beside what the images take is how much its peak grows by the search."""
    (count,) = data_set.sizes
    data = data_set.draw(count, torch.Generator().manual_seed(seed))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    found = data_set.find(data)
    seconds = time.thread_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "verdict": str(found.verdict),
        "answer": resembling(found),
        "dimension": found.dimension,
        "smallest_break": found.smallest_break,
        "seconds": seconds,
        "peak_mb": peak / 1024,
        "grown_mb": (peak - before) / 1024,
    }


def in_a_process(data_set: DataSet) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.discovery_images", "--one", data_set.name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", help="Names of data sets begin with one of these.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        (chosen,) = (each for each in DATA_SETS if each.name == arguments.one)
        print(json.dumps(measured(chosen, 0)))
        return
    RESULTS.mkdir(exist_ok=True)
    results = Results(RESULTS / "discovery-images.json")
    print("| looked for, pixels, data | images | verdict | name | seconds | memory, MB |\n|---|---|---|---|---|---|")
    for each in DATA_SETS:
        if not arguments.only or each.name.startswith(tuple(arguments.only)):
            row = results.row(each.name, functools.partial(in_a_process, each))
            cells = (row["verdict"], row["answer"] or "", f"{row['seconds']:.1f}", f"{row['grown_mb']:.0f}")
            print(f"| {each.name} | {each.sizes[0]:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
