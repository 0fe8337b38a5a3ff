"""What keeps learned generators near a Lie algebra (LC sec. 3, App. F.2): closure, a Killing form diagonal and of full rank.

All are measured on probe vectors z: brackets [L_i, L_j] z and products f L_k z cost 2 n_L^2 applications of one generator,
and no matrix is formed. Where that is affordable the unit vectors are the probes, which is the definition itself.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import killing_form
from relaxify.lconv.operators import Dense, Generators, Grid, LowRank

# keeps the fit of structure constants defined where generators are dependent, far above rounding and below any effect
RIDGE = 1e-6

# multiplications for which unit vectors are the probes, points for which they always are, and random ones for what is larger
AFFORDABLE = 2**31
LARGEST_WHOLE = 64
FEW = 16
LARGEST_PRODUCTS = 2**25
GROUPS = 4
FEW_FOR_NORMS = 64

Act = Callable[[Tensor], Tensor]


def closure_penalty(
    generators: Generators,
    *,
    relative_to: Literal["products", "brackets"] = "products",
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """sum_ij |[L_i, L_j] - f_ij^k L_k|^2 / sum_ij |L_i L_j|^2 with the best f: 0 where the L_i span a Lie algebra.

    Generators that all but commute come near one, and minimising this alone often ends there. With
    `relative_to="brackets"` the denominator is sum_ij |[L_i, L_j]|^2, so that small brackets do not pay; with
    `degeneracy_penalty` added, the algebra is semisimple. ValueError for generators between two spaces, which have no
    bracket.

    >>> from relaxify.lconv import algebra
    >>> bool(closure_penalty(algebra("so(3)"), probes=8) < 1e-6)
    True
    """
    return _measure(generators, probes, generator).residual(relative_to)


def killing_penalty(
    generators: Generators, *, probes: int | None = None, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """The share of the Killing form K_ij = f_il^m f_jm^l off its diagonal: 0 where the L_i are orthogonal under it.

    It is 0 for an Abelian algebra, too, whose Killing form is 0. From random probes the squares of K's entries are products
    of estimates that share no probe, so that noise in the f does not pass for a share; where K is within its noise, so is
    the penalty near 0.
    """
    squares, noise = _measure(generators, probes, generator).squared_killing()
    total = squares.sum()
    off = total - squares.diagonal().sum()
    # nearly Abelian generators have no direction to be turned to
    smallest = noise.clamp(min=1e-8)
    return torch.where((total > 1e-8) | (noise > 0), off / torch.maximum(total, smallest), torch.zeros_like(off))


def degeneracy_penalty(
    generators: Generators, *, floor: float = 1.0, probes: int | None = None, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """mean_i max(0, 1 - |kappa_i| / floor)^2 over the eigenvalues of the Killing form in an orthonormal basis of the span.

    The basis is of matrices whose rows have norm one on average; in it |kappa| is n (n - 2) for so(n), 2 n^2 for sl(n) and
    8 for su(2) on R^4. It depends on the span alone: neither scaling the generators nor making them alike pays. It is 0
    where all |kappa_i| are above the floor, so that it does not pull on a semisimple algebra that has been found, and
    1 for an Abelian one. Exactly commuting generators are a stationary point. ValueError as for `closure_penalty`.

    >>> from relaxify.lconv import algebra
    >>> float(degeneracy_penalty(algebra("so(3)"))), float(degeneracy_penalty(algebra("T(2)")))
    (0.0, 1.0)
    """
    kappa = torch.linalg.eigvalsh(_measure(generators, probes, generator).killing_of_the_span())
    return (1 - kappa.abs() / floor).clamp(min=0).square().mean()


@dataclass(frozen=True)
class _Measured:
    """L_k z and [L_i, L_j] z of the normalised generators on the probes z, and the size of their products."""

    once: Float[Tensor, "n probes d"]
    brackets: Float[Tensor, "n n probes d"]
    scale: Float[Tensor, ""]
    is_whole: bool

    def residual(self, relative_to: str) -> Float[Tensor, ""]:
        rest = self.brackets - torch.einsum("ijk,kpd->ijpd", self.constants(), self.once)
        # a fit to few numbers comes nearer than the best f of all
        n, numbers = len(self.once), self.once[0].numel()
        unbiased = numbers / (numbers - n) if n < numbers and not self.is_whole else 1.0
        scale = self.scale if relative_to == "products" else self.brackets.square().sum()
        return unbiased * rest.square().sum() / _or_one(scale)

    def constants(self, some: slice = slice(None)) -> Float[Tensor, "n n n"]:
        """The f_ij^k, of all probes or of some."""
        pairs, basis = self.brackets[:, :, some].flatten(2), self.once[:, some].flatten(1)
        return _fit(pairs.flatten(0, 1), basis).unflatten(0, pairs.shape[:2])

    def squared_killing(self) -> tuple[Float[Tensor, "n n"], Float[Tensor, ""]]:
        """K_ij^2, without bias from the noise of random probes where there are enough to have groups, and the noise."""
        if self.is_whole or self.once.shape[1] < GROUPS:
            return killing_form(self.constants()).square(), torch.zeros(()).to(self.scale)
        f = [self.constants(slice(first, None, GROUPS)) for first in range(GROUPS)]
        forms = {pair: _symmetric_form(f[pair[0]], f[pair[1]]) for pair in itertools.combinations(range(GROUPS), 2)}
        disjoint = [(p, q) for p, q in itertools.combinations(forms, 2) if not set(p) & set(q)]
        squares = torch.stack([forms[p] * forms[q] for p, q in disjoint]).mean(0)
        alike = torch.stack([form.square() for form in forms.values()]).mean(0)
        return squares, (alike - squares).sum().clamp(min=0).detach()

    def killing_of_the_span(self) -> Float[Tensor, "n n"]:
        """The Killing form in an orthonormal basis."""
        gram = torch.einsum("ipd,jpd->ij", self.once, self.once)
        gram = gram / _or_one(gram.diagonal().mean())
        root = torch.linalg.cholesky(gram + RIDGE * torch.eye(len(gram)).to(gram))
        half = torch.linalg.solve_triangular(root, killing_form(self.constants()), upper=False)
        return torch.linalg.solve_triangular(root, half.mT, upper=False)


def _symmetric_form(f: Float[Tensor, "n n n"], g: Float[Tensor, "n n n"]) -> Float[Tensor, "n n"]:
    form = torch.einsum("ilm,jml->ij", f, g)
    return (form + form.mT) / 2


def _measure(generators: Generators, probes: int | None, generator: torch.Generator | None) -> _Measured:
    space, like = generators.space_of(None), generators.numbers
    if generators.space_out() != space:
        raise ValueError(f"generators from {space} to {generators.space_out()} have no bracket; use ones of one space.")
    act, d = _compressed(generators) if probes is None else (_on_vectors(generators), math.prod(space))
    whole = None if probes is not None else _whole(generators, d)
    is_whole = whole is not None
    z = (torch.randn(probes or FEW, d, generator=generator) if whole is None else whole).to(like)
    once = act(z)
    size = _rows(generators, act, once if is_whole else None, generator)[:, None, None]
    once = once / size
    # products[j, i] = L_j L_i z
    products = act(once.flatten(0, 1)).unflatten(1, once.shape[:2]) / size[:, None]
    return _Measured(once, products - products.transpose(0, 1), products.square().sum(), is_whole)


def _whole(generators: Generators, d: int) -> Float[Tensor, "probes d"] | None:
    """Probes on which traces of two products are what they are on all unit vectors; None if these are too many."""
    if d <= LARGEST_WHOLE or generators.count**2 * d**3 <= AFFORDABLE:
        return torch.eye(d)
    z = _spread(generators) if isinstance(generators, Grid) else None
    return z if z is not None and generators.count**2 * z.numel() <= LARGEST_PRODUCTS else None


def _spread(grid: Grid) -> Float[Tensor, "probes d"] | None:
    """Sums of unit vectors too far apart for L_i L_j to move two of them to one point; None if padding wraps around."""
    geometry, space = grid.stencil.geometry, grid.space_of(None)
    if geometry.padding_mode != "zeros" or geometry.transposed:
        return None
    reach = [
        max(before, d * (k - 1) - before)
        for (before, _), d, k in zip(geometry.padding, geometry.dilation, geometry.size, strict=True)
    ]
    periods = [min(4 * far + 1, size) for far, size in zip(reach, space, strict=True)]
    along = [
        (torch.arange(size) % period == torch.arange(period)[:, None]).float()
        for period, size in zip(periods, space, strict=True)
    ]
    return functools.reduce(torch.kron, along)


def _on_vectors(generators: Generators) -> Act:
    """The generators on vectors (many, d)."""
    return lambda z: generators.act(z.reshape(1, len(z), *generators.space_of(None)))[:, 0].flatten(2)


def _compressed(generators: Generators) -> tuple[Act, int]:
    """The generators, and the dimension of what they act on: for low rank, all that they read and paint, if that is less.

    Traces of products of L_i and L_j^T see no more of them, and neither do the gradients of such traces.
    """
    d = math.prod(generators.space_of(None))
    if not isinstance(generators, LowRank) or 2 * generators.count * generators.rank >= d:
        return _on_vectors(generators), d
    with torch.no_grad():
        painted, read = generators.up.transpose(0, 1).flatten(1), generators.down.flatten(0, 1).mT
        basis = torch.linalg.qr(torch.cat([painted, read], 1)).Q
    small = (basis.mT @ generators.up) @ (generators.down @ basis)
    return lambda z: torch.einsum("nij,pj->npi", small, z), basis.shape[1]


@torch.no_grad()
def _rows(
    generators: Generators, act: Act, columns: Tensor | None, generator: torch.Generator | None
) -> Float[Tensor, " n"]:
    """The rows' root mean square norms: exactly if L_i's columns are known, else from random probes."""
    d = math.prod(generators.space_of(None))
    if columns is None and isinstance(generators, Dense):
        columns = generators.matrices
    if columns is not None:
        return _or_one(columns.flatten(1).norm(dim=1) / math.sqrt(d))
    z = torch.randn(FEW_FOR_NORMS, d, generator=generator).to(generators.numbers)
    return _or_one(act(z).flatten(1).norm(dim=1) / z.norm())


def _fit(values: Float[Tensor, "many size"], basis: Float[Tensor, "n size"]) -> Float[Tensor, "many n"]:
    gram = basis @ basis.mT
    ridge = RIDGE * _or_one(gram.diagonal().mean())
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), basis @ values.mT).mT


def _or_one(size: Tensor) -> Tensor:
    """A size to divide by: one where there is nothing to divide."""
    return torch.where(size > 0, size, torch.ones_like(size))
