"""symmetries_of(X, generators=...): which generators of a family a distribution keeps, whatever size its samples have.

The generators are applied to templates and never formed. Which combinations are kept is read off the quadratic form of
`drift`, and judged on samples that had no say in it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import orthonormal
from relaxify.lconv.operators import Generators, ImageAlgebra, LowRank, SignalAlgebra
from relaxify.lconv.operators.combination import Combination
from relaxify.lconv.symmetry.affine import affine_name
from relaxify.lconv.symmetry.drift import LARGEST_KEPT, POWER, Drift, Drifts
from relaxify.lconv.symmetry.drift_verdict import judged
from relaxify.lconv.symmetry.page import page_of
from relaxify.lconv.symmetry.rows import copies
from relaxify.lconv.symmetry.symmetry import Symmetry, Verdict
from relaxify.lconv.symmetry.templates import chunks
from relaxify.lconv.symmetry.view import Resemblance, View, view_of
from relaxify.lconv.symmetry.white import rank_for
from relaxify.rendered import Rendered

FEWEST = 16

# of a unit combination: a generator with so much of it gives it its name
NEARLY_ALONE = 0.98


@dataclass(frozen=True, eq=False, repr=False)
class FamilySymmetry(Rendered):
    """The generators of a family that a distribution keeps, with what speaks for it and against it.

    `coefficients` (dimension, n_L) are of the family's generators, of unit length each. `drifts` are how much each
    direction of the family is broken, ascending, with standard errors, and `spectrum` their values; a direction is kept if
    its drift is surely below `largest_kept`. `verdict`, `smallest_break`, `power` and `samples_needed` are as in `Symmetry`.
    """

    coefficients: Float[Tensor, "dimension unknowns"]
    family: Generators
    verdict: Verdict
    reason: str
    source: str
    space: tuple[int, ...]
    drifts: tuple[Drift, ...]
    samples: int
    looked_at: str
    smallest_break: float
    power: float = POWER
    largest_kept: float = LARGEST_KEPT
    samples_needed: int | None = None
    centred: bool = False
    resemblance: Resemblance | None = None

    @property
    def found(self) -> bool:
        """Whether the verdict is that there is a symmetry in the family."""
        return self.verdict is Verdict.FOUND

    @property
    def dimension(self) -> int:
        """How many directions of the family are kept."""
        return len(self.coefficients)

    @property
    def spectrum(self) -> Float[Tensor, " directions"]:
        """The drifts of all directions that were judged."""
        return torch.tensor([drift.value for drift in self.drifts])

    @property
    def gap(self) -> float | None:
        """By what factor the first broken direction drifts more than the last kept one; None if that cannot be told."""
        if not 0 < self.dimension < len(self.drifts):
            return None
        kept, broken = self.drifts[self.dimension - 1 : self.dimension + 1]
        return broken.value / max(kept.value, kept.error)

    @property
    def name(self) -> str | None:
        """What is kept, in words, if a symmetry was found: rotation, translations, e(2), ..., or in terms of the family."""
        return self.words if self.found else None

    @property
    def words(self) -> str:
        """What the kept directions are in terms of the family, whether or not there is evidence for them."""
        if isinstance(self.family, ImageAlgebra):
            return affine_name(self.coefficients, self.family.names, min(self.space) / 4)
        if isinstance(self.family, SignalAlgebra):
            return ", ".join(_combination(row, self.family.names) for row in self.coefficients)
        if self.resemblance is not None:
            return str(self.resemblance)
        return ", ".join(_combination(row, [f"L{i}" for i in range(len(row))]) for row in self.coefficients)

    def as_operators(self) -> Generators:
        """The generators as a frozen family, to build an L-conv on. ValueError if there are none."""
        if not self.dimension:
            raise ValueError("there is no symmetry here, so there are no generators to build on.")
        dtype = torch.get_default_dtype()
        return Combination(self.coefficients.to(dtype), copy.deepcopy(self.family).to(dtype))

    @property
    def generators(self) -> Float[Tensor, "dimension d d"]:
        """As matrices. ValueError where these would be too large: `as_operators` applies them at any size."""
        size = math.prod(self.space)
        if not self.dimension:
            return torch.zeros(0, size, size)
        return self.as_operators().dense(self.space)

    def flow(
        self, x: Float[Tensor, "batch channels *space"], times: list[float], generator: int = 0
    ) -> Float[Tensor, "times batch channels *space"]:
        """exp(t L) x for each time t: where the symmetry takes samples."""
        chosen = torch.nn.functional.one_hot(torch.tensor(generator), self.dimension).to(x.dtype)
        return torch.stack([self.as_operators().expm_apply(t * chosen, x) for t in times])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "verdict": str(self.verdict),
            "found": self.found,
            "name": self.name,
            "reason": self.reason,
            "smallest_break": self.smallest_break,
            "power": self.power,
            "samples": self.samples,
            "samples_needed": self.samples_needed,
            "dimension": self.dimension,
            "family": type(self.family).__name__,
            "looked_at": self.looked_at,
            "gap": self.gap,
            "centred": self.centred,
            "drifts": [[drift.value, drift.error] for drift in self.drifts],
            "coefficients": self.coefficients.tolist(),
        }

    def lines(self) -> list[str]:
        """The report, line by line."""
        titles = {Verdict.FOUND: f"symmetry {self.words}", Verdict.TOO_FEW: "too few data to tell"}
        shape = " x ".join(map(str, self.space))
        mean = " about their mean" if self.centred else ""
        lines = [
            f"{self.source}: {titles.get(self.verdict, 'no symmetry')}",
            f"  {self.reason}",
            f"  {self.samples:,} samples of {shape}{mean}, looked at {self.looked_at}",
            f"  a drift of {self.smallest_break:.2g} or more would have shown with probability {self.power:g}",
        ]
        lines += [f"  {self.samples_needed:,} samples would do"] if self.samples_needed else []
        drifts = ", ".join(f"{drift.value:.2g} ({drift.error:.1g})" for drift in self.drifts)
        return [*lines, f"  drifts (and standard errors) {drifts}"]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The directions, a row each: their drift, its standard error, and whether they are kept."""
        return [
            {"direction": place + 1, "drift": drift.value, "error": drift.error, "kept": place < self.dimension}
            for place, drift in enumerate(self.drifts)
        ]

    def to_html(self, samples: Float[Tensor, "n *shape"] | None = None, *, header: Mapping[str, str] | None = None) -> str:
        """The report as a page that needs no network, as `Symmetry.to_html`."""
        return page_of(self, self.lines(), samples, header)

    def __str__(self) -> str:
        return "\n".join(self.lines())


def symmetries_in_family(
    X: Tensor, generators: Generators, Y: Tensor | None = None, *, center: bool = False, seed: int = 0
) -> FamilySymmetry:
    """The combinations of a family's generators that samples (n, *space) or (n, channels, *space) are symmetric under.

    A direction is kept if the distribution surely drifts along it by less than .3 (see `drift`), and broken if surely by
    more: *found* says that some are kept, *none* that all are broken. Where neither is sure, or where a drift of twice that
    would not have shown, the data are too few, and the report says how many would do. With labels Y, classes (n,) or
    numbers (n, c), it is the samples of each label that keep the flow. `center` takes the mean sample away first.

    >>> noise = torch.randn(2000, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> symmetries_in_family(noise, ImageAlgebra(("rotation", "scaling"))).name
    'rotation'
    """
    images = _with_channels(X, generators)
    labels = None if Y is None else _labels(Y, len(images))
    kinds = copies(images) if labels is None else copies(images, labels)
    if kinds is None or not kinds.are_repeated:
        return _in_family(images, labels, generators, center, seed)
    chosen = kinds.first.sort().values
    found = _in_family(images[chosen], None if labels is None else labels[chosen], generators, center, seed)
    return replace(found, reason=f"{found.reason} {kinds.words}")


def _in_family(
    images: Tensor, labels: Float[Tensor, "n c"] | None, generators: Generators, center: bool, seed: int
) -> FamilySymmetry:
    view = view_of(images, generators, seed)
    found = _in_view(view, images, labels, center, seed)
    if not view.is_first or found.dimension < view.family.count:
        return found
    view = view.wider()
    return _beyond(view, _in_view(view, images, labels, center, seed))


def _in_view(view: View, images: Tensor, labels: Tensor | None, center: bool, seed: int) -> FamilySymmetry:
    """Of the generators of the view's family, as it sees the samples."""
    samples = len(images)
    if view.judging is not None:
        images, labels = images[view.judging], None if labels is None else labels[view.judging]
    center = center or view.centred
    seen, basis = view.seen(images, labels, center)
    drifts = Drifts(seen, seed)
    _, directions = torch.linalg.eigh(drifts.information)
    measured = drifts.along(directions)
    # what is surely kept before what may be
    order = sorted(range(len(measured)), key=lambda index: measured[index].value + 3 * measured[index].error)
    rows = (basis @ directions).mT[order]
    judgement = judged(drifts, [measured[index] for index in order], searched=view.searched)
    coefficients = torch.nn.functional.normalize(rows[: judgement.kept], dim=1)
    needed = judgement.samples_needed
    return FamilySymmetry(
        coefficients,
        view.family,
        judgement.verdict,
        judgement.reason,
        "distribution",
        tuple(images.shape[2:]),
        judgement.drifts,
        samples,
        view.words,
        judgement.smallest_break,
        samples_needed=None if needed is None else math.ceil(needed * samples / len(images)),
        centred=center,
        resemblance=view.resemblance(images, coefficients),
    )


def _beyond(view: View, found: FamilySymmetry) -> FamilySymmetry:
    """What is said where the few least broken rotations were all kept, and more were looked at."""
    assert view.rotations is not None
    kept_all, every = found.dimension == view.family.count, len(view.rotations.rows)
    if not view.stands_for_all:
        reason = f"at least {found.dimension} of {every} dimensions are kept: {found.reason}"
        return replace(found, reason=reason) if kept_all else found
    if not kept_all:
        reason = f"of all {every} rotations the samples that were searched saw none broken, and others do not keep them all"
        return _undecided(found, f"{reason}; which are kept takes more samples.", found.samples_needed or 4 * found.samples)
    if (needed := view.needed_for_all) is not None:
        reason = f"all {every} rotations of these components are kept, and to look at more of them takes more samples."
        return _undecided(found, reason, needed)
    reason = (
        f"all {every} rotations: the least and the most broken of them {found.reason.split('directions ')[-1].split(';')[0]}"
    )
    if not view.is_complete:
        return replace(found, reason=f"at least {reason}, and there may be more.")
    return replace(
        found, reason=f"{reason}.", coefficients=torch.eye(every).double(), family=view.rotations.family(slice(None))
    )


def _undecided(found: FamilySymmetry, reason: str, needed: int) -> FamilySymmetry:
    return replace(found, verdict=Verdict.TOO_FEW, reason=reason, samples_needed=needed, coefficients=found.coefficients[:0])


def _with_channels(X: Tensor, generators: Generators) -> Tensor:
    """As (n, channels, *space). ValueError for shapes that the family does not act on, and for NaN."""
    if X.dim() == 2 and generators.ndim > 1 and (space := generators.space or _square(X.shape[1])):
        X = X.reshape(len(X), *space) if math.prod(space) == X.shape[1] else X
    if X.dim() == generators.ndim + 1:
        X = X[:, None]
    fits = X.dim() == generators.ndim + 2 and generators.space in (None, tuple(X.shape[2:]))
    if not fits or len(X) < FEWEST:
        axes = ", ".join(map(str, generators.space or ("height", "width", "depth")[: generators.ndim]))
        raise ValueError(
            f"samples of shape {tuple(X.shape)} do not suit {type(generators).__name__}; pass at least {FEWEST} of them, "
            f"(n, {axes}) or (n, channels, {axes})."
        )
    if generators.space_out(tuple(X.shape[2:])) != tuple(X.shape[2:]):
        raise ValueError(f"{type(generators).__name__} maps into another space, which is no flow; pass one that stays.")
    if not all(bool(part.isfinite().all()) for part in chunks(X.flatten(1))):
        raise ValueError("X has NaN or infinite entries; drop or fix these samples.")
    return X


def _labels(Y: Tensor, count: int) -> Float[Tensor, "n c"]:
    """Columns of size one: of classes, which they are; of numbers, these themselves."""
    if len(Y) != count:
        raise ValueError(f"X has {count} samples and Y has {len(Y)}; pass one label for each sample.")
    if Y.dim() == 1 and not Y.is_floating_point():
        columns = torch.nn.functional.one_hot(Y.unique(return_inverse=True)[1]).double()
    else:
        columns = Y.reshape(count, -1).double()
        if not bool(columns.isfinite().all()):
            raise ValueError("Y has NaN or infinite entries; drop or fix these samples.")
    return columns / columns.square().mean(0).sqrt().clamp(min=1e-300)


def _square(size: int) -> tuple[int, int] | None:
    side = math.isqrt(size)
    return (side, side) if side * side == size else None


def _combination(weights: Float[Tensor, " n"], names: Sequence[str]) -> str:
    """The largest terms of sum_i c_i L_i."""
    order = weights.abs().argsort(descending=True)[:4].tolist()
    if len(weights) == 1 or abs(float(weights[order[0]])) > NEARLY_ALONE:
        return names[order[0]]
    return " ".join(f"{float(weights[i]):+.2f} {names[i]}" for i in order if abs(float(weights[i])) > 0.05)


def symmetries_of_components(X: Float[Tensor, "n d"], *, seed: int = 0) -> Symmetry:
    """Of samples with many dimensions, about their mean: the rotations of their first principal components that are kept.

    As many components are looked at as so many samples can tell about, at most 64. Where the samples are images, a family
    says more with fewer samples, as the report does.
    """
    # half of the samples are searched
    rank = min(X.shape[1], rank_for(len(X) // 2))
    found = symmetries_in_family(X, LowRank.random(1, (X.shape[1],), rank=rank), seed=seed)
    frame = torch.linalg.inv(found.family.down[0]) if rank == X.shape[1] and isinstance(found.family, LowRank) else None
    advice = "; of images or signals generators=ImageAlgebra(...) or another family tell more with fewer samples"
    return Symmetry(
        orthonormal(found.generators.double()),
        found.verdict,
        f"looked at {found.looked_at}: {found.reason.rstrip('.')}" + ("." if found.found else f"{advice}."),
        "distribution about the mean, in principal components",
        found.spectrum,
        frame=frame,
        smallest_break=found.smallest_break,
        power=found.power,
        samples_needed=found.samples_needed,
    )
