"""The dense matrix of a linear operation as a function of the parameters that its weights are made of.

y[o] = sum_i M[o, i] x[i] on the feature vectors of data and result, where M = core (x) 1: the core has the axes that the
weights mix, and the others stay as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.graph.complex_values import matrix_of_parts
from relaxify.graph.contractions import operands_of
from relaxify.graph.derivations import Derivation, derivation
from relaxify.graph.weighted_calls import WeightedCall, names_at, own_shape, shape_of

Letters = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DerivedWeight:
    """A core made of the weights of a `derivation`, and where its axes stand in the matrix of the operation.

    Letters are numbers, as torch.einsum takes them; those of `operands` are None for an axis along which a weight is the
    same. `ties` are pairs of an output's and an input's axis that are one; `sizes` are by letters.
    """

    derivation: Derivation
    operands: tuple[tuple[int | None, ...], ...]
    core: Letters
    ties: tuple[tuple[int, int], ...]
    into: Letters
    out: Letters
    sizes: tuple[int, ...]
    parts: tuple[int, int] | None = None
    """Places in the core of the axes of the real and the imaginary parts, of outputs and inputs, if these are complex."""

    def of(self, module: nn.Module, given: Mapping[str, Tensor]) -> Float[Tensor, "..."]:
        """The core of the operation where some parameters have the values `given`."""
        pairs: list[Any] = []
        for weight, letters in zip(self.derivation.of(module, given), self.operands, strict=True):
            for axis in reversed([axis for axis, letter in enumerate(letters) if letter is None]):
                weight = weight.select(axis, 0)
            pairs += [weight, [letter for letter in letters if letter is not None]]
        if self.parts is None:
            return torch.einsum(*pairs, list(self.core)).expand(self._shape(self.core))
        rest = tuple(letter for place, letter in enumerate(self.core) if place not in self.parts)
        core = torch.einsum(*pairs, list(rest)).expand(self._shape(rest))
        return matrix_of_parts(core).movedim((-2, -1), self.parts)

    def matrix(self, core: Float[Tensor, "..."]) -> Float[Tensor, "n_out n_in"]:
        """The matrix of the operation with this core."""
        whole = torch.einsum(core, list(self.core), *self._identities(core), [*self.out, *self.into])
        return whole.reshape(math.prod(self._shape(self.out)), -1)

    def nearest_core(self, matrix: Float[Tensor, "n_out n_in"]) -> Float[Tensor, "..."]:
        """The core whose matrix is nearest to this one: the mean over the axes that it leaves as they are."""
        whole = matrix.reshape(self._shape((*self.out, *self.into)))
        summed = torch.einsum(whole, [*self.out, *self.into], *self._identities(matrix), list(self.core))
        return summed / math.prod(self.sizes[into] for _, into in self.ties if into not in self.core)

    def is_like(self, other: DerivedWeight) -> bool:
        """Whether another matrix is made in the same way."""
        places = (
            (each.operands, each.core, each.ties, each.into, each.out, each.sizes, each.parts) for each in (self, other)
        )
        return len(set(places)) == 1 and self.derivation.is_like(other.derivation)

    def _shape(self, letters: Letters) -> tuple[int, ...]:
        return tuple(self.sizes[letter] for letter in letters)

    def _identities(self, like: Tensor) -> list[Any]:
        eyes = ([torch.eye(self.sizes[into]).to(like), [out, into]] for out, into in self.ties)
        return list(itertools.chain(*eyes))


def derived_weight(
    model: nn.Module, call: WeightedCall, axes_in: Sequence[int], axes_out: Sequence[int]
) -> DerivedWeight | None:
    """How the matrix of a call, on feature vectors on these axes, is made; None if that ran out of sight."""
    node, found = call.node, call.contraction
    read = operands_of(node.target, node.args, node.kwargs, own_shape)
    if read is None:
        return None
    operands, (*terms, result) = read
    weights = [(operand, term) for operand, term in zip(operands, terms, strict=True) if operand is not found.data]
    outside = result + "".join(term for operand, term in zip(operands, terms, strict=True) if operand is found.data)
    made = derivation([operand for operand, _ in weights], names_at(model, call.owner))
    places = _Places(call)
    axes = places.of(axes_in, axes_out)
    if made is None or axes is None:
        return None
    letters = tuple(tuple(places.letter(letter, outside) for letter in term) for _, term in weights)
    parts = places.parts if "complex" in node.meta else None
    return DerivedWeight(made, letters, places.core, tuple(places.ties), *axes, tuple(places.sizes), parts)


def derived_kernel(model: nn.Module, call: WeightedCall, *, transposed: bool) -> DerivedWeight | None:
    """How the kernel of a convolution is made, as the matrix of its output channels that acts on patches."""
    kernel = call.contraction.weight
    made = derivation([kernel], names_at(model, call.owner))
    if made is None:
        return None
    sizes = shape_of(kernel)
    axes = tuple(range(len(sizes)))
    out, into = (1, 0) if transposed else (0, 1)
    return DerivedWeight(made, (axes,), axes, (), (into, *axes[2:]), (out,), sizes)


class _Places:
    """Numbers for the axes of a call's matrix and of its core."""

    def __init__(self, call: WeightedCall) -> None:
        self.call = call
        self.sizes: list[int] = []
        self.ties: list[tuple[int, int]] = []
        found, grouped = call.contraction, call.contraction.grouped
        self.into, self.out = found.letters
        self.numbers: dict[str, int] = {}
        for letter, axis in zip(self.out, found.axes_out, strict=True):
            self.numbers[letter] = self._new(call.shape_out[axis])
        for letter, axis in zip(self.into[grouped:], found.axes_in[grouped:], strict=True):
            self.numbers[letter] = self._new(call.shape_in[axis])
        self.core = tuple(self.numbers.values())
        # where the axes of complex numbers' parts are, these are the last of outputs and inputs
        self.parts = len(self.out) - 1, len(self.core) - 1

    def _new(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def letter(self, letter: str, outside: str) -> int | None:
        """The number of a weight's axis; None if data or result have it, and the weight is the same along it."""
        if letter not in self.numbers and letter in outside:
            return None
        # a sum over what only weights have
        return self.numbers[letter] if letter in self.numbers else self.numbers.setdefault(letter, self._new(0))

    def of(self, axes_in: Sequence[int], axes_out: Sequence[int]) -> tuple[Letters, Letters] | None:
        """The numbers of the axes of inputs and outputs; None if these have not all axes that are mixed."""
        found, n_in, n_out = self.call.contraction, len(self.call.shape_in), len(self.call.shape_out)
        if not (set(found.axes_in) <= set(axes_in) and set(found.axes_out) <= set(axes_out)):
            return None
        number: dict[int, int] = {axis: self.numbers[i] for i, axis in zip(self.into, found.axes_in, strict=True)}
        to: dict[int, int] = {axis: self.numbers[i] for i, axis in zip(self.out, found.axes_out, strict=True)}
        for axis in axes_in:
            if axis not in number:
                number[axis] = self._new(self.call.shape_in[axis])
            if axis not in found.axes_in[found.grouped :]:
                place = found.place(axis, n_in, n_out)
                to[place] = self._new(self.call.shape_in[axis])
                self.ties.append((to[place], number[axis]))
        if not set(axes_out) <= set(to):
            return None
        return tuple(number[axis] for axis in axes_in), tuple(to[axis] for axis in axes_out)
