"""The symmetries of what labels say about samples: the L under which f(x) = E[y | x] stays the same, grad f . L x = 0.

Nothing is asked of the distribution of x, which under a non-compact group no probability distribution could keep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.algebras import closure_residual
from relaxify.lconv.symmetry.confidence import regression_angle
from relaxify.lconv.symmetry.cyclic import cyclic
from relaxify.lconv.symmetry.label_breaks import breaks, common
from relaxify.lconv.symmetry.label_fits import LabelFits, fit_labels
from relaxify.lconv.symmetry.labelled import Labelled, labelled
from relaxify.lconv.symmetry.moments import SecondMoments, held_out_defect, regression
from relaxify.lconv.symmetry.rows import some
from relaxify.lconv.symmetry.subspaces import orthonormal_pair
from relaxify.lconv.symmetry.symmetry import Symmetry, Verdict

POINTS = 4000
# numbers held for all points together
LARGEST = 2**25
# of the labels' variance, which a fit of noise does not tell of other samples
LEAST_EXPLAINED = 0.02


def symmetries_of_labels(
    X: Float[Tensor, "n *vectors d"],
    Y: Tensor,
    *,
    equivariant: bool | None = None,
    affine: bool = False,
    seed: int = 0,
) -> Symmetry:
    """The L with grad f(x) . L x = 0, f = E[y | x], acting on the last axis of X (n, d) or (n, vectors, d).

    Labels are classes (integers, unless more than 64 with fewer than 20 samples each), numbers (n,), or vectors (n, c).
    With `equivariant` these may turn along, J(x) L x = L_c f(x); by default that is reported of vectors where more is kept
    so. With `affine` the rows of X are points, and generators act on (x, 1), so that translations are among them.

    The verdict compares two networks, fitted to halves of the samples: *found* if the directions kept are broken by no more
    than noise might be, if that is at most a quarter of what a random direction is, and if the next is broken by 2.5 times
    more. In the plane rotations by a k-th of a turn are looked for as well. ValueError for fewer than 40 samples, more than
    32 dimensions, or labels that are all the same.

    >>> X = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> found = symmetries_of_labels(X, X[:, 0] ** 2 - X[:, 1] ** 2)
    >>> found.name, bool(found.overlap("so(1,1)").value > 0.99)
    ('so(1,1)', True)
    """
    data = labelled(X, Y, affine=affine)
    fits = fit_labels(data.z, data.y, classes=data.classes, points=affine, seed=seed, kinds=data.kinds)
    if fits.explained < LEAST_EXPLAINED:
        return _unrelated(data, fits)
    changes = _changes(data, fits, data.candidates())
    if not changes.are_related:
        return _unrelated(data, fits)
    still = None if equivariant else _finished(data, fits, _report(data, fits, changes, turning=False))
    can_turn = equivariant or (equivariant is None and not data.classes and data.y.shape[1] > 1)
    if not can_turn or (still is not None and still.discrete):
        assert still is not None
        return still
    turning = _report(data, fits, changes, turning=True)
    return turning if still is None or _says_more(turning, still) else still


def _says_more(turning: Symmetry, still: Symmetry) -> bool:
    """Labels that do not stay the same may yet turn along, and where that is open so is the verdict."""
    if not still.found:
        return turning.found or turning.verdict is Verdict.TOO_FEW
    return turning.found and turning.dimension > still.dimension


def symmetries_of_regression(
    X: Float[Tensor, "n d"], Y: Float[Tensor, "n c"], *, whole: bool, resamplings: int, seed: int
) -> Symmetry:
    """Theorem 1 with labels: the L that second moments allow with an L_c each, and whether what the labels say keeps them.

    With `whole` all of these, and without it those of them that are kept.
    """
    fit, data = regression(SecondMoments.of(X, Y)), labelled(X, Y, affine=False)
    fits = fit_labels(data.z, data.y, classes=False, points=False, seed=seed, kinds=data.kinds)
    source, verdict, spectrum, smallest = "second moments with labels (Theorem 1)", Verdict.TOO_FEW, None, None
    reason = f"every data set of this kind has {fit.names[0] or 'nothing'} in its second moments"
    if not len(fit.whitened):
        verdict, reason = Verdict.NONE, "second moments allow nothing that turns."
    elif fits.explained < LEAST_EXPLAINED or not (changes := _changes(data, fits, fit.whitened)).are_related:
        reason = f"{reason}, and {_unrelation(fits)}"
    else:
        assert fit.outputs is not None
        turns = fit.outputs * data.scale / data.scale[:, None]
        found, _ = breaks(changes.along[0], changes.along[1], (changes.values[0], changes.values[1]), turns)
        fit = fit.combined(found.directions.mT[:, : None if whole else found.kept])
        verdict, words = found.judge_all() if whole else found.judge(closure_residual(fit.whitened) if found.kept else 0.0)
        reason, spectrum, smallest = f"{reason}; {words}", None if whole else found.spectrum, found.smallest_break
    angle = regression_angle(X, Y, fit, count=resamplings, seed=seed) if whole else None
    basis, outputs = orthonormal_pair(fit.generators, fit.outputs)
    return Symmetry(
        basis,
        verdict,
        _noted(reason, data),
        source,
        spectrum,
        held_out_defect(X, Y),
        angle,
        0 if angle is None else resamplings,
        output_generators=outputs,
        frame=fit.root,
        smallest_break=smallest,
    )


@dataclass(frozen=True, eq=False)
class _Changes:
    """r_L of both halves for each candidate, the sum over vectors, and their values."""

    candidates: Float[Tensor, "k d e"]
    along: Float[Tensor, "halves n c vectors k"]
    values: Float[Tensor, "halves n c"]

    @property
    def are_related(self) -> bool:
        """Whether the fits have anything in common in how they change."""
        return bool(common(self.along[0], self.along[1]) > 0)


def _changes(data: Labelled, fits: LabelFits, candidates: Float[Tensor, "k d e"]) -> _Changes:
    c = data.y.shape[1]
    count = max(200, min(POINTS, LARGEST // (2 * c * data.z.shape[1] * len(candidates))))
    points = data.z[some(len(data.z), count)]
    with torch.enable_grad():
        at = points.expand(2, *points.shape).clone().requires_grad_()
        values = fits.each(at.flatten(2))
        each = [torch.autograd.grad(values[..., i].sum(), at, retain_graph=True)[0] for i in range(c)]
    gradients = torch.stack(each, 2)
    moved = torch.einsum("kij,nmj->nmki", candidates, data.extended(points))
    along = torch.einsum("hncmi,nmki->hncmk", gradients, moved)
    return _Changes(candidates, along, values.detach())


def _report(data: Labelled, fits: LabelFits, changes: _Changes, turning: bool) -> Symmetry:
    values = (changes.values[0], changes.values[1]) if turning else None
    found, turns = breaks(changes.along[0], changes.along[1], values)
    k = found.kept
    matrices = torch.einsum("ka,aij->kij", found.directions[:k], changes.candidates)
    square = torch.nn.functional.pad(matrices, (0, 0, 0, 1)) if data.affine else matrices
    verdict, reason = found.judge(closure_residual(square) if k else 0.0)
    outputs = None if turns is None else turns[:k] * data.scale[:, None] / data.scale
    basis, outputs = orthonormal_pair(data.lift(matrices), outputs)
    told = f"the labels' fit tells {fits.explained:.0%} of their variance in samples that it has not seen"
    return Symmetry(
        basis,
        verdict,
        _noted(f"{told}; {reason}", data),
        _source(turning),
        found.spectrum,
        output_generators=outputs,
        frame=data.frame,
        smallest_break=found.smallest_break,
        samples_needed=found.samples_needed(data.independent) if verdict is Verdict.TOO_FEW else None,
    )


def _source(turning: bool) -> str:
    return "labels that turn along" if turning else "what the labels say"


def _finished(data: Labelled, fits: LabelFits, report: Symmetry) -> Symmetry:
    """In the plane, where rotations are broken, which of them are left."""
    order = cyclic(data, fits) if data.z.shape[1:] == (1, 2) and not data.affine else None
    only_scales = report.found and report.name == "scaling"
    if order is None or not (only_scales or report.verdict is Verdict.NONE):
        return report
    also = ", and scaling leaves them alone as well" if only_scales else ""
    reason = f"{report.reason} Of the rotations the labels keep those by 1/{order} of a turn{also}."
    return replace(report, verdict=Verdict.DISCRETE, discrete=f"C({order})", reason=reason)


def _unrelated(data: Labelled, fits: LabelFits) -> Symmetry:
    size = data.frame.shape[0]
    reason = _noted(_unrelation(fits), data)
    return Symmetry(torch.zeros(0, size, size, dtype=torch.float64), Verdict.TOO_FEW, reason, _source(False))


def _unrelation(fits: LabelFits) -> str:
    return (
        f"what was learned from one half of the samples tells {max(fits.explained, 0):.1%} of the variance of the other's "
        "labels: these have no relation to X, or one that shows only in more samples."
    )


def _noted(reason: str, data: Labelled) -> str:
    return f"{reason} {data.notes}".strip()
