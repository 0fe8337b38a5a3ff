"""Intertwiners: what keeps a linear map from being one, L_A; the nearest one, P_H; and those that a layer can express.

L_A(W) = W drho_in(A) - drho_out(A) W (CR sec. 3.1) vanishes exactly on intertwiners. A path of a layer's weights expresses
W_e[block_out, block_in] = scale * w (x) 1. So the nearest expressible map to theta * W, which `fold` writes into the layer,
has w += theta * tr_component(W block) / (d * scale): the trace over the irrep axis (Schur).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.representations import Block, Representation, slices
from relaxify.sites import Path

LARGEST_BASIS = 128
"""Entries of one pair of irreps, above which no basis of its intertwiners is made: of those the time grows with the cube."""

MOST_STEPS = 500


def lie_derivative(
    weight: Float[Tensor, "n_out n_in"], rep_in: Representation, rep_out: Representation
) -> Float[Tensor, "actions n_out n_in"]:
    """L_A(W) = W drho_in(A) - drho_out(A) W for each Lie generator, W rho_in(g) - rho_out(g) W for each finite one.

    Zero exactly when W is an intertwiner (CR sec. 3.1).

    >>> from relaxify import Group
    >>> vector = Representation.defining(Group.parse("SO(3)"))
    >>> lie_derivative(2 * torch.eye(3), vector, vector).abs().max()
    tensor(0.)
    """
    return rep_in.act(weight, transpose=True) - rep_out.act(weight.mT).mT


def intertwiner_basis(
    action_in: Float[Tensor, "actions d_in d_in"], action_out: Float[Tensor, "actions d_out d_out"]
) -> Float[Tensor, "basis d_out d_in"]:
    """An orthonormal basis of the maps B with action_out B = B action_in for every generator, in float64.

    For two equal irreducible representations of real type this is the identity over sqrt(d) (Schur's lemma); for others
    it is read off the null space of the constraint, which needs no Haar measure and so serves every group.
    """
    d_in, d_out = action_in.shape[-1], action_out.shape[-1]
    eye_in, eye_out = torch.eye(d_in, dtype=torch.float64), torch.eye(d_out, dtype=torch.float64)
    # with vec stacking rows: vec(a_out B - B a_in) = (a_out (x) 1 - 1 (x) a_in^T) vec(B)
    rows = [
        torch.kron(out, eye_in) - torch.kron(eye_out, into.mT.contiguous())
        for into, out in zip(action_in.to(eye_in), action_out.to(eye_in), strict=True)
    ]
    if not rows:
        return torch.eye(d_out * d_in, dtype=torch.float64).unflatten(-1, (d_out, d_in))
    _, singular, right = torch.linalg.svd(torch.cat(rows))
    rank = int((singular > 1e-9 * max(1.0, float(singular[0]))).sum())
    return right[rank:].unflatten(-1, (d_out, d_in))


def project_to_intertwiners(
    weight: Float[Tensor, "n_out n_in"], rep_in: Representation, rep_out: Representation
) -> Float[Tensor, "n_out n_in"]:
    """P_H(W): the intertwiner nearest to W in the Frobenius norm, in float64.

    For orthogonal representations of a compact group this is the group average of rho_out(g) W rho_in(g)^-1.

    >>> from relaxify import Group
    >>> vector = Representation.defining(Group.parse("SO(3)"))
    >>> project_to_intertwiners(torch.diag(torch.tensor([1.0, 2, 3])), vector, vector).diagonal().round(decimals=9)
    tensor([2., 2., 2.], dtype=torch.float64)
    """
    weight = weight.detach().to("cpu", torch.float64)
    result = torch.zeros_like(weight)
    bases: dict[tuple[bytes, bytes], Tensor] = {}
    for out, rows, action_out in zip(rep_out.blocks, slices(rep_out.blocks), rep_out.actions, strict=True):
        for into, columns, action_in in zip(rep_in.blocks, slices(rep_in.blocks), rep_in.actions, strict=True):
            if action_in.shape[-1] * action_out.shape[-1] > LARGEST_BASIS:
                pairs = split_pairs(weight[rows, columns], out, into)
                result[rows, columns] = merge_pairs(_nearest(pairs, action_in, action_out), out, into)
                continue
            key = (action_in.numpy().tobytes(), action_out.numpy().tobytes())
            if key not in bases:
                bases[key] = intertwiner_basis(action_in, action_out)
            pairs = split_pairs(weight[rows, columns], out, into)
            coordinates = torch.einsum("kij,vuij->kvu", bases[key], pairs)
            result[rows, columns] = merge_pairs(torch.einsum("kij,kvu->vuij", bases[key], coordinates), out, into)
    return result


def _nearest(
    pairs: Float[Tensor, "*channels d_out d_in"],
    action_in: Float[Tensor, "actions d_in d_in"],
    action_out: Float[Tensor, "actions d_out d_out"],
) -> Float[Tensor, "*channels d_out d_in"]:
    """P_H without a basis: W - X, where X of least norm has L_A(X) = L_A(W), by conjugate gradients on L* L.

    These have few different eigenvalues (those of the Casimir operator), and it takes about as many steps.
    """

    def squared(x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for a_in, a_out in zip(action_in, action_out, strict=True):
            moved = x @ a_in - a_out @ x
            total += moved @ a_in.mT - a_out.mT @ moved
        return total

    result, residual = pairs.clone(), squared(pairs)
    direction, size = residual, residual.square().sum()
    scale = sum(float(torch.linalg.matrix_norm(a, 2).square().sum()) for a in (action_in, action_out))
    # what rounding leaves of an intertwiner has parts on which L* L is all but singular
    enough = max(1e-28 * size, (1e-13 * scale) ** 2 * pairs.square().sum())
    for _ in range(MOST_STEPS):
        if not size > enough:
            break
        image = squared(direction)
        step = size / (direction * image).sum()
        result, residual = result - step * direction, residual - step * image
        before, size = size, residual.square().sum()
        direction = residual + size / before * direction
    return result


def split_pairs(
    weight: Float[Tensor, "rows columns"], out: Block, into: Block
) -> Float[Tensor, "channels_out channels_in d_out d_in"]:
    """A weight's block for one pair of blocks, with the channel and component axes apart."""
    return out.split(into.split(weight).movedim(0, -1)).permute(2, 0, 3, 1)


def merge_pairs(
    pairs: Float[Tensor, "channels_out channels_in d_out d_in"], out: Block, into: Block
) -> Float[Tensor, "rows columns"]:
    """The inverse of `split_pairs`."""
    return into.merge(out.merge(pairs.permute(1, 3, 0, 2)).movedim(-1, 0))


def equal_components(
    matrix: Float[Tensor, "rows columns"], out: Block, into: Block
) -> Float[Tensor, "channels_out channels_in components"]:
    """A view of those entries of a matrix between two blocks of one irrep that join a component to the same one.

    >>> vectors = Block("vector", 2, 3)
    >>> equal_components(torch.eye(6), vectors, vectors).sum(-1)
    tensor([[3., 0.],
            [0., 3.]])
    """
    # fewer steps than `split_pairs` takes: this is done in training steps
    pairs = matrix.unflatten(1, _axes(into)).unflatten(0, _axes(out))
    return pairs.diagonal(0, int(out.layout == "channel_major"), 2 + int(into.layout == "channel_major"))


def _axes(block: Block) -> tuple[int, int]:
    shape = (block.multiplicity, block.dimension)
    return shape if block.layout == "channel_major" else shape[::-1]


def as_channels(
    weight: Float[Tensor, "_"], path: Path, out: Block, into: Block
) -> Float[Tensor, "channels_out channels_in"]:
    """A path's slice of its flat parameter as the matrix w between the channels of two blocks, a view."""
    if path.order == "out_in":
        return weight.view(out.multiplicity, into.multiplicity)
    return weight.view(into.multiplicity, out.multiplicity).mT


def as_slice(channels: Float[Tensor, "channels_out channels_in"], path: Path) -> Float[Tensor, "_"]:
    """The inverse of `as_channels`."""
    return (channels.mT if path.order == "in_out" else channels).flatten()


def add_paths(
    matrix: Float[Tensor, "n_out n_in"],
    blocks_in: Sequence[Block],
    blocks_out: Sequence[Block],
    paths: Iterable[Path],
    weights: Iterable[Float[Tensor, "_"]],
) -> Float[Tensor, "n_out n_in"]:
    """The matrix + the sum over paths of scale * w (x) 1, in place, given each path's slice of its flat parameter.

    >>> vector = [Block("vector", 1, 3)]
    >>> add_paths(torch.zeros(3, 3), vector, vector, [Path("weight", 0, 0, 0, scale=2.0)], [torch.ones(1)])
    tensor([[2., 0., 0.],
            [0., 2., 0.],
            [0., 0., 2.]])
    """
    columns, rows = list(slices(blocks_in)), list(slices(blocks_out))
    for path, weight in zip(paths, weights, strict=True):
        into, out = blocks_in[path.block_in], blocks_out[path.block_out]
        channels = as_channels(weight, path, out, into)
        scaled = channels if path.scale == 1 else path.scale * channels
        equal_components(matrix[rows[path.block_out], columns[path.block_in]], out, into).add_(scaled[..., None])
    return matrix


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
        mean = equal_components(matrix[rows[path.block_out], columns[path.block_in]], out, into).mean(-1)
        updates.append(as_slice(mean * path.scale / gain[path.block_out, path.block_in], path))
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
        traced = [_traced(cross[rows[block_out], columns[s]], out, blocks_in[s]) for s in sources]
        gram = [[_traced(c[columns[s], columns[t]], blocks_in[s], blocks_in[t]) for t in sources] for s in sources]
        g = torch.cat([torch.cat(row, dim=1) for row in gram])
        # directions that the data do not have are rounding errors of the moment, whose inverse would be anything
        h = torch.cat(traced, dim=1) @ torch.linalg.pinv(g, hermitian=True, rtol=len(g) * torch.finfo(moment.dtype).eps)
        by_source = dict(zip(sources, h.split([blocks_in[s].multiplicity for s in sources], dim=1), strict=True))
        for k in members:
            path = paths[k]
            gain = sum(paths[j].scale ** 2 for j in members if paths[j].block_in == path.block_in)
            updates[k] = as_slice(by_source[path.block_in] * path.scale / gain, path)
    return updates


def _traced(matrix: Float[Tensor, "rows columns"], out: Block, into: Block) -> Float[Tensor, "channels_out channels_in"]:
    return equal_components(matrix, out, into).sum(-1)
