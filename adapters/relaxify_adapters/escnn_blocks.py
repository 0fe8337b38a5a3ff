"""The kernels that escnn samples between one kind of field and another, irrep by irrep.

In the irreps' own bases, kernels between representations fall apart into kernels between irreps, few of which differ: what
is proved of these is proved of all, at a fraction of the cost.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# of the largest entry, what rounding in float32 leaves
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Part:
    """Kernels between two irreps: the functions `index` of escnn's `formula`, of which `exact` is a copy in float64.

    `copies` places of the block have the same ones.
    """

    rep_in: Any
    rep_out: Any
    formula: Any
    exact: Any
    index: tuple[int, ...]
    kernels: Float[Tensor, "n d_out d_in taps"]
    copies: int = 1

    def is_like(self, other: Part) -> bool:
        """Whether two parts are equal but for rounding."""
        is_same = self.formula is other.formula and self.index == other.index
        return is_same and bool((self.kernels - other.kernels).abs().max() <= _ROUNDING * self.kernels.abs().max())


@dataclass(frozen=True)
class Block:
    """Kernels between two representations: their parts, and the norm of what these leave."""

    parts: tuple[Part, ...]
    rest: float

    @classmethod
    def of(cls, rep_in: Any, rep_out: Any, expansion: Any) -> Block:
        """Of the module that expands them, which many layers may share; found once as long as it is unchanged."""
        sampled = expansion.sampled_basis
        version = (sampled.data_ptr(), sampled._version, rep_in.name, rep_out.name)
        held = _found.get(id(expansion))
        if held is not None and held[0]() is expansion and held[1] == version:
            return held[2]
        found = _block(rep_in, rep_out, expansion)
        _found[id(expansion)] = weakref.ref(expansion), version, found
        return found


_found: dict[int, tuple[weakref.ref[Any], Any, Block]] = {}


@torch.no_grad()
def _block(rep_in: Any, rep_out: Any, expansion: Any) -> Block:
    basis, kernels = expansion.basis, expansion.sampled_basis.detach().to("cpu", torch.float64)
    index, exact = expansion._mask.nonzero()[:, 0].tolist(), _in_double(basis)
    if not _is_direct_sum(basis, rep_in, rep_out):
        return Block((Part(rep_in, rep_out, basis, exact, tuple(index), kernels),), 0.0)
    to_out, to_in = (torch.tensor(rep.change_of_basis).double() for rep in (rep_out, rep_in))
    rows, columns, places = _slices(rep_out), _slices(rep_in), {function: place for place, function in enumerate(index)}
    parts: list[Part] = []
    rest = kernels.square().sum()
    for (into, out), functions in _functions(basis).items():
        held = [(own, places[function]) for own, function in enumerate(functions) if function in places]
        if not held:
            continue
        names, at = zip(*held, strict=True)
        own = torch.einsum("koip,ib->kobp", kernels[list(at)], to_in[:, columns[into]])
        own = torch.einsum("oa,kobp->kabp", to_out[:, rows[out]], own)
        rest -= own.square().sum()
        ends = rep_in.group.irrep(*rep_in.irreps[into]), rep_out.group.irrep(*rep_out.irreps[out])
        part = Part(*ends, basis.bases[into][out], exact.bases[into][out], names, own)
        like = next((at for at, other in enumerate(parts) if other.is_like(part)), None)
        if like is None:
            parts.append(part)
        else:
            parts[like] = replace(parts[like], copies=parts[like].copies + 1)
    # what lies outside of the parts, as changes of basis keep lengths
    return Block(tuple(parts), float(rest.clamp(min=0).sqrt()))


def _is_direct_sum(basis: Any, rep_in: Any, rep_out: Any) -> bool:
    """Whether a basis is made irrep by irrep of these representations, and their changes of basis keep lengths."""
    if not hasattr(basis, "bases") or [basis.in_repr.irreps, basis.out_repr.irreps] != [rep_in.irreps, rep_out.irreps]:
        return False
    return _is_orthogonal(rep_in.change_of_basis) and _is_orthogonal(rep_out.change_of_basis)


def _functions(basis: Any) -> dict[tuple[int, int], list[int]]:
    """Which functions of a basis are those of each pair of irreps, in the order of the pair's own basis."""
    found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    start = 0
    for j in basis.js:
        for into, out in itertools.product(range(len(basis.in_sizes)), range(len(basis.out_sizes))):
            own = basis.bases[into][out]
            if own is not None and j in own.js:
                found[into, out] += range(start, start + own.dim_harmonic(j))
                start += own.dim_harmonic(j)
    return found


def _is_orthogonal(matrix: Any) -> bool:
    return bool(abs(matrix @ matrix.T - np.eye(len(matrix))).max() < 1e-9)


def _slices(rep: Any) -> list[slice]:
    """Where each irrep stands."""
    ends = [0]
    for irrep in rep.irreps:
        ends.append(ends[-1] + rep.group.irrep(*irrep).size)
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def _in_double(basis: Any) -> Any:
    """A copy in float64. torch's own walk compares modules, which these cannot be while one is in float64 and one is not."""
    basis = copy.deepcopy(basis)
    parts = [basis]
    while parts:
        part = parts.pop()
        parts += part._modules.values()
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer.double() if buffer is not None and buffer.is_floating_point() else buffer
    return basis
