"""The algebra that trained L-convs have learned: the span of their L_i, weighted by what the layer makes of each."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.algebras import closure_residual
from relaxify.lconv.layer import Flow, LConv
from relaxify.lconv.operators.family import LARGEST_DENSE, Space
from relaxify.lconv.symmetry.classical import LARGEST_CLOSURE_RESIDUAL
from relaxify.lconv.symmetry.symmetry import Symmetry, Verdict

SMALLEST_SHARE = 0.05


def generators(
    model: nn.Module, *, space: Space | None = None, smallest_share: float = SMALLEST_SHARE, limit: int = LARGEST_DENSE
) -> dict[str, Symmetry]:
    """What each L-conv and Flow of a model has for generators, by path, as reports.

    L_i enters eq. 6 as L_i h W^i, so only its direction, weighted by |W^i|, means anything; and since L_0 = I is there
    already, only what L_i has apart from a multiple of I. Directions of less than `smallest_share` of the strongest are left
    out. `space` is for families that act on any. ValueError if the model has no L-conv, or if matrices would take more
    than `limit` bytes.

    >>> from relaxify.lconv import algebra
    >>> generators(nn.Sequential(LConv(algebra("so(3)"), 4, 4)))["0"].name
    'so(3)'
    """
    layers = {path: module for path, module in model.named_modules() if isinstance(module, LConv | Flow)}
    if not layers:
        raise ValueError(f"this {type(model).__name__} has no L-conv; make one with LConv or lconvify first.")
    return {path: _report(path, layer, space, smallest_share, limit) for path, layer in layers.items()}


@torch.no_grad()
def _report(path: str, layer: LConv | Flow, space: Space | None, share: float, limit: int) -> Symmetry:
    family = layer.generators
    used = family.space_of(space if family.space is None else None)
    matrices = family.dense(used, limit=limit).double()
    if matrices.shape[1] != matrices.shape[2]:
        raise ValueError(f"{path!r} maps {used} to {family.space_out(used)}: such generators span no algebra; pass another.")
    weighted = matrices * _strengths(layer)[:, None, None]
    if isinstance(layer, LConv):
        d = matrices.shape[-1]
        trace = weighted.diagonal(dim1=1, dim2=2).mean(-1)
        weighted = weighted - trace[:, None, None] * torch.eye(d, dtype=weighted.dtype)
    _, values, directions = torch.linalg.svd(weighted.flatten(1), full_matrices=False)
    kept = directions[values > share * values[0]] if values[0] > 0 else directions[:0]
    basis = kept.reshape(-1, *matrices.shape[1:])
    residual = closure_residual(basis) if len(basis) else 0.0
    closes = len(basis) > 1 and residual <= LARGEST_CLOSURE_RESIDUAL
    reason = f"{len(matrices)} generators span {len(basis)} directions, " + _judgement(len(basis), residual)
    return Symmetry(basis, Verdict.of(closes), reason, f"L-conv {path!r}" if path else "the L-conv", space=used)


def _judgement(dimension: int, residual: float) -> str:
    if dimension <= 1:
        return "and one direction is an algebra whatever it is: compare it with a known one, or test it on data."
    inside = "stay" if residual <= LARGEST_CLOSURE_RESIDUAL else "do not stay"
    return f"whose brackets {inside} in the span (residual {residual:.2g})."


def _strengths(layer: LConv | Flow) -> Float[Tensor, " count"]:
    """|W^i| of each generator."""
    if isinstance(layer, LConv):
        weights: Tensor = layer.generators.per_generator(layer.weight, layer.groups)
    else:
        weights = layer.coefficients
    return weights.detach().double().flatten(1).norm(dim=1) if weights.dim() > 1 else weights.detach().double().abs()
