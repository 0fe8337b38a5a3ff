"""Linear algebra of a Lie algebra given by matrices: exponential, structure constants (LC eq. 2), closure, Killing form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def exponential(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """exp(A), to rounding however small A is.

    torch (2.13) takes too few terms for a single small matrix in float64: for a turn by 0.05 it is wrong by 2e-10.

    >>> turn = exponential(torch.tensor([[0.0, -0.05], [0.05, 0.0]], dtype=torch.float64))
    >>> abs(float(turn[1, 0]) - math.sin(0.05)) < 1e-16
    True
    """
    exponentials: Tensor = torch.linalg.matrix_exp(matrix.expand(2, *matrix.shape))
    return exponentials[0]


def orthonormal(matrices: Float[Tensor, "n d d"], above: float | None = None) -> Float[Tensor, "k d d"]:
    """An orthonormal basis (in the Frobenius product) of the span.

    Directions whose singular value is not `above` this are left out; by default, those that rounding may have made.
    """
    if not len(matrices):
        return matrices
    u, s, _ = torch.linalg.svd(matrices.flatten(1).mT, full_matrices=False)
    rounding = s[0] * max(matrices.shape) * torch.finfo(s.dtype).eps * 10
    rank = int((s > (rounding if above is None else above)).sum())
    return u[:, :rank].mT.reshape(rank, *matrices.shape[1:])


def brackets(matrices: Float[Tensor, "n d d"]) -> Float[Tensor, "n n d d"]:
    """[L_i, L_j] for all pairs."""
    products = torch.einsum("iab,jbc->ijac", matrices, matrices)
    return products - products.transpose(0, 1)


def structure_constants(matrices: Float[Tensor, "n d d"]) -> Float[Tensor, "n n n"]:
    """The f_ij^k of [L_i, L_j] = f_ij^k L_k (LC eq. 2), by least squares: exact where the L_i span an algebra."""
    basis = matrices.flatten(1)
    if not len(basis):
        return basis.new_zeros(0, 0, 0)
    pairs = brackets(matrices).flatten(0, 1).flatten(1)
    solution = torch.linalg.lstsq(basis.mT, pairs.mT, driver="gelsd" if basis.device.type == "cpu" else None).solution
    return solution.mT.reshape(len(basis), len(basis), -1)


def closure_residual(matrices: Float[Tensor, "n d d"]) -> float:
    """sqrt(sum |[L_i, L_j] - f_ij^k L_k|^2 / sum |L_i L_j|^2 + |L_j L_i|^2): 0 for a Lie algebra.

    >>> from relaxify import Group
    >>> closure_residual(Group.parse("SO(1,3)").generators) < 1e-15
    True
    """
    basis = orthonormal(matrices)
    inside = torch.einsum("ijk,kab->ijab", structure_constants(basis), basis)
    products = torch.einsum("iab,jbc->ijac", basis, basis)
    scale = 2 * products.square().sum()
    if scale == 0:
        return 0.0
    return math.sqrt(float((brackets(basis) - inside).square().sum() / scale))


def killing_form(constants: Float[Tensor, "n n n"]) -> Float[Tensor, "n n"]:
    """K_ij = tr(ad_i ad_j) = f_il^m f_jm^l."""
    return torch.einsum("ilm,jml->ij", constants, constants)


@dataclass(frozen=True)
class Signature:
    """How many eigenvalues of a symmetric form are positive, negative and zero."""

    positive: int
    negative: int
    zero: int

    def __str__(self) -> str:
        return f"{self.positive}+/{self.negative}-" + (f"/{self.zero} zero" if self.zero else "")


def signature(form: Float[Tensor, "n n"], tolerance: float) -> Signature:
    """Counts of eigenvalues above `tolerance`, below minus it, and between."""
    eigenvalues = torch.linalg.eigvalsh((form + form.mT) / 2)
    positive, negative = int((eigenvalues > tolerance).sum()), int((eigenvalues < -tolerance).sum())
    return Signature(positive, negative, len(eigenvalues) - positive - negative)
