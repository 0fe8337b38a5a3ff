"""Where all samples lie on quadrics z^T A z = c (a circle, a mass shell), only what stays on these can be asked about."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# of the largest eigenvalue of the quadratic monomials' second moments
SMALLEST_SPREAD = 1e-9


def all_matrices(rows: int, columns: int) -> Float[Tensor, "k rows columns"]:
    """The unit matrices, a basis of all."""
    return torch.eye(rows * columns, dtype=torch.float64).reshape(-1, rows, columns)


def tangent_matrices(z: Float[Tensor, "n d"]) -> Float[Tensor, "k d d"]:
    """An orthonormal basis of the L whose flow keeps every quadric that all samples z are on; of gl(d) if there is none.

    >>> angle = torch.linspace(0, 6, 100, dtype=torch.float64)
    >>> tangent_matrices(torch.stack([angle.cos(), angle.sin()], 1)).shape
    torch.Size([1, 2, 2])
    """
    d = z.shape[1]
    units = all_matrices(d, d)
    i, j = torch.triu_indices(d, d)
    monomials = torch.cat([z.new_ones(len(z), 1), z[:, i] * z[:, j]], 1)
    values, vectors = torch.linalg.eigh(monomials.mT @ monomials / len(z))
    quadrics = vectors[:, values <= SMALLEST_SPREAD * values[-1]]
    if not quadrics.shape[1]:
        return units
    forms = z.new_zeros(quadrics.shape[1], d, d)
    forms[:, i, j] = quadrics[1:].mT
    # d/dt of z^T A z along L is z^T (A + A^T) L z, which must vanish on the quadrics
    change = torch.einsum("qab,kbc->kqac", forms + forms.mT, units)
    change = (change + change.mT)[..., i, j] * torch.where(i == j, 0.5, 1.0).to(z)
    change = torch.nn.functional.pad(change, (1, 0))
    outside = (change - change @ quadrics @ quadrics.mT).flatten(1)
    u, sizes, _ = torch.linalg.svd(outside)
    rank = int((sizes > 1e-6 * sizes[0].clamp(min=1e-300)).sum())
    return torch.einsum("uk,uab->kab", u[:, rank:], units)
