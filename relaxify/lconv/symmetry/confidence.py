"""How far the algebra that was found may be from the true one: the scatter of single samples, given random weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.breaks import Scatter
from relaxify.lconv.symmetry.moments import Regression, SecondMoments, antisymmetric, regression, roots
from relaxify.lconv.symmetry.search import Search, ordered
from relaxify.lconv.symmetry.subspaces import overlap

# of the algebra of second moments: beyond, its subspaces take too long
LARGEST_ALGEBRA = 45


def confidence_angle(z: Float[Tensor, "n m d"], fit: Regression, found: Search, *, count: int, seed: int) -> float | None:
    """The 95 % quantile of the largest angle, in degrees, between the algebra and those of `count` resamplings.

    Resamplings have Gaussian weights (the multiplier bootstrap) on the samples whose scatter the families keep. None for a
    part of so(d) with d > 10.
    """
    random, basis = torch.Generator().manual_seed(seed), antisymmetric(torch.eye(z.shape[-1], dtype=z.dtype))
    is_all = found.kept == len(basis)
    if not is_all and len(basis) > LARGEST_ALGEBRA:
        return None
    outer, families = _outer(z, found.families[0].scatter), [] if is_all else found.telling
    scatter = found.families[0].scatter
    weights = torch.randn(count, len(outer), generator=random, dtype=z.dtype) / (len(outer) * scatter.samples) ** 0.5
    frames = torch.eye(z.shape[-1], dtype=z.dtype) + torch.einsum("cm,mab->cab", weights, outer)
    moved = [(weights @ family.rows.flatten(1)).reshape(count, *family.means.shape) + family.means for family in families]
    angles = []
    for index, frame in enumerate(frames):
        kept = basis
        if families:
            _, directions = ordered(families, [means[index] for means in moved])
            kept = torch.einsum("kj,kab->jab", directions[:, : found.kept], basis)
        root, inverse = roots(frame)
        again = replace(fit, root=fit.root @ root, inverse_root=inverse @ fit.inverse_root, whitened=kept)
        angles.append(max(overlap(again.generators, fit.generators).angles, default=0.0))
    return float(torch.tensor(angles).quantile(0.95))


def regression_angle(
    X: Float[Tensor, "n d"], Y: Float[Tensor, "n c"], fit: Regression, *, count: int, seed: int
) -> float | None:
    """The same of Theorem 1 with labels, whose moments are estimated anew from multinomial resamplings of all samples."""
    if not len(fit.whitened) or not count:
        return None
    random, angles = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        weights = torch.bincount(torch.randint(len(X), (len(X),), generator=random), minlength=len(X)).to(X)
        again = regression(SecondMoments.of(X, Y, weights), rank=fit.rank)
        angles.append(max(overlap(again.generators, fit.generators).angles, default=0.0))
    return float(torch.tensor(angles).quantile(0.95))


def _outer(z: Float[Tensor, "n m d"], scatter: Scatter) -> Float[Tensor, "c d d"]:
    """z z^T about its mean."""
    chosen = z[scatter.chosen]
    return scatter.deviations(torch.einsum("nma,nmb->nab", chosen, chosen) / z.shape[1])
