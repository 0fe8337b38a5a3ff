"""Group elements to judge a model by: full-size, freshly drawn, seeded.

Haar-distributed for compact groups, reflections among them; every element of small finite groups; small to large ones of
groups that are not compact. They come in pairs a, b with their products ab and ba, which tell a representation from what
merely keeps lengths.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.groups import Group
from relaxify.random_elements import Element
from relaxify.representations import Representation

ENUMERATED = 12
LARGEST = 30.0
FAR = 1.0
"""|g - 1| of an element that is not small: a turn by 41 degrees."""


@dataclass(frozen=True, eq=False)
class Draw:
    """A group element: a product of elements, its matrix, and how often each finite generator is a factor."""

    group: Group
    factors: tuple[Element, ...]

    @functools.cached_property
    def matrix(self) -> Float[Tensor, "d d"]:
        return self.by(Representation.defining(self.group))

    def by(self, representation: Representation) -> Float[Tensor, "n n"]:
        """rho(g)."""
        product = torch.eye(representation.dim, dtype=torch.float64)
        for factor in self.factors:
            product = product @ representation.rho(factor)
        return product

    def move(self, representation: Representation, x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
        """rho(g) x, for rows x."""
        for factor in reversed(self.factors):
            x = representation.move(factor, x)
        return x

    def letters(self, letter: int) -> int:
        return sum(factor.word.count(letter) for factor in self.factors)

    def __mul__(self, other: Draw) -> Draw:
        return Draw(self.group, self.factors + other.factors)

    def __str__(self) -> str:
        matrix = self.matrix
        orthogonal = torch.allclose(matrix @ matrix.mT, torch.eye(len(matrix), dtype=matrix.dtype), atol=1e-6)
        if not orthogonal or len(matrix) not in (2, 3):
            return "[" + ", ".join("[" + ", ".join(f"{x:.2f}" for x in row) + "]" for row in matrix.tolist()) + "]"
        sign = float(torch.linalg.det(matrix).sign())
        if len(matrix) == 2 and sign < 0:
            return "a reflection"
        cosine = float((sign * matrix if len(matrix) == 3 else matrix).trace()) - (len(matrix) == 3)
        turn = f"a turn by {math.degrees(math.acos(max(-1.0, min(1.0, cosine / 2)))):.0f} degrees"
        return f"{turn} and the inversion" if sign < 0 else turn


@functools.lru_cache(maxsize=64)
def draws(group: Group, seed: int) -> Sequence[Draw]:
    """Elements for one input: each other seed gives others, unless they are all elements of a small finite group."""
    if group.factors:
        return _of_product(group, seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    every = [] if len(group.generators) else list(itertools.islice(_every(group), ENUMERATED + 1))
    if 0 < len(every) <= ENUMERATED:
        return every
    if not is_orthogonal(group) and not len(group.finite):
        return _of_many_sizes(group, generator)
    a, b = (_element(group, generator, flipped) for flipped in (seed % 2 == 0, seed % 2 == 1))
    ab, ba = a * b, b * a
    generic = [a, b, ab, ba if _distance(ab.matrix, ba.matrix) > 1e-3 else ba * b]
    return [*(_half_turns(group, generator) if seed % 2 == 0 else ()), *generic][:4]


def _of_product(group: Group, seed: int) -> list[Draw]:
    """Pairs of the factors' elements, again and again those of one that has fewer."""
    drawn = [draws(factor, seed) for factor in group.factors]
    pairs = [[each[number % len(each)] for each in drawn] for number in range(max(map(len, drawn)))]
    return [Draw(group, tuple(map(group.joined, _step_by_step(of_each)))) for of_each in pairs]


def _step_by_step(drawn: Sequence[Draw]) -> Iterator[list[Element]]:
    """The elements of which each is a product, side by side, with 1 where one has fewer."""
    for step in range(max(len(g.factors) for g in drawn)):
        one = (Element(torch.zeros(len(g.group.generators), dtype=torch.float64)) for g in drawn)
        yield [g.factors[step] if step < len(g.factors) else identity for g, identity in zip(drawn, one, strict=True)]


def _half_turns(group: Group, generator: torch.Generator) -> list[Draw]:
    """Half turns about axes at right angles, of the plane or of space.

    The images of a vector under these and the identity sum to zero: a fault that looks at the sign of a coordinate shows.
    """
    if len(group.generators) != {2: 1, 3: 3}.get(group.dim) or not is_orthogonal(group):
        return []
    axes = torch.ones(1, 1, dtype=torch.float64)
    if group.dim == 3:
        axes = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    rates = group.generators.flatten(1).norm(dim=1) / math.sqrt(2)
    found = [Draw(group, (Element(math.pi * axis / rates),)) for axis in axes.mT]
    total = torch.eye(group.dim, dtype=torch.float64) + sum(turn.matrix for turn in found)
    # a basis of one's own may mean other axes
    return found if float(total.norm()) < 1e-6 else []


def small(group: Group, seed: int) -> list[Draw]:
    """A small element and its square: what a representation moves little, and a discrete fault not at all."""
    generator = torch.Generator().manual_seed(2000 + seed)
    coefficients = 0.05 * torch.randn(len(group.generators), generator=generator, dtype=torch.float64)
    e = Draw(group, (Element(coefficients),))
    return [e, e * e]


def _element(group: Group, generator: torch.Generator, flipped: bool) -> Draw:
    """A random element far from the identity, with a factor from the finite generators or, beside Lie ones, without."""
    for attempt in itertools.count():
        drawn = group.random(generator)
        if len(group.generators) and len(group.finite) and bool(drawn.word) != flipped:
            continue
        found = Draw(group, (drawn,))
        if _distance(found.matrix, torch.eye(group.dim, dtype=torch.float64)) > (FAR if attempt < 100 else 1e-3):
            return found
    raise AssertionError


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm())


def _of_many_sizes(group: Group, generator: torch.Generator) -> list[Draw]:
    """Small to large; large is what stretches vectors by a factor of `LARGEST` at most."""
    tiny, middle, large = (size * group.random(generator).coefficients for size in (0.1, 1.0, 10.0))
    a, b = (Draw(group, (Element(coefficients),)) for coefficients in (tiny, middle))
    while float(torch.linalg.matrix_norm((c := Draw(group, (Element(large),))).matrix, 2)) > LARGEST:
        large = 0.8 * large
    return [a, b, c, a * b]


def _every(group: Group) -> Iterator[Draw]:
    """Every element of a finite group but the identity, by its shortest words."""
    seen = {_key(torch.eye(group.dim, dtype=torch.float64))}
    newest: list[tuple[int, ...]] = [()]
    while newest:
        longer = []
        for word, letter in itertools.product(newest, range(len(group.finite))):
            drawn = Draw(group, (Element(torch.zeros(0, dtype=torch.float64), (*word, letter)),))
            if (key := _key(drawn.matrix)) not in seen:
                seen.add(key)
                longer.append((*word, letter))
                yield drawn
        newest = longer


def _key(matrix: Tensor) -> tuple[float, ...]:
    return tuple((1e6 * matrix.flatten()).round().tolist())


def is_orthogonal(group: Group) -> bool:
    """Whether the group's own matrices keep lengths: then its representations do, in a suitable basis.

    >>> is_orthogonal(Group.parse("O(3)")), is_orthogonal(Group.parse("SO(1,3)"))
    (True, False)
    """
    lie, finite = group.generators, group.finite
    identity = torch.eye(group.dim, dtype=torch.float64).expand_as(finite)
    return torch.allclose(lie, -lie.mT, atol=1e-9) and torch.allclose(finite @ finite.mT, identity, atol=1e-9)
