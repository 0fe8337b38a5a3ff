"""Fold: the part of a relaxation that the layer's own weights can express, written into them.

A path expresses W_e[block_out, block_in] = scale * w (x) 1, so the nearest expressible map to theta * W has
w += theta * tr_component(W block) / (d * scale): the trace over the irrep axis (Schur). All in float64.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.representations import Block, slices, split_pairs
from relaxify.sites import Path


def fold_updates(
    relaxation: Float[Tensor, "n_out n_in"],
    blocks_in: Sequence[Block],
    blocks_out: Sequence[Block],
    paths: Sequence[Path],
) -> list[Float[Tensor, "_"]]:
    """What to add to each path's slice of its flat parameter so that the layer gains the foldable part of `relaxation`.

    `relaxation` is theta * W. Several paths between the same two blocks share the part by least norm.
    """
    matrix = relaxation.detach().to("cpu", torch.float64)
    rows, columns = list(slices(blocks_out)), list(slices(blocks_in))
    gain: defaultdict[tuple[int, int], float] = defaultdict(float)
    for path in paths:
        gain[path.block_out, path.block_in] += path.scale**2
    updates = []
    for path in paths:
        out, into = blocks_out[path.block_out], blocks_in[path.block_in]
        pairs = split_pairs(matrix[rows[path.block_out], columns[path.block_in]], out, into)
        channels = pairs.diagonal(dim1=-2, dim2=-1).mean(-1) * path.scale / gain[path.block_out, path.block_in]
        updates.append((channels.mT if path.order == "in_out" else channels).flatten())
    return updates


def fit_updates(
    relaxation: Float[Tensor, "n_out n_in"],
    blocks_in: Sequence[Block],
    blocks_out: Sequence[Block],
    paths: Sequence[Path],
    moment: Float[Tensor, "n_in n_in"],
) -> list[Float[Tensor, "_"]]:
    """As `fold_updates`, for the expressible H that minimises tr((R - H) C (R - H)^T), C = `moment`.

    Each output block is a least-squares problem of its own: with x_u the copies of the irrep in the input, regress (R x)_v
    on the x_u, summing over components, so h = K G^+ with G = sum_i C[u i, u' i] and K = sum_i (R C)[v i, u i].
    """
    matrix, c = relaxation.detach().to("cpu", torch.float64), moment.to("cpu", torch.float64)
    rows, columns = list(slices(blocks_out)), list(slices(blocks_in))
    cross = matrix @ c
    updates: list[Tensor] = [torch.empty(0)] * len(paths)
    for block_out in {path.block_out for path in paths}:
        members = [k for k, path in enumerate(paths) if path.block_out == block_out]
        sources = list(dict.fromkeys(paths[k].block_in for k in members))
        out = blocks_out[block_out]
        traced = [_trace(cross[rows[block_out], columns[s]], out, blocks_in[s]) for s in sources]
        gram = [[_trace(c[columns[s], columns[t]], blocks_in[s], blocks_in[t]) for t in sources] for s in sources]
        g = torch.cat([torch.cat(row, dim=1) for row in gram])
        # directions that the data do not have are rounding errors of the moment, whose inverse would be anything
        h = torch.cat(traced, dim=1) @ torch.linalg.pinv(g, hermitian=True, rtol=len(g) * torch.finfo(moment.dtype).eps)
        by_source = dict(zip(sources, h.split([blocks_in[s].multiplicity for s in sources], dim=1), strict=True))
        for k in members:
            path = paths[k]
            gain = sum(paths[j].scale ** 2 for j in members if paths[j].block_in == path.block_in)
            channels = by_source[path.block_in] * path.scale / gain
            updates[k] = (channels.mT if path.order == "in_out" else channels).flatten()
    return updates


def _trace(matrix: Float[Tensor, "rows columns"], out: Block, into: Block) -> Float[Tensor, "channels_out channels_in"]:
    """The sum over equal components of a matrix between two blocks."""
    return split_pairs(matrix, out, into).diagonal(dim1=-2, dim2=-1).sum(-1)
