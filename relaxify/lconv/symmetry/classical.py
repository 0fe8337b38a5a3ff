"""Names of algebras: so(n), so(p,q), sl(n), sp(n), u(n), su(n), gl(n), e(n), abelian, and sums of these.

An algebra is recognised by numbers that do not depend on its basis: dimension, dimensions of its centre and of its derived
algebra, and the signature of its Killing form. Where these leave several names (so(3) is su(2)), the trace form of the
matrices over the Killing form says which of them the matrices define.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import Signature, brackets, killing_form, orthonormal, signature, structure_constants

# Eigenvalues and singular values below a share of the largest count as zero: this many times the closure residual, but
# at least what rounding leaves and at most a tenth.
ZERO_PER_NOISE = 5.0
SMALLEST_ZERO, LARGEST_ZERO = 1e-6, 0.1

# a span whose brackets leave it by more than this is not an algebra
LARGEST_CLOSURE_RESIDUAL = 0.1

LARGEST_NAMED = 45
LARGEST_SPLIT = 21


@dataclass(frozen=True)
class Invariants:
    """What two isomorphic algebras have in common, and most others have not."""

    dimension: int
    centre: int
    derived: int
    killing: Signature


def invariants(matrices: Float[Tensor, "n d d"], noise: float = 0.0) -> Invariants:
    """Of the span of the matrices; `noise` is the closure residual, below which brackets count as zero."""
    constants = _constants(orthonormal(matrices.double()), noise)
    n = len(constants)
    if not constants.any():
        return Invariants(n, n, 0, Signature(0, 0, n))
    killing = killing_form(constants)
    largest = float(torch.linalg.eigvalsh(killing).abs().max())
    # the Killing form of a nilpotent algebra is zero, its brackets are not
    zero = _zero(noise)
    floor = zero * max(largest, zero * float(constants.square().sum()) / n)
    centre = n - _rank(constants.flatten(1), zero)
    return Invariants(n, centre, _rank(constants.flatten(0, 1), zero), signature(killing, floor))


def names_of(matrices: Float[Tensor, "n d d"], noise: float = 0.0) -> tuple[str, ...]:
    """Every name that the span of the matrices has, the best fit first; none if it is not an algebra known here.

    >>> from relaxify import Group
    >>> names_of(Group.parse("SO(1,3)").generators)
    ('so(1,3)',)
    >>> names_of(Group.parse("SO(3)").generators)
    ('so(3)', 'su(2)')
    """
    n = len(matrices)
    if n == 0 or n > LARGEST_NAMED or noise > LARGEST_CLOSURE_RESIDUAL:
        return ()
    matrices = orthonormal(matrices.double())
    found = invariants(matrices, noise)
    if found.derived == 0:
        return (_one_parameter(matrices[0]),) if n == 1 else (f"abelian({n})",)
    candidates = [(name, make) for name, size, make in _catalogue(n) if size == n]
    matching = [(name, make()) for name, make in candidates if _known_invariants(name, make) == found]
    if matching:
        return tuple(name for name, _ in sorted(matching, key=lambda entry: _misfit(matrices, *entry)))
    return _sum_of_ideals(matrices, noise) if n <= LARGEST_SPLIT else ()


def _constants(matrices: Tensor, noise: float) -> Tensor:
    """Structure constants of this orthonormal basis, zero where brackets are no larger than what closure leaves over."""
    constants = structure_constants(matrices)
    products = torch.einsum("iab,jbc->ijac", matrices, matrices)
    inside, whole = constants.norm(), brackets(matrices).norm()
    outside = (whole.square() - inside.square()).clamp(min=0).sqrt()
    negligible = inside <= max(1e-9, noise) * products.norm() or (noise > 1e-9 and inside <= 2 * outside)
    return torch.zeros_like(constants) if negligible else constants


def _zero(noise: float) -> float:
    return min(max(ZERO_PER_NOISE * noise, SMALLEST_ZERO), LARGEST_ZERO)


def _rank(matrix: Tensor, zero: float) -> int:
    values = torch.linalg.svdvals(matrix)
    return int((values > zero * values[0]).sum())


def _one_parameter(matrix: Float[Tensor, "d d"]) -> str:
    """so(2) for closed or quasi-periodic orbits, so(1,1) for hyperbolic ones, else just one dimension."""
    eigenvalues = torch.linalg.eigvals(matrix)
    size = eigenvalues.abs().max()
    if size < 1e-6 * matrix.norm():
        return "abelian(1)"
    if eigenvalues.real.abs().max() < LARGEST_ZERO * size:
        return "so(2)"
    return "so(1,1)" if eigenvalues.imag.abs().max() < LARGEST_ZERO * size else "abelian(1)"


def _misfit(matrices: Tensor, name: str, known: Tensor) -> tuple[bool, float, bool, int]:
    """Order of names: by how many copies of the name's own matrices these amount to, then by size, then so first."""
    copies = _index(matrices) / _index(known)
    order = ("so", "sl", "sp", "u(", "su", "gl", "e(")
    no_copies = abs(copies - round(copies)) > LARGEST_ZERO or copies < 0.5
    return no_copies, round(copies, 1), matrices.shape[-1] != known.shape[-1], order.index(name[:2])


def _index(matrices: Float[Tensor, "n d d"]) -> float:
    """The Dynkin index: tr(L_i L_j) over the Killing form."""
    traces = torch.einsum("iab,jba->ij", matrices, matrices)
    killing = killing_form(structure_constants(matrices))
    return float((traces * killing).sum() / killing.square().sum().clamp(min=1e-300))


def _sum_of_ideals(matrices: Tensor, noise: float) -> tuple[str, ...]:
    """A centre and simple ideals, each by its name; nothing if the algebra is not such a sum."""
    constants = _constants(matrices, noise)
    _, values, vectors = torch.linalg.svd(constants.flatten(0, 1), full_matrices=False)
    derived = torch.einsum("kn,nab->kab", vectors[values > _zero(noise) * values[0]], matrices)
    u, values, _ = torch.linalg.svd(constants.flatten(1))
    centre_size = len(matrices) - int((values > _zero(noise) * values[0]).sum())
    if len(derived) + centre_size != len(matrices):
        return ()
    centre = torch.einsum("nk,nab->kab", u[:, len(matrices) - centre_size :], matrices)
    whole = names_of(derived, noise)[:1] if centre_size else ()
    parts = whole or tuple(name for ideal in _ideals(derived, noise) for name in names_of(ideal, noise)[:1] or ("?",))
    if not parts or "?" in parts:
        return ()
    rest = (_one_parameter(centre[0]) if centre_size == 1 else f"abelian({centre_size})",) if centre_size else ()
    return (" + ".join((*sorted(parts), *rest)),)


def _ideals(matrices: Tensor, noise: float) -> list[Tensor]:
    """The ideals of a semisimple algebra: joint eigenspaces of a random map that commutes with the adjoint action."""
    adjoint = _constants(matrices, noise).mT.contiguous()
    n = len(adjoint)
    eye = torch.eye(n, dtype=adjoint.dtype)
    commuting = torch.cat([torch.kron(a, eye) - torch.kron(eye, a.mT.contiguous()) for a in adjoint])
    _, values, vectors = torch.linalg.svd(commuting.mT @ commuting)
    null = vectors[values.sqrt() < max(1e-6, noise) * values[0].sqrt()]
    mixture = torch.randn(len(null), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(adjoint)
    eigenvalues, eigenvectors = torch.linalg.eig((mixture @ null).reshape(n, n))
    remaining, ideals, width = list(range(n)), [], max(1e-6, 3 * noise) * eigenvalues.abs().max()
    while remaining:
        first = eigenvalues[remaining[0]]
        near = [i for i in remaining if min(abs(eigenvalues[i] - first), abs(eigenvalues[i] - first.conj())) < width]
        remaining = [i for i in remaining if i not in near]
        vectors_here = eigenvectors[:, near]
        span = torch.linalg.svd(torch.cat([vectors_here.real, vectors_here.imag], 1)).U[:, : len(near)]
        ideals.append(torch.einsum("nk,nab->kab", span, matrices))
    return ideals if len(ideals) > 1 else []


@functools.cache
def _known_invariants(name: str, make: Callable[[], Tensor]) -> Invariants:
    return invariants(make())


def _catalogue(dimension: int) -> Iterator[tuple[str, int, Callable[[], Tensor]]]:
    """(name, dimension, matrices) of the classical algebras of up to a dimension."""
    for n in range(2, dimension + 2):
        if n * (n - 1) // 2 == dimension:
            for p in range(n // 2 + 1):
                name = f"so({n})" if p == 0 else f"so({p},{n - p})"
                yield name, dimension, functools.partial(_orthogonal, p, n - p)
        yield f"sl({n})", n * n - 1, functools.partial(_special_linear, n)
        yield f"sp({2 * n - 2})", (n - 1) * (2 * n - 1), functools.partial(_symplectic, n - 1)
        yield f"u({n})", n * n, functools.partial(_unitary, n)
        yield f"su({n})", n * n - 1, functools.partial(_unitary, n, special=True)
        yield f"gl({n})", n * n, functools.partial(_general_linear, n)
        yield f"e({n})", n * (n + 1) // 2, functools.partial(_euclidean, n)


def _units(n: int, pairs: list[tuple[int, int]]) -> Tensor:
    matrices = torch.zeros(len(pairs), n, n, dtype=torch.float64)
    for matrix, (i, j) in zip(matrices, pairs, strict=True):
        matrix[i, j] = 1.0
    return matrices


def _orthogonal(p: int, q: int) -> Float[Tensor, "n d d"]:
    pairs = [(i, j) for i in range(p + q) for j in range(i)]
    upper = _units(p + q, pairs)
    metric = torch.diag(torch.tensor([-1.0] * p + [1.0] * q, dtype=torch.float64))
    return (upper - upper.mT) @ metric


def _general_linear(n: int) -> Float[Tensor, "n d d"]:
    return _units(n, [(i, j) for i in range(n) for j in range(n)])


def _special_linear(n: int) -> Float[Tensor, "n d d"]:
    off = _units(n, [(i, j) for i in range(n) for j in range(n) if i != j])
    diagonal = _units(n, [(i, i) for i in range(n)])
    return torch.cat([off, diagonal[:-1] - diagonal[1:]])


def _symplectic(n: int) -> Float[Tensor, "n d d"]:
    """J S for symmetric S."""
    pairs = [(i, j) for i in range(2 * n) for j in range(i + 1)]
    symmetric = _units(2 * n, pairs)
    eye = torch.eye(n, dtype=torch.float64)
    form = torch.kron(torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64), eye)
    return form @ (symmetric + symmetric.mT)


def _unitary(n: int, *, special: bool = False) -> Float[Tensor, "n d d"]:
    """Antihermitian A + iB as real matrices [[A, -B], [B, A]]."""
    lower = _units(n, [(i, j) for i in range(n) for j in range(i)])
    diagonal = _units(n, [(i, i) for i in range(n)])
    imaginary = torch.cat([lower + lower.mT, diagonal[:-1] - diagonal[1:] if special else diagonal])
    one, i = torch.eye(2, dtype=torch.float64), torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    real = [torch.kron(one, a) for a in lower - lower.mT]
    return torch.stack([*real, *(torch.kron(i, b) for b in imaginary)])


def _euclidean(n: int) -> Float[Tensor, "n d d"]:
    """Rotations and translations of (x, 1)."""
    rotations = torch.nn.functional.pad(_orthogonal(0, n), (0, 1, 0, 1))
    return torch.cat([rotations, _units(n + 1, [(i, n) for i in range(n)])])
