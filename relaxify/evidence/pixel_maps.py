"""How maps of pixels transform: their pixels move, and their channels carry a representation that is fitted behind that.

Channels that are many copies of the group's regular representation (orientation channels) are more than whole fits have
samples for, and need not reach all of it; they are told by which channel each one becomes, or fitted copy by copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.evidence.fitting import fit, transformation
from relaxify.evidence.transformations import Pairs, Transformation, close, elements, on_axes
from relaxify.grids.pixels import Pixels, order, possible_pixels
from relaxify.groups import Group
from relaxify.representations import Representation


@dataclass(frozen=True)
class PixelMaps:
    """The pixels of a model's images: their number on each axis, and the sizes of all maps that are made of them."""

    image: int
    sizes: Collection[int]

    def moved_back(self, group: Group, pairs: Pairs, pixels: Pixels) -> Pairs:
        """Runs on g x with their pixels moved by g^-1."""
        inverses = [torch.linalg.inv(Representation.defining(group).rho(g)) for g in elements(group)]
        return [
            (base, [pixels.move(g, run, self.image) for g, run in zip(inverses, runs, strict=True)]) for base, runs in pairs
        ]

    def transformation(
        self, group: Group, pairs: Pairs, *, sample_sizes: Collection[int] = (), tiny: float = 0.0
    ) -> Transformation:
        """How a value transforms: with pixels somewhere, or else as a value without."""
        shape = pairs[0][0].shape
        whole = transformation(group, pairs, tiny=tiny, without=range(-len(shape), 0))
        # what does not move at all, such as kernels and positions, is not a map of pixels that move
        if whole.kind in ("zero", "invariant"):
            return whole
        own: list[Transformation] = []
        for pixels in possible_pixels(shape, self.sizes):
            back = self.moved_back(group, pairs, pixels)
            found = transformation_of_channels(group, back, sample_sizes=sample_sizes, tiny=tiny, without=pixels.axes)
            found = replace(found, pixels=pixels)
            if found.is_sound:
                return found
            own += [found] if pixels == Pixels(-2, shape[-1]) else []
        # a fit on an axis of pixels could find that they are permuted wrongly
        return own[0] if own else transformation_of_channels(group, pairs, sample_sizes=sample_sizes, tiny=tiny)


def transformation_of_channels(
    group: Group, pairs: Pairs, *, sample_sizes: Collection[int] = (), tiny: float = 0.0, without: Collection[int] = ()
) -> Transformation:
    """How a value transforms, copies of the regular representation included."""
    found = transformation(group, pairs, sample_sizes=sample_sizes, tiny=tiny, without=without)
    if found.is_sound:
        return found
    return next(itertools.chain(_permutations(group, pairs, without), _copies(group, pairs, without)), found)


def _permutations(group: Group, pairs: Pairs, without: Collection[int]) -> Iterator[Transformation]:
    """Axes whose entries a finite group permutes, which takes no more samples than tell them apart."""
    ndim = pairs[0][0].ndim
    for axis in (axis for axis in range(-1, -ndim, -1) if axis not in without and not len(group.generators)):
        before = torch.cat([on_axes(base, (axis,)) for base, _ in pairs], 1)
        after = [torch.cat([on_axes(runs[e], (axis,)) for _, runs in pairs], 1) for e in range(len(elements(group)))]
        found = [_permutation(before, moved) for moved in after[:-1]]
        matrices = [matrix for matrix in found if matrix is not None]
        if len(matrices) < len(found):
            continue
        actions = torch.stack(matrices)
        predicted = Representation.of(group, "fitted", 1, actions).rho(elements(group)[-1])
        if close(predicted @ before, after[-1]):
            yield Transformation("linear", (axis,), actions)


def _permutation(before: Float[Tensor, "d samples"], after: Float[Tensor, "d samples"]) -> Float[Tensor, "d d"] | None:
    """P with P before = after, if there is one; what is zero stays where it is.

    >>> _permutation(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [1.0]])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    # entries are told apart by one number each
    draw = torch.randn(before.shape[1], generator=torch.Generator().manual_seed(0), dtype=before.dtype)
    keys = [rows @ draw for rows in (before, after)]
    zero = ~before.any(1) & ~after.any(1)
    places, sources = (torch.where(zero, torch.inf, key).argsort(stable=True) for key in reversed(keys))
    matrix = torch.zeros(len(before), len(before), dtype=before.dtype)
    matrix[places, sources] = 1
    return matrix if close(matrix @ before, after) else None


def _copies(group: Group, pairs: Pairs, without: Collection[int]) -> Iterator[Transformation]:
    """Axes that hold several copies of a representation of the group's order, one after the other or interleaved."""
    shape, n = pairs[0][0].shape, order(group)
    axes = [axis for axis in range(-1, -len(shape), -1) if axis not in without and n > 1 and n < shape[axis]]
    for axis in (axis for axis in axes if shape[axis] % n == 0):
        copies = torch.eye(shape[axis] // n, dtype=torch.float64)
        for sizes, inner in (((-1, n), axis), ((n, -1), axis - 1)):
            split = [(base.unflatten(axis, sizes), [run.unflatten(axis, sizes) for run in runs]) for base, runs in pairs]
            found = fit(group, split, (inner,))
            if found.kind == "linear" and found.actions is not None:
                one = [torch.kron(copies, m) if inner == axis else torch.kron(m, copies) for m in found.actions]
                yield replace(found, axes=(axis,), actions=torch.stack(one))


def lengths_change(pairs: Pairs, pixels: Pixels | None) -> float:
    """How far the lengths over all channels are from being kept, as a sound map under a compact group keeps them.

    It takes no fit, and so no more samples than there are.
    """
    kept = {0} | ({axis + pairs[0][0].ndim for axis in pixels.axes} if pixels is not None else set())

    def lengths(value: Tensor) -> Tensor:
        return value.square().sum([axis for axis in range(value.ndim) if axis not in kept])

    return max(
        float((lengths(run) - lengths(base)).norm() / (lengths(base).norm() or 1.0)) for base, runs in pairs for run in runs
    )
