"""How one value transforms: the matrix M(g) that carries its runs on x to its runs on g x, fitted by least squares.

A residual at rounding level, for one element per generator, with M(h) for a further random element as the generators
predict, is a representation. It may be a character (a pseudoscalar), act on one axis (vectors, irreps), or on a pair of
axes of the group's own size (r r^T). Fits with too few samples count as no evidence.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.evidence.generators import actions_of, bracket_sign
from relaxify.evidence.ruling_out import Sampled
from relaxify.evidence.transformations import (
    LARGEST_AXIS,
    TOLERANCE,
    Axes,
    Kind,
    Norms,
    Pairs,
    Transformation,
    chosen_columns,
    close,
    elements,
    is_larger,
    on_axes,
    ratio,
)
from relaxify.groups import Group
from relaxify.representations import Layout, Representation


def transformation(
    group: Group,
    pairs: Pairs,
    *,
    sample_sizes: Collection[int] = (),
    tiny: float = 0.0,
    without: Collection[int] = (),
    norms: Norms | None = None,
) -> Transformation:
    """How a value transforms, from runs on x and on g x, but on none of the axes `without`.

    An axis of one of the `sample_sizes` (nodes, points, a batch) that has too few samples to tell is taken to carry nothing.
    A value no larger than `tiny` is zero but for rounding.
    """
    norms = norms or Norms()
    if (found := still(pairs, tiny, norms)) is not None:
        return found
    known, fitted = Sampled(pairs, norms, len(pairs[0][1]) - 1), functools.partial(fit, group, pairs, norms=norms)

    def unless_ruled_out(axes: Axes) -> Transformation:
        misfit = known.misfit(axes)
        return fitted(axes) if misfit is None else Transformation("none", residual=misfit)

    found, failed = over_axes(group, pairs[0][0].shape, unless_ruled_out, sample_sizes, without)
    if found.kind == "none" and are_points(group, pairs, _matrices(group)):
        return Transformation("undecided")
    return min(failed, key=lambda each: (not each.is_transposed, each.residual)) if found.kind == "none" else found


def are_points(group: Group, pairs: Pairs, matrices: Sequence[Float[Tensor, "d d"]]) -> bool:
    """Whether a group that moves points moves a value as points, x -> L x + t: no representation, and no fault."""
    n, shape = group.dim - 1, pairs[0][0].shape
    if not group.is_affine or not all(base.is_floating_point() for base, _ in pairs):
        return False
    for axis in (axis for axis in range(-len(shape), 0) if shape[axis] == n):
        misfits = [
            ratio(
                float((base.movedim(axis, -1) @ g[:n, :n].mT + g[:n, n] - run.movedim(axis, -1)).norm()), float(run.norm())
            )
            for base, runs in pairs
            for g, run in zip(matrices, runs, strict=True)
        ]
        if max(misfits) < TOLERANCE:
            return True
    return False


@functools.lru_cache(64)
def _matrices(group: Group) -> Sequence[Float[Tensor, "d d"]]:
    return [Representation.defining(group).rho(element) for element in elements(group)]


def over_axes(
    group: Group,
    shape: torch.Size,
    on: Callable[[Axes], Transformation],
    sample_sizes: Collection[int],
    without: Collection[int] = (),
) -> tuple[Transformation, list[Transformation]]:
    """What is known `on` each of the axes together: the first that is linear, none if all are, else undecided.

    Also those that are none.
    """
    # an axis of the group's own size that fits nothing says more than larger axes with too few samples to tell
    own: set[Kind] = set()
    kinds: set[Kind] = set()
    failed: list[Transformation] = []
    beyond: set[bool] = set()
    for axes in possible_axes(group, shape, without):
        found = on(axes)
        if found.kind == "linear":
            return found, failed
        sizes = {shape[axis] for axis in axes}
        own |= {found.kind} if sizes == {group.vector_size} else set()
        kinds |= {found.kind} if found.kind == "none" or sizes.isdisjoint(sample_sizes) else set()
        failed += [found] if found.kind == "none" else []
        beyond |= {found.beyond} if found.kind == "undecided" and sizes.isdisjoint(sample_sizes) else set()
    is_none = (own or kinds) == {"none"}
    return Transformation("none" if is_none else "undecided", beyond=not is_none and beyond == {True}), failed


def still(pairs: Pairs, tiny: float, norms: Norms) -> Transformation | None:
    """How a value transforms that no group element moves; None if one does."""
    if not any(is_larger(value, tiny) for base, runs in pairs for value in (base, *runs)):
        return Transformation("zero")
    is_still = all(close(moved, base, norms) for base, runs in pairs for moved in runs)
    return Transformation("invariant") if is_still else None


def possible_axes(group: Group, shape: torch.Size, without: Collection[int] = ()) -> Iterator[Axes]:
    """Where a representation may act: on no axis, on one, or on two of the group's own size together, as on r r^T."""
    yield ()
    axes = [axis for axis in range(-len(shape), 0) if shape[axis] > 1 and axis not in without]
    # likely ones first, and cheap ones
    yield from ((axis,) for axis in sorted(axes, key=lambda axis: (shape[axis] != group.vector_size, shape[axis])))
    yield from itertools.combinations([axis for axis in axes if shape[axis] == group.vector_size > 1], 2)


def fit(group: Group, pairs: Pairs, axes: Axes, norms: Norms | None = None, *, partial: bool = False) -> Transformation:
    """The representation on these axes of a value, `none` if there is none, `undecided` if the samples cannot tell.

    These do not tell of an axis that they do not span, unless, for a `partial` one, nothing is taken to act on the rest.
    """
    norms = norms or Norms()
    shape = pairs[0][0].shape
    pairs = [pair for pair in pairs if pair[0].numel() and all(pair[0].shape[axis] == shape[axis] for axis in axes)]
    d = math.prod(shape[axis] for axis in axes)
    samples = sum(base.numel() for base, _ in pairs) // d
    # so few samples fit anything
    if not samples or d > LARGEST_AXIS or (samples <= d and not partial):
        return Transformation("undecided", beyond=d > LARGEST_AXIS)
    bases, of_element = [base for base, _ in pairs], [list(runs) for runs in zip(*(runs for _, runs in pairs), strict=True)]
    chosen = samples, min(samples, 8 * d + 64)
    few, few_moved = chosen_columns(bases, axes, chosen), [chosen_columns(runs, axes, chosen) for runs in of_element]
    inverse = torch.linalg.pinv(few, rtol=1e-9)
    matrices = [moved @ inverse for moved in few_moved[:-1]]
    sizes = [math.hypot(*map(norms, runs)) for runs in of_element]
    if _misfit(matrices, few, few_moved, sizes) > TOLERANCE:
        # all samples fit no better than these
        return Transformation("none", residual=_misfit(matrices, few, few_moved, [float(run.norm()) for run in few_moved]))
    before = torch.cat([on_axes(base, axes) for base in bases], dim=1)
    after = [torch.cat([on_axes(run, axes) for run in runs], dim=1) for runs in of_element]
    misfit = _misfit(matrices, before, after, sizes)
    if not misfit < TOLERANCE:
        return Transformation("none", residual=misfit)
    reached = int(torch.linalg.matrix_rank(few, rtol=1e-6))
    is_spanned = reached == d
    if chosen[1] < 2 * (reached if partial else d):
        vectors = _as_vectors(group, pairs, axes[0]) if is_spanned and len(axes) == 1 else None
        return vectors or Transformation("undecided")
    if not is_spanned:
        if len(axes) == 1 and not partial:
            return Transformation("undecided")
        complete = _completed_by_identity if partial else _completed
        completed = complete(group, matrices, few @ inverse)
        if completed is None:
            return Transformation("none", axes, residual=misfit)
        matrices = completed
    return _represented(group, matrices, axes, before, after, unreached=d - reached if partial else 0)


def _represented(
    group: Group,
    matrices: Sequence[Float[Tensor, "d d"]],
    axes: Axes,
    before: Float[Tensor, "d samples"],
    after: Sequence[Float[Tensor, "d samples"]],
    *,
    unreached: int,
) -> Transformation:
    """Whether matrices that carry a value to its runs on g x are a representation, which the last g has no part in."""
    if not all(_has_inverse(m) for m in matrices):
        return Transformation("none", axes, residual=1.0)
    actions = actions_of(group, matrices, len(axes))
    if (sign := bracket_sign(group, actions)) is not None and sign < 0:
        return Transformation("none", axes, residual=_change(matrices, before, after), is_transposed=True)
    predicted = Representation.of(group, "fitted", 1, actions).rho(elements(group)[-1])
    residual = ratio(float((predicted @ before - after[-1]).norm()), float(after[-1].norm()))
    kind: Kind = "linear" if residual < 10 * TOLERANCE else "none"
    return Transformation(kind, axes, actions, residual, unreached=unreached)


def _misfit(matrices: Sequence[Tensor], before: Tensor, after: Sequence[Tensor], sizes: Sequence[float]) -> float:
    """How far M(g) is from carrying what was before to what is after, in these sizes: the worst of all g."""
    misfits = [float((m @ before - moved).norm()) for m, moved in zip(matrices, after, strict=False)]
    return max(map(ratio, misfits, sizes), default=0.0)


def _as_vectors(group: Group, pairs: Pairs, axis: int) -> Transformation | None:
    """Vectors along one axis, of which few samples are enough: nothing is fitted that these could leave open."""
    d, drawn = pairs[0][0].shape[axis], elements(group)
    size = group.vector_size
    for layout in layouts(d // size) if d % size == 0 else ():
        vectors = Representation.vectors(group, d // size, layout)
        misfits = [
            ratio(float((vectors.move(g, base.movedim(axis, -1)) - run.movedim(axis, -1)).norm()), float(run.norm()))
            for base, runs in pairs
            for g, run in zip(drawn, runs, strict=True)
        ]
        if max(misfits) < TOLERANCE:
            return Transformation("linear", (axis,), dense(vectors), max(misfits))
    return None


def layouts(count: int) -> tuple[Layout, ...]:
    """In which so many vectors may lie along one axis."""
    return ("channel_major",) if count == 1 else ("channel_major", "component_major")


def dense(representation: Representation) -> Float[Tensor, "actions n n"]:
    """The generators' matrices on all features."""
    return representation.act(torch.eye(representation.dim, dtype=torch.float64)).mT.contiguous()


def _has_inverse(matrix: Float[Tensor, "d d"]) -> bool:
    """As each of a representation has; without one, a value that vanishes on g x would be one that transforms."""
    sizes = torch.linalg.svdvals(matrix)
    return bool(sizes[-1] > 1e-9 * sizes[0])


def _change(matrices: Sequence[Tensor], before: Tensor, after: Sequence[Tensor]) -> float:
    """How far M(g)^-1 is from carrying one run to the other, as it should."""
    return max(
        float((torch.linalg.inv(m) @ before - moved).norm() / moved.norm())
        for m, moved in zip(matrices, after, strict=False)
    )


def _completed(
    group: Group, matrices: Sequence[Float[Tensor, "d d"]], span: Float[Tensor, "d d"]
) -> list[Float[Tensor, "d d"]] | None:
    """On a pair of axes, matrices known on the span of the data (symmetric tensors, say), made whole by g (x) g.

    None if the span is not a subrepresentation: the values are then not tensors, but spoilt by some constant.
    """
    rest = torch.eye(len(span), dtype=span.dtype) - span
    vector = Representation.vectors(group)
    whole = [torch.kron(g, g) for g in map(vector.rho, elements(group)[:-1])]
    leaks = [rest @ m for m in matrices] + [rest @ m @ span for m in whole] + [span @ m @ rest for m in whole]
    if max(float(leak.norm()) for leak in leaks) > 1e-5:
        return None
    return [m + rest @ default @ rest for m, default in zip(matrices, whole, strict=True)]


def _completed_by_identity(
    group: Group, matrices: Sequence[Float[Tensor, "d d"]], span: Float[Tensor, "d d"]
) -> list[Float[Tensor, "d d"]] | None:
    """Matrices known on the span of the data, made whole by 1 on the rest; None if the span is not a subrepresentation."""
    rest = torch.eye(len(span), dtype=span.dtype) - span
    if max(float((rest @ m).norm()) for m in matrices) > 1e-5:
        return None
    return [m + rest for m in matrices]
