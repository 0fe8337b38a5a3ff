"""symmetries_of: which Lie algebra do data obey (LC Theorem 1, Corollary 1), and do they in more than their covariance."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from relaxify.lconv.operators import Generators
from relaxify.lconv.symmetry.distribution import of_distribution
from relaxify.lconv.symmetry.in_families import FamilySymmetry, symmetries_in_family, symmetries_of_components
from relaxify.lconv.symmetry.moments import SecondMoments, regression
from relaxify.lconv.symmetry.of_labels import symmetries_of_labels, symmetries_of_regression
from relaxify.lconv.symmetry.subspaces import orthonormal_pair
from relaxify.lconv.symmetry.symmetry import Symmetry, Verdict

FEWEST = 99
STATISTICS = ("labels", "second_moments", "distribution")
# dimensions above which so(d) takes minutes, and gigabytes
LARGEST_WHOLE = 24
# and where it takes too much memory
LARGEST_LABELLED = 80
# the squares of these are summed in double precision
SMALLEST_ENTRY, LARGEST_ENTRY = 1e-140, 1e140

Samples = Shaped[Tensor, "n *axes"] | Shaped[np.ndarray[Any, Any], "n *axes"]
FAMILIES = "generators=ImageAlgebra(('rotation', 'translation_y', 'translation_x', 'scaling')), a Grid, a graph or others"


@overload
def symmetries_of(
    X: Samples,
    Y: Samples | None = None,
    *,
    statistics: Literal["labels", "second_moments", "distribution"] | None = None,
    center: bool = False,
    equivariant: bool | None = None,
    affine: bool = False,
    generators: None = None,
    resamplings: int = 200,
    seed: int = 0,
) -> Symmetry: ...


@overload
def symmetries_of(
    X: Samples, Y: Samples | None = None, *, center: bool = False, generators: Generators, seed: int = 0
) -> FamilySymmetry: ...


def symmetries_of(
    X: Shaped[Tensor, "n *m d"] | Shaped[np.ndarray[Any, Any], "n *m d"],
    Y: Shaped[Tensor, "labelled *c"] | Shaped[np.ndarray[Any, Any], "labelled *c"] | None = None,
    *,
    statistics: Literal["labels", "second_moments", "distribution"] | None = None,
    center: bool = False,
    equivariant: bool | None = None,
    affine: bool = False,
    generators: Generators | None = None,
    resamplings: int = 200,
    seed: int = 0,
) -> Symmetry | FamilySymmetry:
    """The Lie algebra that samples X are symmetric under: (n, d), or (n, vectors, d) on which one action is common.

    - `statistics="distribution"`, the default without labels: the generators that the *distribution* keeps, of the
      H^(1/2) so(d) H^(-1/2) that its second moments H allow. Harmonics up to degree 4, and while they are few up to 16 (in
      the plane 24), are averaged over all samples. The verdict is *found* only if nothing rejects the algebra at a level of
      0.2 % and a modulation of the density along its orbits of rms size 0.15 would have been rejected with probability 0.95;
      if these samples could not show that, *too few data*, with how many would do. Where rotations of a plane are broken at
      multiples of one frequency k only, it is *discrete*: C(k).
    - `statistics="labels"`, the default with labels: the L under which what these say of x is the same, grad f . L x = 0 for
      f(x) = E[y | x], whatever the distribution of x. X may be (n, vectors, d), Y classes, numbers or vectors; `equivariant`
      and `affine` as of `symmetries_of_labels`.
    - `statistics="second_moments"`: LC Theorem 1, all L with L H + H L^T = 0, and with labels Y (n, c) those for which an
      L_c has L_c C + C L^T = 0. Every data set has such an algebra, so that the verdict is again the distribution's, on all,
      or with labels what these say, as of `symmetries_of_labels`; "distribution" with labels is those of it that they keep.

    - `generators`: only those of a family, at any size, as of `FamilySymmetry`: images (n, h, w) or (n, channels, h, w),
      signals, values on the nodes of a graph. Of a family that can learn its entries it is these that are looked for, such
      as the weights of each pixel of a `Grid`; of others, combinations. Without, samples of more than 24 dimensions are
      looked at in so many principal components as can be told about.

    The action is about the origin, or with `center` about the mean (of all vectors together), which is then removed.
    `resamplings` of the samples give the confidence angle, and none without them.
    ValueError if there are not more samples than columns, for NaN and complex numbers, or for singular second moments.

    >>> X = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> symmetries_of(X).name, symmetries_of(X[:500]).verdict
    ('so(3)', <Verdict.TOO_FEW: 'too few data'>)
    >>> X[:, 0] = X[:, 0].exp()
    >>> symmetries_of(X, center=True).name
    'so(2)'
    """
    X, Y = _given("X", X), None if Y is None else _given("Y", Y)
    if statistics not in (None, *STATISTICS):
        raise ValueError(f"statistics={statistics!r} is unknown; pass {', '.join(map(repr, STATISTICS))}, or None.")
    if resamplings < 0:
        raise ValueError(f"resamplings={resamplings}: pass at least {FEWEST}, or 0 for none.")
    if 0 < resamplings < FEWEST:
        raise ValueError(
            f"{resamplings} resamplings cannot tell a confidence of 95 %; pass at least {FEWEST}, or 0 for none."
        )
    if generators is not None:
        return symmetries_in_family(X, generators, Y, center=center, seed=seed)
    if affine or equivariant or statistics == "labels" or (Y is not None and statistics is None):
        return symmetries_of_labels(
            *_labelled(X, _need_labels(Y, statistics), center), equivariant=equivariant, affine=affine, seed=seed
        )
    if Y is None and statistics is None and X.ndim == 2 and X.shape[1] > LARGEST_WHOLE:
        return symmetries_of_components(X, seed=seed)
    X, Y = _checked(X, Y)
    if Y is None:
        whole = statistics == "second_moments"
        return of_distribution(X, center=center, whole=whole, resamplings=resamplings, seed=seed)
    X = X.flatten(1) - (X.flatten(1).mean(0) if center else 0)
    whole = statistics == "second_moments"
    return symmetries_of_regression(X, Y, whole=whole, resamplings=resamplings, seed=seed)


def symmetries_of_moments(H: Float[Tensor, "d d"], C: Float[Tensor, "c d"] | None = None) -> Symmetry:
    """Theorem 1 on exact second moments H = E[x x^T] and C = E[y x^T]: what they allow; there are no data to confirm it.

    >>> symmetries_of_moments(torch.eye(6), torch.eye(6)[:2]).dimension
    7
    """
    H = H.double()
    labels = None if C is None else C.double() @ torch.linalg.solve(H, C.double().mT)
    fit = regression(SecondMoments(H, None if C is None else C.double(), labels))
    reason = f"every distribution with these second moments keeps them under {fit.names[0]}; that is no evidence."
    basis, outputs = orthonormal_pair(fit.generators, fit.outputs)
    return Symmetry(basis, Verdict.NONE, reason, "second moments", output_generators=outputs, frame=fit.root)


def _need_labels(Y: Tensor | None, statistics: str | None) -> Tensor:
    if Y is None or statistics not in (None, "labels"):
        raise ValueError(
            "equivariant, affine and statistics='labels' are about what labels say; pass labels Y, and no other statistics."
        )
    return Y


def _labelled(X: Tensor, Y: Tensor, center: bool) -> tuple[Tensor, Tensor]:
    given = _samples("X", X)
    mean = given.mean(tuple(range(given.dim() - 1)))
    return given - mean if center else given, _samples("Y", Y, classes=True)


def _checked(X: Tensor, Y: Tensor | None) -> tuple[Float[Tensor, "n m d"], Tensor | None]:
    X, Y = _samples("X", X), None if Y is None else _samples("Y", Y)
    if X.ndim not in (2, 3):
        raise ValueError(
            f"X has shape {tuple(X.shape)}; pass (samples, dimensions) or (samples, vectors, dimensions), and for images "
            f"{FAMILIES}."
        )
    n, d = len(X), X.shape[-1]
    if Y is not None and len(Y) != n:
        raise ValueError(f"X has {n} samples and Y has {len(Y)}; pass one row for each in both.")
    if n <= d:
        raise ValueError(
            f"{n} samples in {d} dimensions: Theorem 1 needs more samples than dimensions, and many more are better."
        )
    if d > LARGEST_LABELLED:
        raise ValueError(
            f"so({d}) has {d * (d - 1) // 2:,} dimensions, too many to look for all; pass a family to look in, "
            f"{FAMILIES}, or principal components of X."
        )
    for name, given in (("X", X), ("Y", Y)):
        if given is not None and not bool(given.isfinite().all()):
            raise ValueError(f"{name} has NaN or infinite entries; drop or fix these samples.")
        if given is not None and 0 < float(given.abs().max()) < SMALLEST_ENTRY:
            raise ValueError(
                f"{name} has no entry above {float(given.abs().max()):.0e}, too small to be squared; divide it by that."
            )
        if given is not None and float(given.abs().max()) > LARGEST_ENTRY:
            raise ValueError(
                f"{name} has entries of {float(given.abs().max()):.0e}, too large to be squared; divide it by that."
            )
    return X.reshape(n, -1, d), None if Y is None else Y.reshape(n, -1)


def _given(name: str, given: object) -> Tensor:
    """As a tensor. ValueError for what is none, or is not of real numbers that are there."""
    if not isinstance(given, Tensor | np.ndarray):
        raise ValueError(f"{name} is a {type(given).__name__}; pass a tensor or an array, a sample a row.")
    if isinstance(given, np.ndarray) and given.dtype.kind not in "fiubc":
        raise ValueError(f"{name} is an array of {given.dtype}; pass numbers.")
    found = torch.as_tensor(given)
    if found.is_complex():
        raise ValueError(
            f"{name} is of complex numbers; pass real ones, such as torch.view_as_real({name}).flatten(-2), on which a "
            "complex number is two."
        )
    if found.is_meta or not found.numel():
        raise ValueError(f"{name} has shape {tuple(found.shape)} and no entries; pass samples that have some.")
    return found


def _samples(name: str, given: Tensor, *, classes: bool = False) -> Tensor:
    found = given.detach()
    return found if classes and not found.is_floating_point() else found.double()
