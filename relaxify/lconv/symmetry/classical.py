"""Names of algebras: so(n), so(p,q), sl(n), sp(n), u(n), su(n), gl(n), e(n), sim(n), t(n), scaling, abelian, and their sums.

An algebra is recognised by numbers that do not depend on its basis: dimension, dimensions of its centre and of its derived
algebra, and the signature of its Killing form. Where these leave several names (so(3) is su(2)), the trace form of the
matrices over the Killing form says which of them the matrices define. What commutes with all, as scaling does, is named by
how it acts: so(3) + scaling is isomorphic to u(2), and nobody would call it that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import Signature, brackets, killing_form, orthonormal, signature, structure_constants
from relaxify.lconv.symmetry.by_name import catalogue

# Eigenvalues and singular values below a share of the largest count as zero: this many times the closure residual, but
# at least what rounding leaves and at most a tenth.
ZERO_PER_NOISE = 5.0
SMALLEST_ZERO, LARGEST_ZERO = 1e-6, 0.1

# a span whose brackets leave it by more than this is not an algebra
LARGEST_CLOSURE_RESIDUAL = 0.1

# of the largest singular value: what matrices reach less is noise
SMALLEST_REACH = 0.01

# sum |eigenvalue|^2 over |L|^2, 1 for normal matrices (Henrici, 1962): below it what eigenvalues are is not known
SMALLEST_NORMAL = 1e-3

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
    if n > LARGEST_NAMED:
        return _all_rotations(matrices)
    if n == 0 or noise > LARGEST_CLOSURE_RESIDUAL:
        return ()
    matrices = orthonormal(matrices.double())
    if 0 < (unseen := _ignored(matrices, noise)).shape[1] < len(unseen):
        return _beside_ignored(matrices, unseen, noise)
    found = invariants(matrices, noise)
    if found.derived == 0:
        return (_abelian(matrices),)
    centre = _centre(matrices, noise)
    candidates = [(name, make) for name, size, make in catalogue(n) if size == n]
    matching = [(name, make()) for name, make in candidates if _known_invariants(name, make) == found]
    matching = [(name, known) for name, known in matching if not len(centre) or _acts_as_in(name, centre[0])]
    names = tuple(name for name, _ in sorted(matching, key=lambda entry: _misfit(matrices, entry[0], entry[1], noise)))
    if n > LARGEST_SPLIT or any(_is_made_of(matrices, *entry, noise) for entry in matching):
        return names
    return _sum_of_ideals(matrices, noise) or names


def _all_rotations(matrices: Float[Tensor, "n d d"]) -> tuple[str, ...]:
    """The name of independent antisymmetric matrices that are all of so(r): of r numbers there are no more."""
    moved = _moved(matrices).shape[1]
    is_antisymmetric = float((matrices + matrices.mT).norm()) < SMALLEST_REACH * float(matrices.norm())
    return (f"so({moved})",) if is_antisymmetric and len(matrices) == moved * (moved - 1) // 2 else ()


def _ignored(matrices: Float[Tensor, "n d d"], noise: float) -> Float[Tensor, "d k"]:
    """The w for which w v^T is in the span for every v: |P(w v^T)|^2 summed over v is w^T (sum L L^T) w, at most d."""
    values, vectors = torch.linalg.eigh(torch.einsum("nab,ncb->ac", matrices, matrices))
    return vectors[:, values > (1 - _zero(noise)) * len(values)]


def _beside_ignored(matrices: Float[Tensor, "n d d"], unseen: Float[Tensor, "d k"], noise: float) -> tuple[str, ...]:
    """The names on the coordinates that are left."""
    d, k = unseen.shape
    seen = torch.linalg.qr(torch.cat([unseen, torch.eye(d).to(unseen)], 1)).Q[:, k:]
    inside = (seen.mT @ matrices @ seen).flatten(1)
    rest = torch.linalg.svd(inside).Vh[: len(matrices) - k * d].reshape(-1, d - k, d - k)
    if not len(rest):
        return (f"ignored({k})",)
    return tuple(f"{name} + ignored({k})" for name in names_of(rest, noise))


def _constants(matrices: Tensor, noise: float) -> Tensor:
    """Structure constants of this orthonormal basis, zero where brackets are no larger than what closure leaves over."""
    constants = structure_constants(matrices)
    products = torch.einsum("iab,jbc->ijac", matrices, matrices)
    inside, whole = constants.norm(), brackets(matrices).norm()
    outside = (whole.square() - inside.square()).clamp(min=0).sqrt()
    # products of translations are zero, and their brackets rounding
    negligible = inside <= max(1e-9 * len(matrices), max(1e-9, noise) * products.norm()) or (
        noise > 1e-9 and inside <= 2 * outside
    )
    return torch.zeros_like(constants) if negligible else constants


def _zero(noise: float) -> float:
    return min(max(ZERO_PER_NOISE * noise, SMALLEST_ZERO), LARGEST_ZERO)


def _rank(matrix: Tensor, zero: float) -> int:
    values = torch.linalg.svdvals(matrix)
    return int((values > zero * values[0]).sum())


def _centre(matrices: Float[Tensor, "n d d"], noise: float) -> Float[Tensor, "k d d"]:
    """What commutes with all of an algebra, as an orthonormal basis."""
    u, values, _ = torch.linalg.svd(_constants(matrices, noise).flatten(1))
    size = len(matrices) - int((values > _zero(noise) * values[0]).sum())
    return torch.einsum("nk,nab->kab", u[:, len(matrices) - size :], matrices)


def _acts_as_in(name: str, central: Float[Tensor, "d d"]) -> bool:
    """Whether an algebra with this centre is the one of the name: in u(n) it is the complex unit, in gl(n) scaling."""
    if name.startswith("u("):
        square = central @ central
        return bool(torch.trace(square) < 0) and _is_scaling(square)
    return _is_scaling(central) if name.startswith("gl(") else True


def _is_scaling(matrix: Float[Tensor, "d d"]) -> bool:
    """Whether it is a multiple of a projection."""
    square, trace = matrix @ matrix, torch.trace(matrix)
    if trace.abs() < LARGEST_ZERO * matrix.norm():
        return False
    factor = torch.trace(square) / trace
    return float((square - factor * matrix).norm()) < LARGEST_ZERO * float(square.norm())


def _abelian(matrices: Float[Tensor, "n d d"]) -> str:
    """Scaling of all that moves, by its name, beside the rest."""
    n = len(matrices)
    if n == 1:
        return _one_parameter(matrices[0])
    if _are_translations(matrices):
        return f"t({n})"
    if _are_turns_of_planes(matrices):
        return " + ".join(["so(2)"] * n)
    moved = _moved(matrices)
    scaling = moved @ moved.mT / math.sqrt(moved.shape[1])
    share = torch.einsum("nab,ab->n", matrices, scaling)
    if 1 - float(share.norm()) > LARGEST_ZERO:
        return f"abelian({n})"
    rest = torch.linalg.svd(share[None]).Vh[1:]
    other = _abelian(torch.einsum("kn,nab->kab", rest, matrices))
    return f"abelian({n})" if other.startswith("abelian") else f"{other} + scaling"


def _are_translations(matrices: Float[Tensor, "n d d"]) -> bool:
    """Of the points (x, 1) in all directions of x: what they move is the last coordinate alone."""
    n, d, _ = matrices.shape
    sizes = torch.linalg.svdvals(matrices.flatten(0, 1))
    is_nilpotent = float(torch.einsum("iab,jbc->ijac", matrices, matrices).norm()) < LARGEST_ZERO
    return n == d - 1 and is_nilpotent and bool(sizes[1] < LARGEST_ZERO * sizes[0])


def _are_turns_of_planes(matrices: Float[Tensor, "n d d"]) -> bool:
    """Of as many planes as there are generators, which then turn each of them alone."""
    n = len(matrices)
    mixture = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eigenvalues = torch.linalg.eigvals(torch.einsum("n,nab->ab", mixture.to(matrices), matrices))
    turns = float(eigenvalues.real.abs().max()) < LARGEST_ZERO * float(eigenvalues.imag.abs().max())
    return turns and _moved(matrices).shape[1] == 2 * n


def _one_parameter(matrix: Float[Tensor, "d d"]) -> str:
    """so(2) for closed or quasi-periodic orbits, so(1,1) for hyperbolic ones, scaling, else just one dimension."""
    if _is_scaling(matrix):
        return "scaling"
    eigenvalues = torch.linalg.eigvals(matrix)
    size = eigenvalues.abs().max()
    # of a shear rounding makes small eigenvalues, of its root
    if float(eigenvalues.abs().square().sum()) < SMALLEST_NORMAL * float(matrix.square().sum()):
        return "abelian(1)"
    if eigenvalues.real.abs().max() < LARGEST_ZERO * size:
        return "so(2)"
    is_balanced = eigenvalues.real.sum().abs() < LARGEST_ZERO * size
    return "so(1,1)" if is_balanced and eigenvalues.imag.abs().max() < LARGEST_ZERO * size else "abelian(1)"


def _misfit(matrices: Tensor, name: str, known: Tensor, noise: float) -> tuple[bool, float, bool, int]:
    """Order of names: by how many copies of the name's own matrices these amount to, then by size, then so first."""
    copies = _index(matrices, noise) / _index(known)
    order = ("so", "sl", "sp", "u(", "su", "gl", "e(", "si")
    no_copies = abs(copies - round(copies)) > LARGEST_ZERO or copies < 0.5
    return no_copies, round(copies, 1), matrices.shape[-1] != known.shape[-1], order.index(name[:2])


def _is_made_of(matrices: Tensor, name: str, known: Tensor, noise: float) -> bool:
    """Whether these may be copies of the name's own matrices: as so(4) + so(4) on R^8, and not so(3) + so(3) on R^6."""
    no_copies, copies, *_ = _misfit(matrices, name, known, noise)
    return not no_copies and len(_moved(matrices, noise).mT) == round(copies) * len(_moved(known).mT)


def _moved(matrices: Float[Tensor, "n d d"], noise: float = 0.0) -> Float[Tensor, "d k"]:
    """An orthonormal basis, in columns, of what the matrices reach; in skewed coordinates they reach some of it little."""
    u, values, _ = torch.linalg.svd(matrices.mT.flatten(0, 1).mT, full_matrices=False)
    return u[:, : int((values > _reach(noise) * values[0]).sum())]


def _reach(noise: float) -> float:
    """Of the largest singular value: below this there is nothing but noise."""
    return min(SMALLEST_REACH, _zero(noise))


def _index(matrices: Float[Tensor, "n d d"], noise: float = 0.0) -> float:
    """The Dynkin index: tr(L_i L_j) over the Killing form, on what brackets reach unless that form is zero there."""
    reach = _reach(noise)
    constants = structure_constants(matrices)
    _, values, vectors = torch.linalg.svd(constants.flatten(0, 1), full_matrices=False)
    derived = torch.einsum("kn,nab->kab", vectors[values > reach * values[0]], matrices)
    killing = killing_form(structure_constants(derived))
    if killing.norm() < reach * constants.norm():
        derived, killing = matrices, killing_form(constants)
    traces = torch.einsum("iab,jba->ij", derived, derived)
    inverse = torch.linalg.pinv(killing, rtol=reach, hermitian=True)
    return float((inverse * traces).sum() / (inverse * killing).sum().clamp(min=1e-9))


def _sum_of_ideals(matrices: Tensor, noise: float) -> tuple[str, ...]:
    """A centre and simple ideals, each by its name; nothing if the algebra is not such a sum."""
    constants = _constants(matrices, noise)
    _, values, vectors = torch.linalg.svd(constants.flatten(0, 1), full_matrices=False)
    derived = torch.einsum("kn,nab->kab", vectors[values > _zero(noise) * values[0]], matrices)
    centre = _centre(matrices, noise)
    if len(derived) + len(centre) != len(matrices):
        return ()
    whole = names_of(derived, noise)[:1] if len(centre) else ()
    parts = whole or tuple(name for ideal in _ideals(derived, noise) for name in names_of(ideal, noise)[:1] or ("?",))
    if not parts or "?" in parts:
        return ()
    rest = (_abelian(centre),) if len(centre) else ()
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
