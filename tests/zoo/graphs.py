"""Atoms to feed the zoo's models with, and plain torch versions of the graph functions they take from compiled packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

SIZES = (11, 14)
"""Atoms of two molecules. Of more than 25 points torch.cdist gives rounded distances, not 0, to themselves: e3nn's networks
then join some atoms to themselves, other ones after a rotation, and are not equivariant."""

CUTOFF = 2.0
"""A distance within which each atom of `positions` has neighbours: without any, ViSNet's forces have NaN for a gradient."""


def batch_index() -> Tensor:
    return torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))


def positions() -> Tensor:
    return 2 * torch.rand(sum(SIZES), 3)


def neighbours(positions: Tensor, cutoff: float, batch: Tensor | None = None, *, loop: bool = False) -> Tensor:
    """Source and destination of all pairs of one molecule that are closer than `cutoff`."""
    batch = torch.zeros(len(positions), dtype=torch.long) if batch is None else batch
    close = (torch.cdist(positions.detach(), positions.detach()) < cutoff) & (batch[:, None] == batch)
    if not loop:
        close.fill_diagonal_(False)
    return close.nonzero().T


def radius_graph(x: Tensor, r: float, batch: Tensor | None = None, loop: bool = False, **limits: Any) -> Tensor:
    """torch_cluster's function of that name, without a limit on the number of neighbours."""
    return neighbours(x, r, batch, loop=loop)


def scatter(src: Tensor, index: Tensor, dim: int = 0, dim_size: int | None = None) -> Tensor:
    """torch_scatter's function of that name, for sums."""
    shape = list(src.shape)
    shape[dim] = int(index.max()) + 1 if dim_size is None else dim_size
    return src.new_zeros(shape).index_add(dim, index, src)


@contextmanager
def stand_in(modules: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """While a model is imported, plain modules with these contents take the place of modules that may not be installed."""
    present = {name: sys.modules[name] for name in modules if name in sys.modules}
    for name, contents in modules.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(contents)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(present)
