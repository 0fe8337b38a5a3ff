"""Whether samples come again in a diagnosis' batches: noise that comes twice does not average out, and passes for gradient.

With more than one pass through few data, their noise, which has no symmetry, looks like poses that are given away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relaxify.graph.inputs import tensors_of


class Repeats:
    """Counts the rows of batches, along their first axis, and those that an earlier batch had to the last bit.

    Looked at is each batch's largest tensor whose rows all differ: of floating-point numbers, or where there is none of
    integers, which may be the samples' numbers. Types of atoms and labels are equal within a batch, and tell nothing.

    >>> import torch
    >>> repeats, x = Repeats(), torch.randn(8, 3)
    >>> for rows in (slice(0, 4), slice(4, 8), slice(0, 4)):
    ...     repeats.add((x[rows], torch.zeros(4)))
    >>> round(repeats.part, 2)
    0.33
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._rows = self._again = 0

    def add(self, batch: Any) -> None:
        """Read a batch: anything that holds tensors."""
        rows = _telling([tensor for _, tensor in tensors_of(batch)])
        self._rows += len(rows)
        self._again += sum(row in self._seen for row in rows)
        self._seen.update(rows)

    @property
    def part(self) -> float:
        """How much of all rows came before."""
        return self._again / self._rows if self._rows else 0.0


def _telling(tensors: Sequence[Tensor]) -> list[bytes]:
    """The rows of the largest tensor that tells samples apart."""
    for is_floating in (True, False):
        alike = [x for x in tensors if x.ndim and len(x) > 1 and (x.is_floating_point() or x.is_complex()) == is_floating]
        for tensor in sorted(alike, key=Tensor.numel, reverse=True):
            rows = _rows(tensor)
            if len(set(rows)) == len(rows):
                return rows
    return []


def _rows(tensor: Tensor) -> list[bytes]:
    flat = tensor.detach().cpu().resolve_conj().flatten(1) if tensor.ndim > 1 else tensor.detach().cpu()[:, None]
    as_bytes = flat.contiguous().view(torch.uint8).numpy()
    return [row.tobytes() for row in as_bytes]
