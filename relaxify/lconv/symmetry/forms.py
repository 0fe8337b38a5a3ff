"""The bilinear form J that an algebra keeps: J L + L^T J = 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import Signature, signature


@dataclass(frozen=True)
class InvariantForm:
    """J with L^T J + J L = 0 for all L, of unit norm; `defect` is how far from it: |L^T J + J L| / 2|L||J|."""

    matrix: Float[Tensor, "d d"]
    defect: float
    symmetric: bool
    signature: Signature | None

    def __str__(self) -> str:
        kind = "a symmetric" if self.symmetric else "an antisymmetric"
        return f"{kind} form" + (f" of signature {self.signature}" if self.signature else "") + f", defect {self.defect:.1g}"


def invariant_form(matrices: Float[Tensor, "n d d"], tolerance: float = 1e-6) -> InvariantForm | None:
    """The bilinear form that an algebra keeps, symmetric or antisymmetric; None if the best has a defect above `tolerance`.

    A symmetric one of signature (p, q) makes it a subalgebra of so(p, q), an antisymmetric one of sp(d).
    """
    if not len(matrices):
        return None
    candidates = [_best_form(matrices, symmetric) for symmetric in (True, False)]
    found = [form for form in candidates if form is not None and form.defect <= tolerance]
    # a degenerate form is kept by much more than the algebra
    found.sort(key=lambda form: -float(torch.linalg.svdvals(form.matrix)[-1]))
    return found[0] if found else None


def _best_form(matrices: Tensor, symmetric: bool) -> InvariantForm | None:
    d = matrices.shape[-1]
    rows, columns = torch.triu_indices(d, d, 0 if symmetric else 1)
    if not len(rows):
        return None
    basis = matrices.new_zeros(len(rows), d, d)
    each = torch.arange(len(rows))
    basis[each, rows, columns] = 1.0
    basis[each, columns, rows] = 1.0 if symmetric else -1.0
    basis = basis / basis.flatten(1).norm(dim=1)[:, None, None]
    unit = matrices / matrices.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None]
    action = torch.einsum("nba,jbc->jnac", unit, basis) + torch.einsum("jab,nbc->jnac", basis, unit)
    _, values, vectors = torch.linalg.svd(action.flatten(1).mT, full_matrices=False)
    kept = max(1, int((values <= values[-1] + 1e-9 * values[0]).sum()))
    # among several invariant forms a random one is the least degenerate
    mixture = torch.randn(kept, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(vectors)
    form = torch.einsum("k,kj,jab->ab", mixture, vectors[len(vectors) - kept :], basis)
    form = form / form.norm()
    defect = float(values[-1]) / (2 * math.sqrt(len(matrices)))
    sign = None
    if symmetric:
        if torch.linalg.eigvalsh(form).sum() < 0:
            form = -form
        sign = signature(form, 0.05 / math.sqrt(d))
    return InvariantForm(form, defect, symmetric, sign)
