"""D_A g of harmonics g over whitened samples: means of all, and the scatter of some with what whitening adds to it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.breaks import ROUNDING, Family, Scatter
from relaxify.lconv.symmetry.harmonics import Harmonics, polar
from relaxify.lconv.symmetry.rows import Kinds, some

CHUNK = 4096
SMALLEST_SCATTER_SAMPLE, LARGEST_SCATTER_SAMPLE = 60, 600
# numbers in the scatter of one family
LARGEST = 2**23
WINDOWS = 2
# coordinates of the vectors that are looked at together, and how often some of them are chosen
LARGEST_VIEW, MOST_VIEWS = 10, 3
SMALLEST_PRODUCT = 1e-6

Key = tuple[int, int]
"""A degree and a window."""


def families(
    z: Float[Tensor, "n m d"], basis: Float[Tensor, "k d d"], *, centred: bool, seed: int, kinds: Kinds | None = None
) -> tuple[Family, ...]:
    """Of samples of m whitened vectors on which the generators act alike, some of them at a time.

    `kinds` if some rows are copies.
    """
    random = torch.Generator().manual_seed(seed)
    return tuple(
        family
        for mixture in views(z, random)
        for family in _of_view(
            torch.einsum("pm,nmd->npd", mixture, z), z, basis, mixture.sum(1) if centred else None, random, kinds
        )
    )


def views(z: Float[Tensor, "n m d"], random: torch.Generator) -> list[Float[Tensor, "p m"]]:
    """Few mixtures of vectors, uncorrelated with each other: of all of them, or of some chosen by chance.

    Of many, the last view mixes all, so that there is none that is not looked at.
    """
    m, d = z.shape[1:]
    few = min(m, max(2, LARGEST_VIEW // d))
    chosen = [torch.randperm(m, generator=random)[:few] for _ in range(1 if few == m else MOST_VIEWS - 1)]
    mixtures = [torch.eye(m, dtype=z.dtype)[each] for each in chosen]
    if few < m:
        mixtures.append(_of_all(m, few, random).to(z))
    products = torch.einsum("nud,nvd->uv", z, z) / (len(z) * d)
    return [_uncorrelated(mixture @ products @ mixture.mT) @ mixture for mixture in mixtures]


def _of_all(m: int, few: int, random: torch.Generator) -> Float[Tensor, "few m"]:
    """Each vector in one of few mixtures, with a sign by chance."""
    places, signs = torch.arange(m) % few, 2.0 * torch.randint(2, (m,), generator=random) - 1
    return torch.zeros(few, m).index_put((places, torch.randperm(m, generator=random)), signs)


def _uncorrelated(products: Float[Tensor, "m m"]) -> Float[Tensor, "p m"]:
    values, vectors = torch.linalg.eigh(products)
    kept = values > SMALLEST_PRODUCT * values[-1]
    whole = (vectors[:, kept] / values[kept].sqrt()).mT
    return vectors @ whole if bool(kept.all()) else whole


def _of_view(
    y: Float[Tensor, "n p d"],
    z: Tensor,
    basis: Tensor,
    shift: Float[Tensor, " p"] | None,
    random: torch.Generator,
    kinds: Kinds | None,
) -> Iterator[Family]:
    n, p, d = y.shape
    harmonics = Harmonics.on(p * d, random)
    sums: dict[Key, Tensor] = {}
    sizes = torch.zeros(WINDOWS, dtype=y.dtype)
    for chunk in y.split(CHUNK):
        u, _, windows = polar(chunk)
        sizes += torch.stack([weight.square().sum() for weight, _ in windows]) / n
        for degree, _, slope in harmonics.of(u):
            for window, (weight, _) in enumerate(windows):
                sums[degree, window] = sums.get((degree, window), 0) + (weight * slope).mT @ u
    count = max(SMALLEST_SCATTER_SAMPLE, min(LARGEST_SCATTER_SAMPLE, LARGEST // (len(harmonics.directions) * len(basis))))
    scatter = Scatter.of(z, count, kinds)
    a = harmonics.directions.reshape(-1, p, d)
    # harmonics of all samples are alike in size but for the window, which is known of all
    drawn = [(scatter.weights[:, None] * weight.square()).mean() for weight, _ in polar(y[scatter.chosen])[2]]
    ratios = (sizes / torch.stack(drawn).clamp(min=ROUNDING)).sqrt()
    for key, rows in _rows(y, z, scatter, harmonics, basis, shift):
        combine, moved = harmonics.combine[key[0]], sums[key].reshape(-1, p, d) / n
        matrices = torch.einsum("jpa,jpb->jab", a[: len(moved)], moved)
        means = combine.mT @ torch.einsum("jab,kab->jk", matrices, basis)
        yield Family(key[0], means, ratios[key[1]] * rows, scatter)


def slopes_of(
    y: Float[Tensor, "n p d"], harmonics: Harmonics
) -> Iterator[tuple[Key, Float[Tensor, "r d d"], Float[Tensor, "r p d"]]]:
    """The symmetric part of E[grad g y^T], and E[grad g], by degree and window; of some of the samples."""
    y = y[some(len(y), CHUNK)]
    u, radius, windows = polar(y)
    split, a = u.reshape(y.shape), harmonics.directions.reshape(-1, *y.shape[1:])
    for degree, value, slope in harmonics.of(u):
        near, combine = a[: slope.shape[1]], harmonics.combine[degree]
        along = slope * (u @ near.flatten(1).mT)
        for window, (weight, radial) in enumerate(windows):
            # grad g = (inside u + outside a) / r
            outside, inside = weight * slope, radial * value - weight * along
            own = torch.einsum("nj,npa,npb->jab", inside, split, split)
            own = own + torch.einsum("jpa,jpb->jab", near, (outside.mT @ u).reshape(near.shape))
            pull = torch.einsum("nj,npa->jpa", inside / radius, split) + (outside / radius).sum(0)[:, None, None] * near
            own = torch.einsum("jr,jab->rab", combine, own + own.mT) / (2 * len(y))
            yield (degree, window), own, torch.einsum("jr,jpa->rpa", combine, pull) / len(y)


def _rows(
    y: Float[Tensor, "n p d"],
    z: Float[Tensor, "n m d"],
    scatter: Scatter,
    harmonics: Harmonics,
    basis: Tensor,
    shift: Tensor | None,
) -> Iterator[tuple[Key, Float[Tensor, "c r k"]]]:
    """D_A g of each sample, and its share in the error of the whitening, E[D_[A, S] g] for S = -(z z^T - 1) / 2.

    As [A, S] is symmetric this is -(N z) . A z, N the symmetric part of E[grad g y^T]. That of the mean is -E[grad g] . A z.
    """
    means = {key: (own, pull) for key, own, pull in slopes_of(y, harmonics)}
    y, z = y[scatter.chosen], z[scatter.chosen]
    u, _, windows = polar(y)
    split, a = u.reshape(y.shape), harmonics.directions.reshape(-1, *y.shape[1:])
    turned = torch.einsum("jpa,kab,npb->njk", a, basis, split)
    acted = torch.einsum("kab,nmb->nmka", basis, z) / z.shape[1]
    for degree, _, slope in harmonics.of(u):
        for window, (weight, _) in enumerate(windows):
            own, pull = means[degree, window]
            rows = (weight * slope)[..., None] * turned[:, : slope.shape[1]]
            rows = torch.einsum("njk,jr->nrk", rows, harmonics.combine[degree])
            rows -= torch.einsum("nmra,nmka->nrk", torch.einsum("rab,nmb->nmra", own, z), acted)
            if shift is not None:
                rows -= torch.einsum("ra,nmka->nrk", torch.einsum("rpa,p->ra", pull, shift), acted)
            yield (degree, window), scatter.deviations(rows)
