"""What of the samples is looked at, and for which generators: a family's own, or the least broken of those it can learn."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.lconv.operators import Dense, Generators, Grid, ImageAlgebra, LowRank, Shifts, Sparse
from relaxify.lconv.operators.images import AFFINE
from relaxify.lconv.symmetry.affine import affine_name
from relaxify.lconv.symmetry.drift import Seen
from relaxify.lconv.symmetry.matrix_free import COMPONENTS, least_broken, unknowns_of
from relaxify.lconv.symmetry.templates import components, projected, variance, windows
from relaxify.lconv.symmetry.white import MOST_COMPONENTS, SAMPLES_PER_SQUARE, Rotations, White, components_for

FEW_ROTATIONS = 10
# numbers held for all samples together
LARGEST = 2**26

MOST_TEMPLATES, FEWEST_TEMPLATES, SAMPLES_PER_TEMPLATE = 36, 12, 50

# of the largest: a combination of generators that moves less does not move what is seen
SMALLEST_MOVEMENT = 1e-4

# of an affine flow's movement: parts below it are noise
SMALLEST_PART = 0.2


@dataclass(frozen=True)
class Resemblance:
    """The affine flows that are nearest to what was found, and the cosine of the movements, the least of all directions."""

    name: str
    cosine: float

    def __str__(self) -> str:
        return f"{self.name} (cosine {self.cosine:.2f})"


@dataclass(frozen=True, eq=False)
class View:
    """Templates on which the samples are projected, and the family whose span is judged there.

    `judging` are the samples left to judge with where others were searched for the family; None for all. `searched` says
    that the family holds the least broken of more generators, and `stands_for_all` the most broken as well: where these are
    kept, all are, which are the `rotations`.
    """

    templates: Float[Tensor, "r *shape"]
    family: Generators
    words: str
    judging: Int[Tensor, " m"] | None = None
    searched: bool = False
    centred: bool = False
    rotations: Rotations | None = None
    stands_for_all: bool = False

    @property
    def is_first(self) -> bool:
        """Whether there are more rotations than those in the family."""
        return self.rotations is not None and self.family.count == FEW_ROTATIONS < len(self.rotations.rows)

    def wider(self) -> View:
        """With all rotations that may be kept; where all may be, with the least and the most broken of them."""
        assert self.rotations is not None
        assert self.judging is not None
        every, unbroken = torch.arange(len(self.rotations.rows)), self.rotations.unbroken
        if unbroken == len(every):
            chosen = torch.cat([every[:FEW_ROTATIONS], every[-FEW_ROTATIONS:]]).unique()
            return replace(self, family=self.rotations.family(chosen), stands_for_all=True)
        most = LARGEST // (len(self.judging) * len(self.templates))
        chosen = every[: max(FEW_ROTATIONS + 1, min(unbroken + FEW_ROTATIONS, most))]
        return replace(self, family=self.rotations.family(chosen))

    @property
    def needed_for_all(self) -> int | None:
        """How many samples would do for all coordinates there are, or for the most that are looked at; None if these do."""
        assert self.rotations is not None
        components, coordinates = self.rotations.white.left.shape
        wanted = min(coordinates, MOST_COMPONENTS)
        return None if components >= wanted else 2 * SAMPLES_PER_SQUARE * wanted**2

    @property
    def is_complete(self) -> bool:
        """Whether the rotations are those of all coordinates, and not of their first principal components."""
        return self.rotations is not None and len(self.rotations.white.left) == self.rotations.white.left.shape[1]

    def seen(self, images: Tensor, labels: Float[Tensor, "n c"] | None, center: bool) -> tuple[Seen, Float[Tensor, "k j"]]:
        """What the templates see, with rates along combinations of generators (in columns) that move it alike."""
        rates = self._rates(images, self.family)
        if center:
            rates = rates - rates.mean(0)
        seen = Seen.of(projected(images.flatten(1), self.templates.flatten(1)), rates, labels)
        movement, directions = torch.linalg.eigh(seen.movement)
        kept = movement > SMALLEST_MOVEMENT**2 * movement[-1].clamp(min=1e-300)
        basis = directions[:, kept] / movement[kept].sqrt()
        return seen.along(basis), basis

    def _rates(self, images: Tensor, family: Generators) -> Float[Tensor, "n r k"]:
        """The rates of what the templates p see: p.L x = L^T p.x, so that few templates are moved and no sample."""
        moved = family.transpose(tuple(images.shape[2:])).act(self.templates).flatten(2)
        return torch.stack([projected(images.flatten(1), each) for each in moved], 2)

    def resemblance(self, images: Tensor, coefficients: Float[Tensor, "j k"]) -> Resemblance | None:
        """Of combinations of local generators on images; None for others, and of none."""
        if not len(coefficients) or images.dim() != 4 or not isinstance(self.family, Grid | Shifts):
            return None
        found = (self._rates(images, self.family) @ coefficients.mT).flatten(0, 1)
        affine = self._rates(images, ImageAlgebra(AFFINE)).flatten(0, 1)
        fits = [_nearest(affine, column) for column in found.mT]
        rows = torch.stack([fit for fit, _ in fits])
        return Resemblance(affine_name(rows, AFFINE, min(images.shape[2:]) / 4), min(cosine for _, cosine in fits))


def view_of(images: Float[Tensor, "n channels *space"], generators: Generators, seed: int) -> View:
    """Of all samples for the span of frozen generators; of half of them for the entries that others can learn."""
    if isinstance(generators, Grid) and generators.space is None:
        # weights that are the same everywhere are combinations of shifts
        return _looked(images, generators.stencil, seed)
    if isinstance(generators, Dense | LowRank | Grid | Sparse) and any(True for _ in generators.parameters()):
        return _searched(images, generators, seed)
    return _looked(images, copy.deepcopy(generators).double(), seed)


def _looked(images: Tensor, family: Generators, seed: int) -> View:
    """Local generators of images through windows, all others in principal components."""
    count = min(MOST_TEMPLATES, max(FEWEST_TEMPLATES, len(images) // SAMPLES_PER_TEMPLATE))
    channels, *space = images.shape[1:]
    if len(space) == 2 and isinstance(family, ImageAlgebra | Grid | Shifts):
        return View(windows((space[0], space[1]), channels, count, seed), family, f"through {count} smooth windows")
    basis = components(images.flatten(1), count, seed)
    return View(basis.reshape(-1, channels, *space), family, _in_components(images.flatten(1), basis))


def _in_components(X: Tensor, basis: Tensor) -> str:
    share = float(projected(X, basis).var(0).sum()) / max(variance(X), 1e-300)
    return f"in the first {len(basis)} principal components ({share:.0%} of the variance)"


def _searched(images: Tensor, generators: Dense | LowRank | Grid | Sparse, seed: int) -> View:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    sample, judging = images[order[::2]], order[1::2].sort().values
    flat, channels = sample.flatten(1), images.shape[1]
    if isinstance(generators, Grid | Sparse):
        unknowns = unknowns_of(generators, White.of(flat, COMPONENTS), channels)
        found = unknowns.family(least_broken(unknowns))
        return replace(_looked(sample, found, seed), judging=judging, searched=True)
    if channels > 1:
        name = type(generators).__name__
        raise ValueError(f"{name} is searched on one channel; pass the {channels} channels as one, (n, d).")
    rank = components_for(flat, generators.rank if isinstance(generators, LowRank) else None)
    white = White.of(flat, rank)
    rotations = Rotations.of(flat, white, tuple(images.shape[2:]), seed)
    words = _in_components(flat, torch.nn.functional.normalize(white.left, dim=1))
    templates = white.left.reshape(-1, *images.shape[1:])
    least = rotations.family(slice(FEW_ROTATIONS))
    return View(templates, least, words, judging, searched=True, centred=True, rotations=rotations)


def _nearest(affine: Float[Tensor, "m 6"], found: Float[Tensor, " m"]) -> tuple[Float[Tensor, "6"], float]:
    """The affine flow that moves what is seen as found, without its parts that are too small to tell, and the cosine."""
    sizes, kept = affine.norm(dim=0), torch.ones(affine.shape[1], dtype=torch.bool)
    for _ in range(2):
        fit = torch.zeros(affine.shape[1], dtype=torch.float64)
        fit[kept] = torch.linalg.lstsq(affine[:, kept], found[:, None]).solution[:, 0]
        kept = fit.abs() * sizes > SMALLEST_PART * found.norm()
    return fit, float((affine @ fit).norm() / found.norm())
