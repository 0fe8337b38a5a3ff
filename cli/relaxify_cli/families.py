"""Families of generators by the words of `relaxify symmetry --family`: flows of images or signals, low-rank, grid, graph."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from relaxify_cli.arrays import read_arrays

if TYPE_CHECKING:
    from torch import Tensor

    from relaxify.lconv import Generators

TOGETHER = {"translations": ("translation_y", "translation_x")}


def family_of(text: str, X: Tensor, edges: Tensor | None = None) -> tuple[Generators, Tensor]:
    """The family, and the samples in the shape that it takes. ValueError, in one sentence, for words of none."""
    names = [part.strip().lower() for part in text.split(",")]
    if names in (["low-rank"], ["grid"], ["graph"]):
        return {"low-rank": _low_rank, "grid": _grid, "graph": _graph}[names[0]](X, edges)
    if edges is not None:
        raise ValueError("--edges are those of --family graph; give that, or leave them out.")
    return _flows(text, names, X)


def read_edges(path: Path, name: str) -> Tensor:
    """The edges (2, number) of a graph, an array of an .npz file."""
    import torch

    if path.suffix.lower() != ".npz":
        raise ValueError(f"--edges names an array of a .npz file, not of {path}; save both with numpy.savez.")
    arrays, names = read_arrays(path, (name,))
    if name not in arrays:
        raise ValueError(f"--edges: {path} has no array {name} (it has {', '.join(names)}); name one that it has.")
    edges = arrays[name]
    if edges.dtype.kind not in "iu" or edges.ndim != 2 or edges.shape[0] != 2 or edges.min(initial=0) < 0:
        raise ValueError(f"--edges: {name} is {edges.dtype} of shape {edges.shape}; save whole numbers (2, edges), from 0.")
    return torch.from_numpy(edges.astype("int64"))


def _flows(text: str, names: list[str], X: Tensor) -> tuple[Generators, Tensor]:
    from relaxify.lconv import ImageAlgebra, SignalAlgebra
    from relaxify.lconv.operators.images import AFFINE
    from relaxify.lconv.operators.images import NAMES as OF_IMAGES
    from relaxify.lconv.operators.signals import NAMES as OF_SIGNALS

    if X.ndim == 2 and set(names) <= set(OF_SIGNALS) and not (names == ["scaling"] and _is_square(X.shape[1])):
        return SignalAlgebra(tuple(names)), X
    groups = {**TOGETHER, "affine": AFFINE}
    chosen = [each for name in names for each in groups.get(name, (name,))]
    if unknown := [name for name in chosen if name not in OF_IMAGES]:
        known = ", ".join([*OF_IMAGES, *groups])
        raise ValueError(
            f"--family {text}: {unknown[0]!r} is none; known are, of images, {known}; of signals {', '.join(OF_SIGNALS)}; "
            "and low-rank, grid and graph."
        )
    return ImageAlgebra(tuple(dict.fromkeys(chosen))), X


def _low_rank(X: Tensor, edges: Tensor | None) -> tuple[Generators, Tensor]:
    from relaxify.lconv import LowRank
    from relaxify.lconv.symmetry.white import rank_for

    flat = X.flatten(1)
    return LowRank.random(1, (flat.shape[1],), rank=min(flat.shape[1], rank_for(len(flat) // 2))), flat


def _grid(X: Tensor, edges: Tensor | None) -> tuple[Generators, Tensor]:
    import torch

    from relaxify.lconv import Grid, Shifts

    space = tuple(X.shape[-2:]) if X.ndim > 2 else tuple(X.shape[1:])
    axes = len(space)
    stencil = Shifts((3,) * axes, padding=((1, 1),) * axes)
    return Grid(torch.zeros(1, stencil.count, *space), stencil, space=space), X


def _graph(X: Tensor, edges: Tensor | None) -> tuple[Generators, Tensor]:
    from relaxify.lconv import graph

    if edges is None:
        raise ValueError("--family graph learns weights of edges; name the array (2, edges) that has them with --edges.")
    nodes = X.shape[-1]
    if edges.numel() and int(edges.max()) >= nodes:
        raise ValueError(f"--edges has node {int(edges.max())}, and samples have {nodes} nodes, numbered from 0; fix them.")
    return graph(edges, nodes, learnable=True), X


def _is_square(size: int) -> bool:
    return math.isqrt(size) ** 2 == size
