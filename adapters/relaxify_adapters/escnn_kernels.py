"""How escnn's kernels move: the action on taps between taps, fitted to kernels that are sampled from steerable functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.grids.taps import Equivariants, acts_exactly, fitted, interpolation_error
from relaxify_adapters.escnn_blocks import Block, Part
from relaxify_adapters.escnn_groups import Fibre


def blocks_of(module: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(input representation, output representation, module that expands the kernels between the two)."""
    expansion = module.basisexpansion
    inputs = {rep.name: rep for rep in expansion._in_reprs}
    outputs = {rep.name: rep for rep in expansion._out_reprs}
    for pair in expansion._representations_pairs:
        yield inputs[pair[0]], outputs[pair[1]], getattr(expansion, f"block_expansion_{expansion._escape_pair(pair)}")


def tap_action(module: Any, fibre: Fibre, size: tuple[int, ...]) -> tuple[Tensor, float]:
    """How the group acts on the taps, and the interpolation's error."""
    grid, lie = fibre.grid(size), len(fibre.group.generators)
    if acts_exactly(fibre.group.generators, fibre.matrices, size):
        return grid, 0.0
    known = [_equivariants(part, fibre) for triple in blocks_of(module) for part in Block.of(*triple).parts]
    grid = fitted(grid, known, lie)
    return grid, interpolation_error(grid, known, lie)


def _equivariants(part: Part, fibre: Fibre) -> Equivariants:
    return Equivariants(part.kernels, fibre.action(part.rep_in), fibre.action(part.rep_out), part.copies)


def steerability_error(rep_in: Any, rep_out: Any, block: Any, module: Any, fibre: Fibre) -> float:
    """max over g of |K(g x) - rho_out(g) K(x) rho_in(g)^-1| / |K| over the kernels of one block, at the taps moved by g.

    The kernels are formulas, so nothing is interpolated.
    """
    if not hasattr(module, "kernel_size"):
        kernels = block.sampled_basis[..., 0].double()
        actions = zip(fibre.matrices_of(rep_in), fibre.matrices_of(rep_out), strict=True)
        errors = [torch.einsum("ao,koi->kai", out, kernels) - kernels @ into for into, out in actions]
        return max(float(error.norm() / kernels.norm()) for error in errors)
    points, action = torch.tensor(module.basisexpansion.points), module.in_type.gspace.basespace_action
    moved = [points.double() @ torch.tensor(action(g)).double().mT for g in fibre.some_elements]
    found = Block.of(rep_in, rep_out, block)
    squares = torch.stack([part.copies * _norms(part, points, moved, fibre).square() for part in found.parts]).sum(0)
    size, rounding, *errors = squares.sqrt().tolist()
    return max((max(errors) + rounding + found.rest) / size, *(_reducing_error(rep, fibre) for rep in (rep_in, rep_out)))


def _norms(part: Part, points: Tensor, moved: Sequence[Tensor], fibre: Fibre) -> Float[Tensor, " 2_and_elements"]:
    """|K|, |K - F|, and |F(g x) - rho_out(g) F(x) rho_in(g)^-1| for each g, F being the formula of the kernels K."""
    own, formula = points.double(), part.exact
    # the layer scales each kernel, and has it as it was computed in float32 at its own taps
    coarse = part.formula.sample(own.float())[:, part.index].double()
    scale = ((part.kernels.movedim(-1, 0) * coarse).sum((0, 2, 3)) / coarse.square().sum((0, 2, 3)))[:, None, None]
    here, *there = (formula.sample(torch.cat([own, *moved]))[:, part.index] * scale).split(len(own))
    rests = [part.kernels, part.kernels.movedim(-1, 0) - coarse * scale]
    for kernels, into, out in zip(there, fibre.matrices_of(part.rep_in), fibre.matrices_of(part.rep_out), strict=True):
        turned = torch.einsum("ao,pkoi,ij->pkaj", out, here, torch.linalg.inv(into))
        rests.append(kernels - turned)
    return torch.stack([rest.norm() for rest in rests])


def _reducing_error(rep: Any, fibre: Fibre) -> float:
    """How far a representation is from the irreps that it says it consists of."""
    basis, irreps = torch.tensor(rep.change_of_basis).double(), [rep.group.irrep(*irrep) for irrep in rep.irreps]
    errors = [0.0]
    for matrix, *parts in zip(fibre.matrices_of(rep), *map(fibre.matrices_of, irreps), strict=True):
        errors.append(float((matrix @ basis - basis @ torch.block_diag(*parts)).norm() / basis.norm()))
    return max(errors)
