"""What keeps learned generators near a Lie algebra (LC sec. 3, App. F.2): closure, and orthogonality under the Killing form.

Both are measured on probe vectors z: brackets [L_i, L_j] z and products f L_k z cost 2 n_L^2 applications of one generator,
and no matrix is formed. In small spaces the unit vectors are the probes, which is the definition itself.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import killing_form
from relaxify.lconv.operators import Generators

# keeps the fit of structure constants defined where generators are dependent, far above rounding and below any effect
RIDGE = 1e-6

# points of a space whose unit vectors are all probes, and how many random ones serve a larger space
LARGEST_WHOLE = 64
FEW = 8


def closure_penalty(
    generators: Generators, *, probes: int | None = None, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """sum_ij |[L_i, L_j] - f_ij^k L_k|^2 / sum_ij |L_i L_j|^2 with the best f: 0 where the L_i span a Lie algebra.

    ValueError for generators between two spaces, which have no bracket.

    >>> from relaxify.lconv import algebra
    >>> bool(closure_penalty(algebra("so(3)"), probes=8) < 1e-6)
    True
    """
    return _measure(generators, probes, generator)[0]


def killing_penalty(
    generators: Generators, *, probes: int | None = None, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """The share of the Killing form K_ij = f_il^m f_jm^l off its diagonal: 0 where the L_i are orthogonal under it.

    It is 0 for an Abelian algebra, too, whose Killing form is 0.
    """
    killing = killing_form(_measure(generators, probes, generator)[1])
    total = killing.square().sum()
    off = total - killing.diagonal().square().sum()
    # nearly Abelian generators have no direction to be turned to
    return torch.where(total > 1e-8, off / total.clamp(min=1e-8), torch.zeros_like(off))


def _measure(generators: Generators, probes: int | None, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The closure residual and the structure constants f_ij^k of the normalised generators, on random probes."""
    space = generators.space_of(None)
    if generators.space_out() != space:
        raise ValueError(f"generators from {space} to {generators.space_out()} have no bracket; use ones of one space.")
    z = _probes(math.prod(space), probes, generator).reshape(1, -1, *space).to(generators.numbers)
    once = generators.act(z)
    size = _or_one(once.flatten(1).norm(dim=1).detach() / z.norm())
    size = size.reshape(-1, *(1,) * (once.dim() - 1))
    once = once / size
    # products[j, i] = L_j L_i z
    products = generators.act(once.flatten(0, 1)).unflatten(1, (generators.count, 1)) / size[:, None]
    brackets = (products - products.transpose(0, 1)).flatten(2)
    constants = _fit(brackets.flatten(0, 1), once.flatten(1)).unflatten(0, brackets.shape[:2])
    rest = brackets - torch.einsum("ijk,ks->ijs", constants, once.flatten(1))
    scale = products.square().sum()
    return rest.square().sum() / _or_one(scale), constants


def _probes(d: int, probes: int | None, generator: torch.Generator | None) -> Float[Tensor, "probes d"]:
    """Random ones if their number is given or the space is large, else the unit vectors."""
    if probes is None and d <= LARGEST_WHOLE:
        return torch.eye(d)
    return torch.randn(probes or FEW, d, generator=generator)


def _fit(values: Float[Tensor, "many size"], basis: Float[Tensor, "n size"]) -> Float[Tensor, "many n"]:
    gram = basis @ basis.mT
    ridge = RIDGE * _or_one(gram.diagonal().mean())
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), basis @ values.mT).mT


def _or_one(size: Tensor) -> Tensor:
    """A size to divide by: one where there is nothing to divide."""
    return torch.where(size > 0, size, torch.ones_like(size))
