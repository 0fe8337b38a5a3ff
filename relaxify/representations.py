"""How a group acts on a feature vector, in blocks.

A representation is never a dense matrix here: it is a list of blocks, each `multiplicity` copies of one small
representation, stored by the action of the group's generators.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from relaxify.algebras import exponential
from relaxify.groups import Group
from relaxify.random_elements import Element, Word

Layout = Literal["channel_major", "component_major"]


@dataclass(frozen=True)
class Block:
    """`multiplicity` copies of a `dimension`-dimensional representation.

    Layout: copy u's component i sits at u * dimension + i in `channel_major` (e3nn, escnn) and at i * multiplicity + u in
    `component_major` (Vector Neurons with the vector axis before the channels).
    """

    name: str
    multiplicity: int
    dimension: int
    layout: Layout = "channel_major"

    @property
    def dim(self) -> int:
        return self.multiplicity * self.dimension

    def split(self, x: Shaped[Tensor, "*rows n"]) -> Shaped[Tensor, "*rows channels components"]:
        """View a block's slice of a feature vector as (channels, components)."""
        if self.layout == "channel_major":
            return x.unflatten(-1, (self.multiplicity, self.dimension))
        return x.unflatten(-1, (self.dimension, self.multiplicity)).transpose(-1, -2)

    def merge(self, x: Shaped[Tensor, "*rows channels components"]) -> Shaped[Tensor, "*rows n"]:
        """The inverse of `split`."""
        return (x if self.layout == "channel_major" else x.transpose(-1, -2)).flatten(-2)

    def __str__(self) -> str:
        return f"{self.multiplicity}x{self.name}"


def slices(blocks: Sequence[Block]) -> Iterator[slice]:
    """Where each block sits in the feature vector."""
    start = 0
    for block in blocks:
        yield slice(start, start + block.dim)
        start += block.dim


def _exponential(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """exp of a matrix: few elements are taken again and again, by every representation that is made anew."""
    return _exponentials(matrix.numpy().tobytes(), len(matrix)).clone()


@functools.lru_cache(1024)
def _exponentials(entries: bytes, d: int) -> Float[Tensor, "d d"]:
    return exponential(torch.frombuffer(bytearray(entries), dtype=torch.float64).view(d, d))


def _times_word(matrix: Float[Tensor, "d d"], finite: Float[Tensor, "fin d d"], word: Word) -> Float[Tensor, "d d"]:
    """The matrix times those of a word's letters; permutations, of which words are long, move its columns."""
    orders = {letter: order for letter in set(word) if (order := _order(finite[letter])) is not None}
    for permutes, letters in itertools.groupby(word, orders.__contains__):
        if permutes:
            columns = np.arange(len(matrix))
            for letter in letters:
                columns = columns[orders[letter]]
            matrix = matrix[:, columns]
        else:
            matrix = functools.reduce(lambda product, letter: product @ finite[letter], letters, matrix)
    return matrix


def _order(matrix: Float[Tensor, "d d"]) -> NDArray[np.int64] | None:
    """p, of a permutation matrix whose column i is e_{p(i)}."""
    order = matrix.argmax(0)
    is_permutation = torch.equal(torch.eye(len(matrix), dtype=matrix.dtype)[:, order], matrix)
    return order.numpy() if is_permutation else None


@dataclass(frozen=True, eq=False)
class Representation:
    """A representation of `group` on feature vectors of size `dim`, as blocks.

    `actions[b]` holds, for one copy in block b, first drho(A_i) for the group's Lie generators A_i, then rho(g_j) for its
    finite generators g_j, in float64.

    >>> vectors = Representation.defining(Group.parse("SO(3)"), 2)
    >>> x = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64)
    >>> vectors.act(x)[2]  # J_z turns e_x into e_y and e_y into -e_x
    tensor([ 0.,  1.,  0., -1.,  0.,  0.], dtype=torch.float64)
    """

    group: Group
    blocks: tuple[Block, ...]
    actions: tuple[Tensor, ...]
    _moved: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for block, action in zip(self.blocks, self.actions, strict=True):
            expected = (self.group.actions, block.dimension, block.dimension)
            if tuple(action.shape) != expected:
                raise ValueError(
                    f"block {block} of a representation of {self.group.name}: its actions have shape "
                    f"{tuple(action.shape)}; pass {expected}, one matrix per generator of the group."
                )

    @classmethod
    def of(
        cls,
        group: Group,
        name: str,
        multiplicity: int,
        action: Float[Tensor, "actions d d"],
        layout: Layout = "channel_major",
    ) -> Representation:
        """`multiplicity` copies of the representation whose generators act by the matrices `action`."""
        block = Block(name, multiplicity, action.shape[-1], layout)
        return cls(group, (block,), (action.to(torch.float64),))

    @classmethod
    def trivial(cls, group: Group, multiplicity: int = 1) -> Representation:
        """Invariant features."""
        lie = torch.zeros(len(group.generators), 1, 1, dtype=torch.float64)
        finite = torch.ones(len(group.finite), 1, 1, dtype=torch.float64)
        return cls.of(group, "trivial", multiplicity, torch.cat([lie, finite]))

    @classmethod
    def defining(cls, group: Group, multiplicity: int = 1, layout: Layout = "channel_major") -> Representation:
        """Vectors: the group's own matrices."""
        return cls.of(group, "vector", multiplicity, torch.cat([group.generators, group.finite]), layout)

    @classmethod
    def vectors(cls, group: Group, multiplicity: int = 1, layout: Layout = "channel_major") -> Representation:
        """Differences of points: of a group that moves the origin, as its linear part acts; else as `defining`."""
        return cls.of(group, "vector", multiplicity, group.vectors, layout)

    def over(self, group: Group) -> Representation:
        """A representation of a group's linear part as one of the group, whose translations do nothing.

        >>> Representation.defining(Group.parse("SO(3)")).over(Group.parse("SE(3)")).actions[0].shape
        torch.Size([6, 3, 3])
        """
        if group == self.group:
            return self
        lie, basis = group.vectors[: len(group.generators)].flatten(1), self.group.generators.flatten(1)
        found = torch.linalg.lstsq(basis.mT, lie.mT).solution.mT if len(basis) else lie.new_zeros(len(lie), 0)
        count = len(self.group.generators)
        actions = tuple(torch.cat([torch.einsum("ga,aij->gij", found, a[:count]), a[count:]]) for a in self.actions)
        return Representation(group, self.blocks, actions)

    def of_factor(self, group: Group, number: int) -> Representation:
        """A representation of one factor of a product as one of the product, whose other factors do nothing.

        >>> both = Group.parse("SO(3) x S(4)")
        >>> Representation.defining(both.factors[0]).of_factor(both, 0).actions[0].shape
        torch.Size([5, 3, 3])
        """
        actions = []
        for action in self.actions:
            one, count = torch.eye(action.shape[-1], dtype=action.dtype), len(self.group.generators)
            lie = [torch.zeros_like(one).expand(len(factor.generators), -1, -1) for factor in group.factors]
            finite = [one.expand(len(factor.finite), -1, -1) for factor in group.factors]
            lie[number], finite[number] = action[:count], action[count:]
            actions.append(torch.cat([*lie, *finite]))
        return Representation(group, self.blocks, tuple(actions))

    @property
    def dim(self) -> int:
        return sum(block.dim for block in self.blocks)

    @functools.cached_property
    def is_trivial(self) -> bool:
        """Whether every generator leaves every feature where it is."""
        lie = len(self.group.generators)
        return not any(
            a[:lie].any() or (a[lie:] - torch.eye(a.shape[-1], dtype=a.dtype)).any()
            for a, block in zip(self.actions, self.blocks, strict=True)
            if block.dim
        )

    def act(
        self, x: Float[Tensor, "*rows n"], *, transpose: bool = False, each: bool = False
    ) -> Float[Tensor, "actions *moved n"]:
        """Each generator's action on the last axis, stacked in front: drho(A_i) x, then rho(g_j) x (or the transposes').

        With `each`, x has an axis of all generators in front, and each acts on its own entry.
        """
        rows = "a...j" if each else "...j"
        parts = []
        for block, where, action in zip(self.blocks, slices(self.blocks), self._actions(x), strict=True):
            channels = block.split(x[..., where])
            matrices = action.transpose(-1, -2) if transpose else action
            parts.append(block.merge(torch.einsum(f"aij,{rows}->a...i", matrices, channels)))
        return torch.cat(parts, dim=-1)

    def _actions(self, like: Tensor) -> tuple[Tensor, ...]:
        key = (like.device, like.dtype)
        if key not in self._moved:
            self._moved[key] = tuple(action.to(like) for action in self.actions)
        return self._moved[key]

    def drho(self, coefficients: Float[Tensor, " lie"]) -> Float[Tensor, "n n"]:
        """The dense matrix sum_i coefficients[i] drho(A_i)."""
        identity = torch.eye(self.dim, dtype=torch.float64)
        lie = self.act(identity)[: len(coefficients)].transpose(-1, -2)
        return torch.einsum("a,aij->ij", coefficients.to(lie), lie)

    def rho(self, element: Element) -> Float[Tensor, "n n"]:
        """The dense matrix of a group element: exp(drho(sum_i c_i A_i)) times a word in the finite generators."""
        return torch.block_diag(*self._dense_blocks(element))

    def move(self, element: Element, x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
        """x @ rho(g)^T, block by block: without the dense matrix, which is large where there are many copies.

        >>> vectors, g = Representation.defining(Group.parse("SO(3)"), 2), Element(torch.ones(3, dtype=torch.float64))
        >>> x = torch.randn(5, 6, dtype=torch.float64)
        >>> torch.allclose(vectors.move(g, x), x @ vectors.rho(g).mT)
        True
        """
        if self.is_trivial:
            return x
        blocks = zip(self.blocks, slices(self.blocks), self._matrices(element), strict=True)
        parts = [
            # the other way round, products of many small rows take longer than the dense one
            block.merge(torch.tensordot(matrix, block.split(x[..., where]), ([1], [-1])).movedim(0, -1))
            for block, where, matrix in blocks
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _matrices(self, element: Element) -> Iterator[Float[Tensor, "d d"]]:
        """The matrix of a group element on one copy of each block."""
        lie = len(self.group.generators)
        for action in self.actions:
            matrix = _exponential(torch.einsum("a,aij->ij", element.coefficients, action[:lie]))
            yield _times_word(matrix, action[lie:], element.word)

    def matrices(self, element: Element) -> tuple[Tensor, ...]:
        """The matrix of a group element on one copy of each block."""
        return tuple(self._matrices(element))

    def _dense_blocks(self, element: Element) -> Iterator[Float[Tensor, "n n"]]:
        for block, matrix in zip(self.blocks, self._matrices(element), strict=True):
            copies = torch.eye(block.multiplicity, dtype=matrix.dtype)
            yield torch.kron(copies, matrix) if block.layout == "channel_major" else torch.kron(matrix, copies)

    def __add__(self, other: Representation) -> Representation:
        """The direct sum."""
        if self.group != other.group:
            raise ValueError(f"cannot add representations of {self.group.name} and of {other.group.name}; use one group.")
        return Representation(self.group, self.blocks + other.blocks, self.actions + other.actions)

    def dual(self) -> Representation:
        """The dual: drho*(A) = -drho(A)^T, rho*(g) = rho(g)^-T."""
        lie = len(self.group.generators)
        actions = tuple(torch.cat([-a[:lie].mT, torch.linalg.inv(a[lie:]).mT]) for a in self.actions)
        blocks = tuple(replace(block, name=f"{block.name}*") for block in self.blocks)
        return Representation(self.group, blocks, actions)

    def with_layout(self, layout: Layout) -> tuple[Representation, Int[Tensor, " n"]]:
        """The same representation in another layout, and the permutation p with new_features = features[..., p].

        >>> vectors = Representation.defining(Group.parse("SO(3)"), 2)
        >>> vectors.with_layout("component_major")[1]
        tensor([0, 3, 1, 4, 2, 5])
        """
        index = torch.arange(self.dim)
        blocks = tuple(replace(block, layout=layout) for block in self.blocks)
        parts = [
            new.merge(old.split(index[where]))
            for old, new, where in zip(self.blocks, blocks, slices(self.blocks), strict=True)
        ]
        return Representation(self.group, blocks, self.actions), torch.cat([*parts, index[:0]])

    def __str__(self) -> str:
        return "+".join(map(str, self.blocks)) or "0"
