"""symmetry_of_pairs: the generator whose flow takes samples to what became of them, y = exp(L) x, wherever pixels are.

In the first components of all samples exp(L) = H_y^(1/2) R H_x^(-1/2), with H the second moments of either and R the
rotation that brings white coordinates of X nearest to those of Y (Procrustes), which noise in one or the other does not
change. L is the logarithm: no step along a gradient is needed.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from relaxify.lconv.symmetry.related import FEW, Classes, Pairs, Related
from relaxify.lconv.symmetry.rows import copies
from relaxify.lconv.symmetry.symmetry import Symmetry, Verdict
from relaxify.lconv.symmetry.templates import components

LEVEL = 0.01
PERMUTATIONS = 99
FEWEST = 24
LARGEST_SPACE = 4096
MOST_COMPONENTS, MOST_OF_CLASSES, SAMPLES_PER_COMPONENT = 96, 32, 5

# between numbers of components that are tried
STEP = 1.35
# of what can be gained by moving: components that bring less hold noise, and no generator
NEARLY = 0.2

# of the largest deviation of a component: below it there is rounding
SMALLEST_DEVIATION = 1e-6

# of the movements by what two halves of the samples say: below it they do not agree on one generator
SMALLEST_COSINE = 0.7

# of what shuffled samples leave: a relation that explains so much of it must have shown where none is said to be
LARGEST_UNSEEN = 0.25

# of how far samples are apart: a flow that explains so much of it must have shown, and one that explains less is none
LARGEST_UNMOVED, SMALLEST_GAIN = 0.15, 0.05

# of the error of every flow: a linear map with less than this shows that there is a relation by no flow
CLEARLY_BETTER = 0.5

Samples = Shaped[Tensor, "_ ..."] | Shaped[np.ndarray[Any, Any], "_ ..."]
Labels = Shaped[Tensor, "_"] | Shaped[np.ndarray[Any, Any], "_"]


def symmetry_of_pairs(
    X: Samples, Y: Samples, *, classes: tuple[Labels, Labels] | None = None, center: bool = False, seed: int = 0
) -> Symmetry:
    """The generator L with y = exp(L) x for samples X and what became of them in Y, of one shape (*shape), also scrambled.

    Row by row X and Y are pairs; or, with `classes` of both, rows do not belong together, and the distribution of each class
    in X has become that of the class in Y. That these are as good as each other is what the caller says: that makes it a
    symmetry. What is found is how they are related. All pairs are taken to be as far apart: `moved` is t where L = t times
    the generator of unit length. The flow is about the origin, or with `center` about the mean of all.

    Half of the samples find L, in as many principal components as it takes and these can tell of; the others judge it.
    *found*: it misses them by less than it misses shuffled ones, and by less than they miss each other unmoved, each at a
    level of 1 % by 99 permutations, and the halves agree on the movement to a cosine of .7. *none*: it is no better than one
    of these, or only a linear map is that has no real logarithm (a reflection; half a turn or more). *too few data*: a
    relation that explains a quarter, or a flow that explains .15 of how far they are apart, would not have shown, or the
    halves disagree. `held_out_defect` is the error over that of shuffled samples. Frequencies of L are known below pi.
    ValueError for shapes that differ, fewer than 24 samples, or NaN.

    >>> random = torch.Generator().manual_seed(0)
    >>> X = torch.randn(500, 3, generator=random, dtype=torch.float64)
    >>> turn = torch.linalg.matrix_exp(torch.tensor([[0, -0.5, 0], [0.5, 0, 0], [0, 0, 0]], dtype=torch.float64))
    >>> found = symmetry_of_pairs(X, X @ turn.T)
    >>> found.name, round(found.moved / 2**0.5, 6), symmetry_of_pairs(X, X.flip(0)).verdict
    ('so(2)', 0.5, <Verdict.NONE: 'none'>)
    """
    x, y, space = _samples(X, Y, same_count=classes is None)
    if center:
        mean = torch.cat([x, y]).mean(0)
        x, y = x - mean, y - mean
    kinds = copies(x, y) if classes is None else None
    if kinds is not None:
        chosen = kinds.first.sort().values
        x, y = x[chosen], y[chosen]
    related = _related(x, y, classes)
    random = torch.Generator().manual_seed(seed)
    first, second = related.split(0.5, random)
    rank = _best_rank(first, random)
    learned = [_Learned.of(part, rank) for part in (first, second, related)]
    verdict, reason, defect, needed = _judge(learned, second, related.x, random)
    reason += "" if kinds is None else f" {kinds.words}"
    found, flow = verdict is Verdict.FOUND, learned[-1].flow
    size = float(flow.norm())
    inside = related.basis[:rank]
    generators = (inside.mT @ flow @ inside / size)[None] if found else x.new_zeros(0, x.shape[1], x.shape[1])
    return Symmetry(
        generators,
        verdict,
        reason,
        "pairs" if classes is None else "classes that moved",
        held_out_defect=defect,
        space=space,
        samples_needed=needed,
        moved=size if found else None,
    )


@dataclass(frozen=True, eq=False)
class _Learned:
    """The linear map of some samples in their first components, and the flow that is nearest to it."""

    linear: Float[Tensor, "rank rank"]
    flow: Float[Tensor, "rank rank"]

    @classmethod
    def of(cls, related: Related, rank: int) -> _Learned:
        linear = related.fit(rank)
        with warnings.catch_warnings():
            # that it may be inaccurate, of maps that are judged on other samples anyway
            warnings.simplefilter("ignore", RuntimeWarning)
            logarithm = np.asarray(scipy.linalg.logm(linear.numpy()))
        # an imaginary part is half a turn, which is no flow's: of noise if the components are weak, else seen in the error
        return cls(linear, torch.from_numpy(np.ascontiguousarray(logarithm.real)).nan_to_num(0.0, 0.0, 0.0))

    @property
    def map(self) -> Float[Tensor, "rank rank"]:
        """exp(L)."""
        return torch.linalg.matrix_exp(self.flow)


def _best_rank(half: Related, random: torch.Generator) -> int:
    """The fewest components in which a flow of some of the samples does nearly as well as any on others."""
    if half.basis.shape[1] <= FEW:
        return len(half.basis)
    fitting, choosing = half.split(2 / 3, random)
    most = half.x.shape[1]
    ranks = sorted({max(min(2, most), round(most / STEP**k)) for k in range(12)})
    errors = [choosing.error(_Learned.of(fitting, rank).map) for rank in ranks]
    still = choosing.error(torch.eye(1, dtype=half.x.dtype))
    enough = min(errors) + NEARLY * max(still - min(errors), 0.0)
    return next(rank for rank, error in zip(ranks, errors, strict=True) if error <= enough)


def _judge(
    learned: list[_Learned], judging: Related, x: Float[Tensor, "n r"], random: torch.Generator
) -> tuple[Verdict, str, float, int | None]:
    """Verdict, reason, held-out defect, and how many samples would do, of what one half, the other, and all have learned."""
    one, other, _ = learned
    still = torch.eye(len(one.flow), dtype=x.dtype)
    error, linear, unmoved = (judging.error(M) for M in (one.map, one.linear, still))
    shuffled = [judging.shuffled(random).error(one.map) for _ in range(PERMUTATIONS)]
    chance = max(float(np.mean(shuffled)), 1e-300)
    left = f"of what shuffled samples leave the flow in {len(still)} components leaves {error / chance:.2g}"

    def unless_unseen(reason: str, spread: float, largest: float) -> tuple[Verdict, str, float, int | None]:
        # 2.3 deviations show at the level, and 1.6 more nearly always
        unseen = 4 * spread
        reason = f"{reason}; one that explains {unseen:.0%} of it would have shown."
        if unseen <= largest:
            return Verdict.NONE, reason, error / chance, None
        return Verdict.TOO_FEW, reason, error / chance, math.ceil(len(x) * (unseen / largest) ** 2)

    if linear < CLEARLY_BETTER * error > CLEARLY_BETTER**2 * unmoved:
        without = [judging.shuffled(random).error(one.linear) for _ in range(PERMUTATIONS)]
        if _p_value(without, linear) <= LEVEL:
            no_flow = f"and a linear map that is of no flow {linear / chance:.2g}: a reflection, or half a turn or more."
            return Verdict.NONE, f"{left}, {no_flow}", error / chance, None
    if (p := _p_value(shuffled, error)) > LEVEL:
        reason = f"{left} (p = {p:.2g}): X and Y have no linear relation"
        return unless_unseen(reason, float(np.std(shuffled)) / chance, LARGEST_UNSEEN)
    swapped = [judging.exchanged(random) for _ in range(PERMUTATIONS)]
    gains = [each.error(one.map) - each.error(still) for each in swapped]
    is_undirected = _p_value(gains, error - unmoved) > LEVEL
    if is_undirected and error < CLEARLY_BETTER * unmoved:
        reason = f"{left}, and takes Y to X as well as X to Y: a reflection or half a turn, which no one flow makes."
        return Verdict.NONE, reason, error / chance, None
    if is_undirected or error >= (1 - SMALLEST_GAIN) * unmoved:
        reason = f"{left}, and X as it is {unmoved / chance:.2g}: no flow explains how far they are apart"
        return unless_unseen(reason, float(np.std(gains)) / max(unmoved, 1e-12 * chance), LARGEST_UNMOVED)
    cosine = _cosine(x[:, : len(still)], one.flow, other.flow)
    words = f"{left}, {error / unmoved:.2g} of what X as it is leaves, and two halves agree on movements"
    if cosine < SMALLEST_COSINE:
        needed = math.ceil(len(x) * (1 / max(cosine, 0.1) - 1) / (1 / SMALLEST_COSINE - 1))
        return Verdict.TOO_FEW, f"{words} to a cosine of {cosine:.2f} only.", error / chance, needed
    return Verdict.FOUND, f"{words} to a cosine of {cosine:.3f}.", error / chance, None


def _p_value(chance: list[float], value: float) -> float:
    return (1 + sum(each <= value for each in chance)) / (1 + len(chance))


def _cosine(x: Float[Tensor, "n r"], a: Float[Tensor, "r r"], b: Float[Tensor, "r r"]) -> float:
    """Of the movements of the samples."""
    first, second = x @ a.mT, x @ b.mT
    return float((first * second).sum() / (first.norm() * second.norm()).clamp(min=1e-300))


def _related(x: Tensor, y: Tensor, classes: tuple[Labels, Labels] | None) -> Related:
    most = min(MOST_COMPONENTS, len(x) // (2 * SAMPLES_PER_COMPONENT), len(y) // (2 * SAMPLES_PER_COMPONENT))
    if classes is None:
        basis = _components(x, y, most)
        return Pairs(basis, x @ basis.mT, y @ basis.mT)
    given = [torch.as_tensor(each).reshape(-1) for each in classes]
    if [len(each) for each in given] != [len(x), len(y)]:
        raise ValueError(
            f"{len(x)} and {len(y)} samples have {len(given[0])} and {len(given[1])} classes; pass one for each."
        )
    codes = torch.cat(given).unique(return_inverse=True)[1]
    of_x, of_y = codes[: len(x)], codes[len(x) :]
    counts = torch.stack([torch.bincount(each, minlength=int(codes.max()) + 1) for each in (of_x, of_y)])
    if counts.shape[1] < 2 or int(counts.min()) < FEWEST:
        raise ValueError(f"{counts.shape[1]} classes have {int(counts.min())} samples or more; pass two, of {FEWEST} each.")
    basis = _components(x, y, min(most, MOST_OF_CLASSES))
    return Classes(basis, x @ basis.mT, y @ basis.mT, of_x, of_y)


def _samples(X: object, Y: object, *, same_count: bool) -> tuple[Tensor, Tensor, tuple[int, ...] | None]:
    x, y = (torch.as_tensor(each).detach() for each in (X, Y))
    if x.dim() < 2 or x.shape[1:] != y.shape[1:] or (same_count and len(x) != len(y)):
        raise ValueError(
            f"X has shape {tuple(x.shape)} and Y {tuple(y.shape)}; pass samples and what became of them, row by row, of one "
            "shape, or with classes=(of X, of Y) samples in any order."
        )
    size = math.prod(x.shape[1:])
    if min(len(x), len(y)) < FEWEST or not size:
        raise ValueError(f"{min(len(x), len(y))} samples of {size} numbers are too few; pass at least {FEWEST}.")
    if size > LARGEST_SPACE:
        raise ValueError(
            f"a generator of {size} x {size} would not fit; average samples down to {LARGEST_SPACE} numbers, or look in a "
            "family of generators, symmetries_of(..., generators=ImageAlgebra(...))."
        )
    if x.is_complex() or y.is_complex() or not bool(x.isfinite().all()) or not bool(y.isfinite().all()):
        raise ValueError("X or Y has NaN, infinite or complex entries; drop or fix these samples.")
    space = tuple(x.shape[1:]) if x.dim() > 2 else None
    return x.double().flatten(1), y.double().flatten(1), space


def _components(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], most: int) -> Float[Tensor, "r d"]:
    """The mean's direction and the first principal ones of all: what the flow is looked for in."""
    both = torch.cat([x, y])
    most = min(max(most, 2), x.shape[1])
    basis = torch.cat([both.mean(0)[None], components(both, most)])
    if float(basis[0].norm()) < SMALLEST_DEVIATION * float(both.square().mean().sqrt()):
        basis = basis[1:]
    basis = torch.linalg.qr(basis.mT).Q.mT[:most]
    deviations = (both @ basis.mT).square().mean(0).sqrt()
    return basis[deviations > SMALLEST_DEVIATION * deviations.max()]
