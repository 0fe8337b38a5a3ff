"""How a value transforms that its own runs leave open: told by representations that other values of the model carry.

Irreps on two or three axes at once (MACE's products) fit nothing on one axis, and are too few for a fit on all: they are
held to rho(g) on each axis, as it is known from values that carry it on one. A value that reaches a part of an axis only
(a multivector without a scalar) is held to what acts on all of it elsewhere; failing that, nothing acts on the rest.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.evidence.fitting import fit
from relaxify.evidence.generators import is_isometric, known_actions
from relaxify.evidence.ruling_out import Sampled
from relaxify.evidence.transformations import LARGEST_AXIS, Axes, Norms, Pairs, Transformation, close, elements
from relaxify.groups import Group
from relaxify.representations import Representation
from relaxify.sites import Features

LARGEST_PRODUCT = 4 * LARGEST_AXIS
LARGEST_PAIR = 32
MOST_AXES = 3
MOST_TRIED = 48

Actions = Float[Tensor, "actions _ _"]
Known = Callable[[int], Sequence[Actions]]
"""From the size of an axis to the representations of that size that some value carries, those that are known best first."""


def by_other_values(
    group: Group, pairs: Pairs, known: Known, sample_sizes: Collection[int], norms: Norms
) -> Transformation | None:
    """How a value transforms by known representations on one axis, or on several at once; None if by none of them."""
    for axes, actions in itertools.islice(_candidates(group, pairs[0][0].shape, known), MOST_TRIED):
        if _obeys(group, pairs, axes, actions, norms):
            return Transformation("linear", axes, functools.reduce(functools.partial(_product, group), actions))
    return _on_a_part(group, pairs, sample_sizes, norms)


def is_beyond(shape: torch.Size, known: Known) -> bool:
    """Whether a value may carry known representations on more axes together, or on larger ones, than are looked at."""
    sizes = [(size, len(known(size))) for size in shape if size > 1 and known(size)]
    left_out = (
        math.prod(size for size, _ in chosen) > LARGEST_PRODUCT
        for count in range(2, MOST_AXES + 1)
        for chosen in itertools.combinations(sizes, count)
    )
    return len(sizes) > MOST_AXES or math.prod(1 + count for _, count in sizes) - 1 > MOST_TRIED or any(left_out)


def _candidates(group: Group, shape: torch.Size, known: Known) -> Iterator[tuple[Axes, tuple[Actions, ...]]]:
    axes = [axis for axis in range(-len(shape), 0) if shape[axis] > 1 and known(shape[axis])]
    for count in range(1, MOST_AXES + 1):
        for chosen in itertools.combinations(axes, count):
            if math.prod(shape[axis] for axis in chosen) <= LARGEST_PRODUCT:
                yield from ((chosen, each) for each in itertools.product(*(known(shape[axis]) for axis in chosen)))


def _obeys(group: Group, pairs: Pairs, axes: Axes, actions: Sequence[Actions], norms: Norms) -> bool:
    """Whether a value is carried to that on g x by rho(g) on each of the axes, for every g and every input."""
    representations = [Representation.of(group, "known", 1, each) for each in actions]
    # the last element is the one that most representations are told apart by
    for number, g in reversed(list(enumerate(elements(group)))):
        for base, runs in pairs:
            moved = base
            for axis, representation in zip(axes, representations, strict=True):
                moved = Features((axis,)).apply(representation.rho(g), moved)
            if moved.shape != runs[number].shape or not close(moved, runs[number], norms):
                return False
    return True


def _product(group: Group, a: Actions, b: Actions) -> Actions:
    """The tensor product of two representations: A (x) 1 + 1 (x) B of a Lie generator, g (x) h of a finite one."""
    one_a, one_b = (torch.eye(each.shape[-1], dtype=each.dtype) for each in (a, b))
    lie = len(group.generators)
    of_lie = [torch.kron(x, one_b) + torch.kron(one_a, y) for x, y in zip(a[:lie], b[:lie], strict=True)]
    return torch.stack([*of_lie, *(torch.kron(x, y) for x, y in zip(a[lie:], b[lie:], strict=True))])


def _on_a_part(group: Group, pairs: Pairs, sample_sizes: Collection[int], norms: Norms) -> Transformation | None:
    """A representation on the part that a value reaches of one axis, or of two together, and none on the rest.

    Complex irreps act on orders, and on real and imaginary parts, as one.
    """
    shape = pairs[0][0].shape
    axes = [axis for axis in range(-len(shape), 0) if shape[axis] > 1 and shape[axis] not in sample_sizes]

    def size(chosen: Axes) -> int:
        return math.prod(shape[axis] for axis in chosen)

    pairs_of_axes = itertools.combinations(axes, 2) if group.compact else ()
    both = (chosen for chosen in pairs_of_axes if size(chosen) <= LARGEST_PAIR)
    chosen = [*sorted(((axis,) for axis in axes), key=size), *sorted(both, key=size)]
    known = Sampled(pairs, norms, len(pairs[0][1]) - 1)
    found = (fit(group, pairs, each, norms, partial=True) for each in chosen if known.misfit(each) is None)
    return next((each for each in found if _is_told(group, each)), None)


def _is_told(group: Group, found: Transformation) -> bool:
    """Whether a fit on a part found a representation that may be meant: with a constant added, vectors carry one too.

    That is W g W^-1 and 1 on what W v + b reaches, and keeps no lengths.
    """
    return found.actions is not None and (not group.compact or is_isometric(group, found.actions))


def _may_fit(pairs: Pairs, axes: Axes) -> bool:
    return Sampled(pairs, Norms(), len(pairs[0][1]) - 1).misfit(axes) is None


def representations_of(group: Group, size: int, values: Sequence[tuple[int, Pairs]]) -> list[Actions]:
    """The representations of this size that values carry on one axis each, those on all of it first.

    `values` are axes, and values that have them.
    """
    known = list(known_actions(group, 1).values()) if size == group.vector_size else []
    every = [fit(group, pairs, (axis,), partial=True) for axis, pairs in values if _may_fit(pairs, (axis,))]
    found = [each for each in every if _is_told(group, each)]
    nothing = Representation.trivial(group, size).act(torch.eye(size, dtype=torch.float64))
    for actions in (each.actions for each in sorted(found, key=lambda each: each.unreached)):
        if actions is not None and not any(torch.allclose(actions, other, atol=1e-6) for other in (nothing, *known)):
            known.append(actions)
    return known
