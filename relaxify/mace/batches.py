"""MACE's batches: a few structures on which a model is measured, and how they turn."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor

ROTATED = ("positions", "shifts", "cell", "rcell", "external_field")
"""What MACE's models read of a batch that turns along with the atoms, on the last axis."""


def example_batch(loader: Any) -> Any:
    """Two structures with neighbours, past the loader: to iterate over it would change the batches to come."""
    samples = (loader.dataset[index] for index in range(len(loader.dataset)))
    return loader.collate_fn(list(itertools.islice((sample for sample in samples if sample.edge_index.shape[1]), 2)))


def rotated(g: Tensor, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch, as a dict, with the atoms and their cells turned by the matrix g.

    >>> import torch
    >>> batch = {"positions": torch.eye(3), "charges": torch.ones(3)}
    >>> rotated(-torch.eye(3), (batch,))[0]["positions"].diagonal()
    tensor([-1., -1., -1.])
    """
    batch, *more = inputs
    turned = {name: batch[name] @ g.to(batch[name]).mT for name in ROTATED if name in batch}
    return ({**batch, **turned}, *more)
