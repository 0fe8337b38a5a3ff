"""Weights that are coefficients of a basis: W_e[o, i] = sum_a w_a[o, i] B_a, with one B_a for all pairs of copies o and i.

The nearest such map to theta * W has G w[o, i] = <B, theta W[o, i]>, where G is the Gram matrix of the B_a.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.intertwiners import split_pairs
from relaxify.representations import Block


@dataclass(frozen=True)
class Span:
    """One matrix B of a basis: w[o, i] is entry offset + stride_out o + stride_in i of the flat parameter.

    B has `entries` (row, column, value); the others are 0.
    """

    parameter: str
    offset: int
    stride_out: int
    stride_in: int
    entries: tuple[tuple[int, int, float], ...]

    def index(self, out: Block, into: Block) -> Int[Tensor, "channels_out channels_in"]:
        """Where in the flat parameter the coefficients are.

        >>> Span("w", 1, 3, 1, ()).index(Block("a", 2, 1), Block("b", 3, 1)).tolist()
        [[1, 2, 3], [4, 5, 6]]
        """
        rows, columns = torch.arange(out.multiplicity)[:, None], torch.arange(into.multiplicity)
        return self.offset + self.stride_out * rows + self.stride_in * columns

    def matrix(self, out: Block, into: Block) -> Float[Tensor, "d_out d_in"]:
        """B."""
        matrix = torch.zeros(out.dimension, into.dimension, dtype=torch.float64)
        for row, column, value in self.entries:
            matrix[row, column] = value
        return matrix


def span_updates(
    relaxation: Float[Tensor, "n_out n_in"], into: Block, out: Block, spans: Sequence[Span]
) -> tuple[list[Float[Tensor, "channels_out channels_in"]], float]:
    """What to add to the coefficients of each span so that the layer gains what it can of `relaxation`, and |that|^2.

    >>> vector = Block("vector", 1, 3)
    >>> span_updates(torch.diag(torch.tensor([1.0, 2.0, 3.0])), vector, vector, [Span("w", 0, 0, 0, ((0, 0, 2.0),))])
    ([tensor([[0.5000]], dtype=torch.float64)], 1.0)
    """
    basis = torch.stack([span.matrix(out, into) for span in spans])
    sides = torch.einsum("aij,oxij->aox", basis, split_pairs(relaxation.to(torch.float64), out, into))
    gram = torch.einsum("aij,bij->ab", basis, basis)
    found = torch.einsum("ab,box->aox", torch.linalg.pinv(gram, hermitian=True), sides)
    return list(found), float((found * sides).sum())
