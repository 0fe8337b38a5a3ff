"""Random elements of groups, as coefficients of Lie generators and words in finite ones: Haar-distributed where named."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Word = tuple[int, ...]


@dataclass(frozen=True)
class Element:
    """The group element exp(sum_i coefficients[i] A_i) g_{word[0]} g_{word[1]} ... of generators A_i and g_j."""

    coefficients: Float[Tensor, " lie"]
    word: Word = ()


def normal_coefficients(size: int, generator: torch.Generator) -> Float[Tensor, " lie"]:
    """Generic coefficients, of groups that have no uniform ones."""
    return torch.randn(size, generator=generator, dtype=torch.float64)


def uniform_angle(size: int, generator: torch.Generator) -> Float[Tensor, " lie"]:
    """A turn of the plane by any angle."""
    return (2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1) * math.pi


def haar_rotation_vector(size: int, generator: torch.Generator) -> Float[Tensor, " lie"]:
    """The axis times the angle of a Haar-distributed rotation of space, by a random quaternion."""
    quaternion = torch.randn(size + 1, generator=generator, dtype=torch.float64)
    quaternion = quaternion / quaternion.norm()
    axis = quaternion[1:] / quaternion[1:].norm()
    return axis * 2 * torch.atan2(quaternion[1:].norm(), quaternion[0])


@dataclass(frozen=True)
class Shifted:
    """Translations beside what the linear part draws."""

    n: int
    linear: Callable[[int, torch.Generator], Tensor]

    def __call__(self, size: int, generator: torch.Generator) -> Float[Tensor, " lie"]:
        shift = torch.randn(self.n, generator=generator, dtype=torch.float64)
        return torch.cat([shift, self.linear(size - self.n, generator)])


@dataclass(frozen=True)
class HaarRotation:
    """The logarithm of a Haar-distributed rotation: Q of a Gaussian's QR, with the signs that make R unique."""

    n: int

    def __call__(self, size: int, generator: torch.Generator) -> Float[Tensor, " lie"]:
        q, r = torch.linalg.qr(torch.randn(self.n, self.n, generator=generator, dtype=torch.float64))
        q = q * r.diagonal().sign()
        q[:, 0] *= torch.linalg.det(q).sign()
        # of a normal matrix whose eigenvalues differ, as these do almost surely
        values, vectors = torch.linalg.eig(q)
        logarithm = ((vectors * values.log()) @ vectors.mH).real
        rows, columns = torch.triu_indices(self.n, self.n, 1)
        # the generator of a pair i < j has -1 at (i, j)
        return -(logarithm - logarithm.mT)[rows, columns] / 2


def _integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))


def random_word(letters: int, generator: torch.Generator) -> Word:
    """Some letters: of a group that is not known to be finite there is no uniform element."""
    length = _integer(4 * letters, generator) if letters else 0
    return tuple(_integer(letters, generator) for _ in range(length))


@dataclass(frozen=True)
class Dihedral:
    """Uniform words r^k s^j over k < rotations, j < reflections (a cyclic group has no reflections)."""

    rotations: int
    reflections: int = 1

    def __call__(self, generator: torch.Generator) -> Word:
        flip = 0 if self.rotations == 1 else 1
        return (0,) * _integer(self.rotations, generator) + (flip,) * _integer(self.reflections, generator)


@dataclass(frozen=True)
class AnyOf:
    """One of these words, each as likely."""

    words: tuple[Word, ...]

    def __call__(self, generator: torch.Generator) -> Word:
        return self.words[_integer(len(self.words), generator)]


@dataclass(frozen=True)
class Permutations:
    """Uniform permutations of n as words in the transposition (letter 0) and the cycle i -> i + 1 (letter 1)."""

    n: int

    def __call__(self, generator: torch.Generator) -> Word:
        order = torch.randperm(self.n, generator=generator).tolist()
        word: list[int] = []
        turned = 0
        for end, i in itertools.product(range(self.n - 1, 0, -1), range(self.n - 1)):
            if i < end and order[i] > order[i + 1]:
                order[i], order[i + 1] = order[i + 1], order[i]
                # cycle^i transposition cycle^-i swaps i and i + 1; between two of them, cycles back and forth cancel
                word += [1] * ((i - turned) % self.n) + [0]
                turned = i
        return (*word, *[1] * (-turned % self.n))


@dataclass(frozen=True)
class EachCoefficients:
    """Those of each factor of a product, by their numbers."""

    factors: tuple[tuple[int, Callable[[int, torch.Generator], Tensor]], ...]

    def __call__(self, size: int, generator: torch.Generator) -> Float[Tensor, " lie"]:
        return torch.cat([draw(count, generator) if count else torch.zeros(0).double() for count, draw in self.factors])


@dataclass(frozen=True)
class EachWord:
    """A word of each factor of a product, by the numbers of their letters: those of different factors commute."""

    factors: tuple[tuple[int, Callable[[torch.Generator], Word] | None], ...]

    def __call__(self, generator: torch.Generator) -> Word:
        letters = itertools.accumulate((count for count, _ in self.factors), initial=0)
        drawn = [draw(generator) if draw else random_word(count, generator) for count, draw in self.factors]
        return tuple(first + letter for first, word in zip(letters, drawn, strict=False) for letter in word)


def shortest_words(finite: Float[Tensor, "fin d d"]) -> tuple[Word, ...]:
    """A shortest word for each element of the finite group that these matrices generate.

    >>> from relaxify import Group
    >>> shortest_words(Group.parse("C(3)").finite), len(shortest_words(Group.parse("D(4)").finite))
    (((), (0,), (0, 0)), 8)
    """
    identity = torch.eye(finite.shape[-1], dtype=finite.dtype)
    found: dict[tuple[int, ...], Word] = {_rounded(identity): ()}
    newest: list[tuple[Tensor, Word]] = [(identity, ())]
    while newest:
        longer: list[tuple[Tensor, Word]] = []
        for (element, word), letter in itertools.product(newest, range(len(finite))):
            product = element @ finite[letter]
            if (key := _rounded(product)) not in found:
                found[key] = (*word, letter)
                longer.append((product, found[key]))
        newest = longer
    return tuple(found.values())


def _rounded(matrix: Tensor) -> tuple[int, ...]:
    """Equal for matrices that are equal up to rounding; entries of group elements are not near half a thousandth."""
    return tuple(math.floor(1e3 * entry + 0.5) for entry in matrix.flatten().tolist())
