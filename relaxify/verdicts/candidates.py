"""As what an output may transform, without a fit: invariant, vectors, pairs of them, symmetric tensors, positions, pixels.

A `Way` carries a value by a group element; it is right if it carries f(x) to f(g x). What fits no such way may still carry a
representation that has to be fitted: see `fits`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.groups import Group
from relaxify.verdicts.draws import Draw

LARGEST_RANK = 4
DEGREES = (1, 2, 3, -1, -2, -3)
"""Of homogeneous values under scalings."""

Matrix = Callable[[Float[Tensor, "d d"]], Float[Tensor, "n n"]]
Carry = Callable[[Draw, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Way:
    """y -> rho(g) y: `matrix` of g on the flattened `axes`, plus a `shift` (positions); a sign for each of the `letters`.

    `place` moves pixels, or acts as the inputs' own action does, before all that; `fitted` says that the matrix of each
    element is fitted.
    """

    name: str
    axes: tuple[int, ...] = ()
    matrix: Matrix | None = None
    shift: Matrix | None = None
    letters: tuple[int, ...] = ()
    place: Carry | None = field(default=None, repr=False)
    place_name: str = ""
    fitted: bool = False

    def __call__(self, g: Draw, value: Tensor) -> Tensor:
        value = self.placed(g, value)
        if self.matrix is not None:
            value = _on_axes(value, self.axes, self.matrix(g.matrix))
        if self.shift is not None:
            value = (value.movedim(self.axes[0], -1) + self.shift(g.matrix).to(value.dtype)).movedim(-1, self.axes[0])
        return -value if sum(g.letters(letter) for letter in self.letters) % 2 else value

    def placed(self, g: Draw, value: Tensor) -> Tensor:
        return value if self.place is None else self.place(g, value)

    def __str__(self) -> str:
        sign = "pseudo-" if self.letters and self.name != "invariant" else ""
        name = "pseudoscalar" if self.letters and self.name == "invariant" else sign + self.name
        where = ("axis " if len(self.axes) == 1 else "axes ") + " and ".join(map(str, self.axes)) if self.axes else ""
        return " ".join(filter(None, (name, where and f"on {where}", self.place_name)))


def _on_axes(value: Tensor, axes: tuple[int, ...], matrix: Tensor) -> Tensor:
    last = tuple(range(-len(axes), 0))
    rows = value.movedim(axes, last)
    moved = rows.flatten(-len(axes)) @ matrix.mT.to(value.dtype)
    return moved.unflatten(-1, rows.shape[-len(axes) :]).movedim(last, axes)


def ways(group: Group, value: Tensor, places: Sequence[Way] = ()) -> Iterator[Way]:
    """The ways in which a value of this shape may transform, likely ones first.

    >>> [str(way) for way in itertools.islice(ways(Group.parse("SO(3)"), torch.zeros(5, 3)), 2)]
    ['invariant', 'vector on axis -1']
    """
    for place in (Way(""), *places):
        free = [axis for axis in range(-value.ndim, 0) if axis not in place.axes]
        for way in _on_channels(group, tuple(value.shape), free):
            placed = replace(way, place=place.place, place_name=place.place_name)
            yield placed
            if value.dtype != torch.bool:
                yield from (replace(placed, letters=letters) for letters in _signs(group))
    if value.dtype != torch.bool and is_scaling(group):
        yield from (Way(f"of degree {k}", place=functools.partial(_scaled, k)) for k in DEGREES)


def _scaled(degree: int, g: Draw, value: Tensor) -> Tensor:
    return value * float(g.matrix[0, 0]) ** degree


def is_scaling(group: Group) -> bool:
    """Whether the group multiplies vectors by numbers, and values by their powers.

    >>> is_scaling(Group.parse("Scale(2)")), is_scaling(Group.parse("SO(2)"))
    (True, False)
    """
    factors = torch.cat([group.generators, group.finite])
    identity = torch.eye(group.dim, dtype=torch.float64)
    return not group.compact and torch.equal(factors, factors[:, :1, :1] * identity)


def _on_channels(group: Group, shape: tuple[int, ...], free: Sequence[int]) -> Iterator[Way]:
    if group.of_features != group:
        yield from _of_points(group, shape, free)
        return
    d = group.dim
    yield Way("invariant")
    own = [axis for axis in reversed(free) if shape[axis] == d > 1]
    for axis in own:
        yield Way("vector", (axis,), _itself)
        if not group.compact:
            yield Way("covector", (axis,), _dual)
    for axes in itertools.combinations(sorted(own), 2):
        yield Way("vector⊗vector", axes, _squared)
        if not group.compact:
            yield Way("covector⊗vector", axes, _dual_and_vector)
    for rank in range(3, min(len(own), LARGEST_RANK) + 1):
        yield from (
            Way(f"tensor of rank {rank}", axes, functools.partial(_power, rank))
            for axes in itertools.combinations(sorted(own), rank)
        )
    if group.is_affine:
        for axis in (axis for axis in reversed(free) if shape[axis] == d - 1):
            yield Way("position", (axis,), _linear_part, _translation)
            yield Way("vector", (axis,), _linear_part)
    for axis in (axis for axis in reversed(free) if shape[axis] > d > 1):
        yield from _of_several(d, axis, shape[axis])
    yield from _of_symmetric_pairs(d, shape, free)


def _of_points(group: Group, shape: tuple[int, ...], free: Sequence[int]) -> Iterator[Way]:
    """Where points move: points, and whatever the linear part moves."""
    ways = _on_channels(group.linear_part, shape, free)
    yield next(ways)
    for axis in (axis for axis in reversed(free) if shape[axis] == group.vector_size):
        yield Way("position", (axis,), _linear_part, _translation)
    for way in ways:
        assert way.matrix is not None
        yield replace(way, matrix=functools.partial(_of_linear_part, way.matrix))


def _of_linear_part(matrix: Matrix, g: Tensor) -> Tensor:
    return matrix(_linear_part(g))


def _of_several(d: int, axis: int, size: int) -> Iterator[Way]:
    """Several vectors, or tensors, along one axis."""
    if size % d == 0:
        identity = torch.eye(size // d, dtype=torch.float64)
        yield Way(f"{size // d} vectors", (axis,), lambda g: torch.kron(identity, g))
        yield Way(f"{size // d} interleaved vectors", (axis,), lambda g: torch.kron(g, identity))
    if size == d * d:
        yield Way("vector⊗vector", (axis,), _squared)
    if size == d * (d + 1) // 2:
        yield from (Way(each.name, (axis,), each) for each in _symmetric(d))


def _of_symmetric_pairs(d: int, shape: tuple[int, ...], free: Sequence[int]) -> Iterator[Way]:
    """Tensors of rank 3 and 4 with one or two pairs of indices in one: piezoelectric (3, 6) and elastic (6, 6)."""
    size = d * (d + 1) // 2
    pairs = [axis for axis in sorted(free) if shape[axis] == size > d > 1]
    vectors = [axis for axis in sorted(free) if shape[axis] == d]
    for each in _symmetric(d) if len(pairs) > 1 or (pairs and vectors) else ():
        for axes in itertools.combinations(pairs, 2):
            yield Way(f"{each.name}⊗{each.name}", axes, functools.partial(_product, each, each))
        for vector, pair in itertools.product(vectors, pairs):
            one, other = (_itself, each) if vector < pair else (each, _itself)
            both = (min(vector, pair), max(vector, pair))
            yield Way(f"vector⊗{each.name}", both, functools.partial(_product, one, other))


def _itself(g: Tensor) -> Tensor:
    return g


def _dual(g: Tensor) -> Tensor:
    return torch.linalg.inv(g).mT


def _squared(g: Tensor) -> Tensor:
    return torch.kron(g, g)


def _power(rank: int, g: Tensor) -> Tensor:
    return functools.reduce(torch.kron, [g] * rank)


def _product(one: Matrix, other: Matrix, g: Tensor) -> Tensor:
    return _product_of(one, other, _entries(g), g.dtype)


@functools.lru_cache(512)
def _product_of(one: Matrix, other: Matrix, entries: tuple[tuple[float, ...], ...], dtype: torch.dtype) -> Tensor:
    """Each value of a model is held to the same few: made once for each g."""
    g = torch.tensor(entries, dtype=dtype)
    return torch.kron(one(g), other(g))


def _entries(g: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, g.tolist()))


def _dual_and_vector(g: Tensor) -> Tensor:
    return torch.kron(_dual(g), g)


def _linear_part(g: Tensor) -> Tensor:
    return g[:-1, :-1]


def _translation(g: Tensor) -> Tensor:
    return g[:-1, -1]


@dataclass(frozen=True)
class _Symmetric:
    """g (x) g on the entries s_ij, i <= j, of a symmetric tensor, each named once, and `factor` s_ij where i < j.

    Stresses have a factor of 1, strains of 2 (Voigt), and Mandel's notation of either that of sqrt(2), which keeps lengths.
    """

    d: int
    pairs: tuple[tuple[int, int], ...]
    factor: float = 1.0

    @property
    def name(self) -> str:
        return {1.0: "symmetric tensor", 2.0: "strain"}.get(self.factor, "symmetric tensor in Mandel's notation")

    def __call__(self, g: Float[Tensor, "d d"]) -> Float[Tensor, "n n"]:
        return _on_pairs(self, _entries(g), g.dtype)

    def matrix(self, g: Float[Tensor, "d d"]) -> Float[Tensor, "n n"]:
        """Of g on the entries."""
        rows = [i * self.d + j for i, j in self.pairs]
        spread = torch.zeros(self.d**2, len(rows), dtype=g.dtype)
        for column, (i, j) in enumerate(self.pairs):
            spread[[i * self.d + j, j * self.d + i], column] = 1.0
        scale = torch.tensor([1.0 if i == j else self.factor for i, j in self.pairs], dtype=g.dtype)
        return scale[:, None] * (torch.kron(g, g) @ spread)[rows] / scale


@functools.lru_cache(512)
def _on_pairs(pairs: _Symmetric, entries: tuple[tuple[float, ...], ...], dtype: torch.dtype) -> Tensor:
    return pairs.matrix(torch.tensor(entries, dtype=dtype))


def _symmetric(d: int) -> Iterator[_Symmetric]:
    yield from (_Symmetric(d, pairs, factor) for factor in (1.0, 2.0, math.sqrt(2.0)) for pairs in _orders(d))


def _orders(d: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Row by row; and the diagonal first, then the others in the orders of use (Voigt's, its reverse)."""
    rows = tuple(itertools.combinations_with_replacement(range(d), 2))
    diagonal, others = tuple((i, i) for i in range(d)), tuple(itertools.combinations(range(d), 2))
    yield rows
    orders = itertools.permutations(others) if d <= 3 else iter((others, others[::-1]))
    yield from (diagonal + order for order in orders)


@functools.lru_cache(64)
def _signs(group: Group) -> tuple[tuple[int, ...], ...]:
    """The finite generators that may flip a sign, for each character that does so: the determinant's first."""
    first = _reflections(group)
    letters = range(min(len(group.finite), 3))
    every = itertools.chain.from_iterable(itertools.combinations(letters, count) for count in range(1, len(letters) + 1))
    return tuple(dict.fromkeys(filter(None, (first, *every))))


def _reflections(group: Group) -> tuple[int, ...]:
    dets = torch.linalg.det(group.finite).sign().tolist() if len(group.finite) else []
    return tuple(letter for letter, sign in enumerate(dets) if sign < 0)


def has_lost_a_sign(group: Group, way: Way) -> bool:
    """Whether what is no reflection and no inversion flips the sign of a scalar, as quarter turns do with x^2 - y^2.

    It is a representation; but whether it is meant, or x^2 + y^2 with a wrong sign, values do not tell.

    >>> c4 = Group.parse("C(4)")
    >>> has_lost_a_sign(c4, Way("invariant", letters=(0,))), has_lost_a_sign(c4, Way("invariant"))
    (True, False)
    """
    return not way.axes and not turns(group).isdisjoint(way.letters)


def turns(group: Group) -> frozenset[int]:
    """The finite generators that are neither reflections nor inversions.

    >>> turns(Group.parse("D(4)"))
    frozenset({0})
    """
    identity, reflections = torch.eye(group.dim, dtype=torch.float64), _reflections(group)
    others = [(letter, g) for letter, g in enumerate(group.finite) if letter not in reflections]
    return frozenset(letter for letter, g in others if not torch.allclose(g @ g, identity, atol=1e-9))
