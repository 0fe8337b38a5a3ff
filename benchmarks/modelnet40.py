"""ModelNet40 as PointNet++ and Vector Neurons read it: `modelnet40_normal_resampled`, with 10,000 points of each shape.

FOLDER/modelnet40_shape_names.txt      a class a line
FOLDER/modelnet40_train.txt            airplane_0001, a shape a line; and modelnet40_test.txt
FOLDER/airplane/airplane_0001.txt      x,y,z,nx,ny,nz, a point a line, the farthest from all before first
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Split = Literal["train", "test"]
Clouds = tuple[Float[Tensor, "clouds 3 points"], Int[Tensor, " clouds"]]


def load(folder: Path, split: Split, points: int) -> Clouds:
    """Every shape's first so many points, centred and within the unit ball, and its class.

    ValueError, naming the file, if one is missing or is not what it should be.
    """
    classes = _lines(folder / "modelnet40_shape_names.txt")
    shapes = _lines(folder / f"modelnet40_{split}.txt")
    labels = [_label(name, classes, folder) for name in shapes]
    clouds = [_points(folder / classes[label] / f"{name}.txt", points) for name, label in zip(shapes, labels, strict=True)]
    return torch.stack(clouds), torch.tensor(labels)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give the folder of modelnet40_normal_resampled.") from error


def _label(name: str, classes: list[str], folder: Path) -> int:
    kind = name.rpartition("_")[0]
    if kind not in classes:
        raise ValueError(f"{name} is of no class of {folder / 'modelnet40_shape_names.txt'}: are the files of one release?")
    return classes.index(kind)


def _points(path: Path, count: int) -> Float[Tensor, "3 points"]:
    try:
        with path.open() as file:
            rows = [list(map(float, line.split(",")[:3])) for line in islice(file, count)]
        found = torch.tensor(rows)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): it has x,y,z,nx,ny,nz, a point a line.") from error
    if found.shape != (count, 3) or not bool(found.isfinite().all()):
        raise ValueError(
            f"{path} has {len(rows)} points, of which {count} are asked for: it has x,y,z,nx,ny,nz, a point a line."
        )
    found = found - found.mean(0)
    return (found / found.norm(dim=1).max().clamp(min=1e-12)).T
