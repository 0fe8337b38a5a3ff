"""Means of harmonics over whitened samples, with their scatter, and how much an orthogonal map changes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.lconv.symmetry.breaks import Broken, Scatter
from relaxify.lconv.symmetry.harmonic_breaks import CHUNK, LARGEST_SCATTER_SAMPLE, slopes_of
from relaxify.lconv.symmetry.harmonics import Harmonics, polar
from relaxify.lconv.symmetry.moments import antisymmetric
from relaxify.lconv.symmetry.rows import Kinds

# standard errors that a mean must change by when axes turn, to count
CLEAR_ERRORS = 3.0


@dataclass(frozen=True, eq=False)
class Means:
    """Of the harmonics of one degree in one window: mu, the scatter of single samples, and D_A mu for all of so(d)."""

    degree: int
    mean: Float[Tensor, " r"]
    rows: Float[Tensor, "m r"]
    tangents: Float[Tensor, "r k"]
    samples: float

    def broken(self) -> Broken:
        """How far they are from zero."""
        return Broken.of(self.degree, self.mean, self.rows, self.samples)

    def reflected(self, rho: Float[Tensor, "r r"]) -> Broken:
        """How far (1 - rho(g)) mu / 2 is from zero, for a g that is its own inverse: mu without what g keeps."""
        change = (torch.eye(len(rho), dtype=rho.dtype) - rho) / 2
        return Broken.of(self.degree, change @ self.mean, self.rows @ change.mT, self.samples)

    def changed(self, rho: Float[Tensor, "r r"]) -> Broken:
        """How far (1 - rho(g)) mu is from zero, but for what other directions of the axes would make of it."""
        change = torch.eye(len(rho), dtype=rho.dtype) - rho
        u, values, _ = torch.linalg.svd(change @ self.tangents, full_matrices=False)
        along = u[:, values > CLEAR_ERRORS * (self.rows.square().sum(1).mean() / self.samples).sqrt()]
        change = change - along @ (along.mT @ change)
        return Broken.of(self.degree, change @ self.mean, self.rows @ change.mT, self.samples)


def means_of(z: Float[Tensor, "n d"], harmonics: Harmonics, *, centred: bool, kinds: Kinds | None = None) -> list[Means]:
    """Of all samples; the scatter of some of them, with their share in the errors of the whitening and of the mean."""
    n, d = z.shape
    basis = antisymmetric(torch.eye(d, dtype=z.dtype))
    values: dict[tuple[int, int], Tensor] = {}
    slopes: dict[tuple[int, int], Tensor] = {}
    for chunk in z.split(CHUNK):
        u, _, windows = polar(chunk[:, None])
        for degree, value, slope in harmonics.of(u):
            for window, (weight, _) in enumerate(windows):
                key = degree, window
                values[key] = values.get(key, 0) + (weight * value).sum(0) / n
                slopes[key] = slopes.get(key, 0) + (weight * slope).mT @ u / n
    scatter = Scatter.of(z, LARGEST_SCATTER_SAMPLE, kinds)
    rows = _rows(z, scatter, harmonics, centred)
    found = []
    for (degree, window), value in values.items():
        combine = harmonics.combine[degree]
        turned = torch.einsum("ja,kab,jb->jk", harmonics.directions[: len(combine)], basis, slopes[degree, window])
        found.append(Means(degree, combine.mT @ value, rows[degree, window], combine.mT @ turned, scatter.samples))
    return found


def _rows(
    z: Float[Tensor, "n d"], scatter: Scatter, harmonics: Harmonics, centred: bool
) -> dict[tuple[int, int], Float[Tensor, "m r"]]:
    """f(z) - 1/2 z . N z for N = E[grad f z^T], and -E[grad f] . z if the mean was removed; about their mean."""
    found, means = {}, {key: (own, pull[:, 0]) for key, own, pull in slopes_of(z[:, None], harmonics)}
    z = z[scatter.chosen]
    u, _, windows = polar(z[:, None])
    for degree, value, _ in harmonics.of(u):
        for window, (weight, _) in enumerate(windows):
            own, pull = means[degree, window]
            rows = (weight * value) @ harmonics.combine[degree] - torch.einsum("na,rab,nb->nr", z, own, z) / 2
            found[degree, window] = scatter.deviations(rows - z @ pull.mT if centred else rows)
    return found
