"""Least squares for kernels with fields, by normal equations: argmin_w tr((E(w) - K) C (E(w) - K)^T).

It falls apart into a problem for each output field, and those of one kind that read the same input fields have one Gram
matrix between them, G_(ia)(jb) = sum_r B_a[r] C_ij B_b[r]^T: it is factorised once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from relaxify.relaxation.terms.kernel_fields import ROUNDING, KernelFields, Kind, blocks_between

# beyond this a Gram matrix takes longer than the iterations that it saves
MOST_UNKNOWNS = 2**13

# pivots of a Gram matrix, relative to the largest, below which no patch tells directions apart
_UNSEEN = 1e-13


class _Inputs(NamedTuple):
    """Input fields of one kind: their entries, the coefficients of each output field, and an orthonormal basis V of blocks.

    `lift` takes coordinates in V to the smallest coefficients that have them.
    """

    entries: Int[Tensor, "ins d_in"]
    coefficients: Int[Tensor, "outs ins slots"]
    basis: Float[Tensor, "k d_out d_in"]
    lift: Float[Tensor, "slots k"]


@dataclass(frozen=True)
class FieldProblem:
    """The problem of some output fields that share a Gram matrix."""

    rows: Int[Tensor, "outs d_out"]
    inputs: list[_Inputs]
    solve: Callable[[Float[Tensor, "unknowns outs"]], Float[Tensor, "unknowns outs"]]

    def add_step(self, slope: Float[Tensor, "n_out n"], coefficients: Float[Tensor, " coefficients"]) -> None:
        """Add G^-1 E^T(slope), where slope = (K - E(w)) C."""
        sides = [
            torch.einsum("oirx,arx->oia", blocks_between(slope, self.rows, into.entries), into.basis).flatten(1)
            for into in self.inputs
        ]
        found = self.solve(torch.cat(sides, 1).mT).mT
        for into, part in zip(self.inputs, found.split([side.shape[1] for side in sides], 1), strict=True):
            coefficients[into.coefficients] += part.unflatten(1, (len(into.entries), -1)) @ into.lift.mT


def field_problems(fields: KernelFields, moment: Float[Tensor, "n n"]) -> list[FieldProblem] | None:
    """The problems that make up one kernel's; None if one is too large."""
    problems = []
    for place, outs, ins in fields.alike():
        kind = fields.rows[place]
        inputs = [
            _inputs(fields, place, where, outs, own)
            for where, into in enumerate(fields.columns)
            if (own := [field for field in ins if field in into.fields])
        ]
        if sum(len(into.entries) * len(into.basis) for into in inputs) > MOST_UNKNOWNS:
            return None
        rows = kind.entries[_within(kind, outs)]
        problems.append(FieldProblem(rows, inputs, _solver(_gram(inputs, moment))))
    return problems


def _within(kind: Kind, fields: list[int]) -> Int[Tensor, " fields"]:
    return torch.tensor(fields) - kind.fields.start


def _inputs(fields: KernelFields, out: int, into: int, outs: list[int], ins: list[int]) -> _Inputs:
    basis = fields.bases[out, into]
    kind = fields.columns[into]
    u, s, vh = torch.linalg.svd(basis.flatten(1), full_matrices=False)
    rank = int((s > ROUNDING * s[0]).sum())
    coefficients = fields.table[outs][:, ins, : len(basis)]
    return _Inputs(
        kind.entries[_within(kind, ins)],
        coefficients,
        vh[:rank].unflatten(1, tuple(basis.shape[1:])),
        u[:, :rank] / s[:rank],
    )


def _gram(inputs: list[_Inputs], moment: Float[Tensor, "n n"]) -> Float[Tensor, "unknowns unknowns"]:
    """G, row by row of blocks."""
    rows = []
    for one in inputs:
        for entries in one.entries:
            seen = torch.einsum("arx,xn->arn", one.basis, moment[entries])
            parts = [torch.einsum("arjy,bry->ajb", seen[..., other.entries], other.basis).flatten(1) for other in inputs]
            rows.append(torch.cat(parts, 1))
    return torch.cat(rows)


def pivoted_cholesky(square: Tensor, least: float) -> tuple[Float[Tensor, "rank n"], Int[Tensor, " n"]]:
    """R and an order with square[order][:, order] = R^T R, from pivots down to `least` of the largest."""
    # LAPACK has columns first, so that its lower triangle is the upper one here
    factor, pivots, rank, _ = dpstrf(square.numpy().T, lower=1, tol=least * float(square.diagonal().max()))
    return torch.from_numpy(factor.T)[:rank].triu(), torch.from_numpy(pivots).long() - 1


def _solver(gram: Float[Tensor, "n n"]) -> Callable[[Tensor], Tensor]:
    """h -> the smallest y with G y = h, for h in the range of G."""
    factor, order = pivoted_cholesky(gram, _UNSEEN)
    back = order.argsort()
    if len(factor) == len(gram):
        return lambda h: torch.cholesky_solve(h[order], factor, upper=True)[back]
    # R^T = Q U, with columns of Q that span what is seen, and G = Q U U^T Q^T
    q, u = torch.linalg.qr(factor.mT)

    def solve(h: Tensor) -> Tensor:
        y = torch.linalg.solve_triangular(u, q.mT @ h[order], upper=True)
        return (q @ torch.linalg.solve_triangular(u.mT, y, upper=False))[back]

    return solve
