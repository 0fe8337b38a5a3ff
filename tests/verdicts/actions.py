"""Group elements and their actions, by hand: full-size random elements, and how they move vectors, irreps, pixels and sets.

Nothing here is relaxify's: what a verdict is held to must not rest on what gave it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.linalg import expm
from scipy.stats import ortho_group, special_ortho_group
from torch import Tensor

from verdicts.entry import Action, Matrices

MANY = 12


def elements(group: str | Matrices, seed: int) -> list[Tensor]:
    """Full-size elements: Haar for compact groups, each of a small finite one, several scales for non-compact ones."""
    rng = np.random.default_rng(seed)
    if isinstance(group, Matrices):
        drawn = [_of_generators(group, rng) for _ in range(MANY)]
    else:
        family, _, sizes = group.rstrip(")").partition("(")
        drawn = _FAMILIES[family](sizes, rng)
    return [torch.as_tensor(np.asarray(g), dtype=torch.float64) for g in drawn]


def _of_generators(group: Matrices, rng: np.random.Generator) -> np.ndarray:
    if group.lie is not None:
        return expm(np.einsum("l,lij->ij", rng.normal(size=len(group.lie)), group.lie.numpy()))
    assert group.finite is not None
    word = group.finite.numpy()[rng.integers(len(group.finite), size=rng.integers(1, 9))]
    return functools.reduce(np.matmul, word)


def _turn(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _special_orthogonal(sizes: str, rng: np.random.Generator) -> list[np.ndarray]:
    if sizes == "1,3":
        return [_lorentz(scale, rng) for scale in (0.1, 0.5, 1.0, 1.5) for _ in range(MANY // 4)]
    return [special_ortho_group.rvs(int(sizes), random_state=rng) for _ in range(MANY)]


def _lorentz(rapidity: float, rng: np.random.Generator) -> np.ndarray:
    """A boost between two rotations; time comes first."""
    boost = np.eye(4)
    boost[:2, :2] = [[math.cosh(rapidity), math.sinh(rapidity)], [math.sinh(rapidity), math.cosh(rapidity)]]
    before, after = np.eye(4), np.eye(4)
    before[1:, 1:], after[1:, 1:] = special_ortho_group.rvs(3, size=2, random_state=rng)
    return after @ boost @ before


def _cyclic(sizes: str, rng: np.random.Generator) -> list[np.ndarray]:
    return [_turn(2 * math.pi * k / int(sizes)) for k in range(1, int(sizes))]


def _dihedral(sizes: str, rng: np.random.Generator) -> list[np.ndarray]:
    turns = [np.eye(2), *_cyclic(sizes, rng)]
    return [*turns[1:], *(turn @ np.diag([1.0, -1.0]) for turn in turns)]


def _permutations(sizes: str, rng: np.random.Generator) -> list[np.ndarray]:
    n = int(sizes)
    orders = list(itertools.permutations(range(n)))[1:] if n <= 3 else [rng.permutation(n) for _ in range(MANY)]
    return [np.eye(n)[list(order)] for order in orders]


def _translations(sizes: str, rng: np.random.Generator) -> list[np.ndarray]:
    n = int(sizes)
    shifts = [np.eye(n + 1) for _ in range(MANY)]
    for shift, scale in zip(shifts, itertools.cycle((0.3, 1.0, 10.0)), strict=False):
        shift[:n, n] = scale * rng.normal(size=n)
    return shifts


def _scalings(sizes: str, rng: np.random.Generator) -> list[np.ndarray]:
    return [float(sizes) ** power * np.eye(2) for power in (-3, -2, -1, 1, 2, 3)]


def _cube(improper: bool) -> list[np.ndarray]:
    signed = (
        np.diag(signs) @ np.eye(3)[list(order)]
        for signs in itertools.product((1.0, -1.0), repeat=3)
        for order in itertools.permutations(range(3))
    )
    return [g for g in signed if improper or np.linalg.det(g) > 0]


_FAMILIES: Mapping[str, Callable[[str, np.random.Generator], list[np.ndarray]]] = {
    "SO": _special_orthogonal,
    "O": lambda sizes, rng: list(ortho_group.rvs(int(sizes), size=MANY, random_state=rng)),
    "C": _cyclic,
    "D": _dihedral,
    "S": _permutations,
    "T": _translations,
    "Scale": _scalings,
    "Octa": lambda sizes, rng: _cube(improper=False),
    "FullOcta": lambda sizes, rng: _cube(improper=True),
}


def fixed(g: Tensor, value: Any) -> Any:
    """g y = y."""
    return value


def along(*axes: int) -> Action:
    """The matrix g on each of these axes.

    >>> along(-1)(torch.diag(torch.tensor([1.0, 2.0])), torch.ones(1, 2))
    tensor([[1., 2.]])
    """
    return through(lambda g: g, *axes)


def through(matrix: Callable[[Tensor], Tensor], *axes: int) -> Action:
    """A matrix that depends on g, on each of these axes."""

    def act(g: Tensor, value: Tensor) -> Tensor:
        # truth values and counts are permuted as numbers
        number = value if value.is_floating_point() or value.is_complex() else value.double()
        m = matrix(g).to(number.dtype)
        for axis in axes:
            number = (number.movedim(axis, -1) @ m.mT).movedim(-1, axis)
        return number.to(value.dtype)

    return act


def times(scale: Callable[[Tensor], Tensor]) -> Action:
    """A number that depends on g."""
    return lambda g, value: value * scale(g).to(value.dtype)


pseudoscalar = times(torch.linalg.det)
pseudovector = through(lambda g: torch.linalg.det(g) * g, -1)


def shifted(g: Tensor, value: Tensor) -> Tensor:
    """Positions (..., n) moved by a translation, a matrix of n + 1 rows."""
    return value + g[:-1, -1].to(value.dtype)


def first(action: Action) -> Action:
    """On the first of several arguments; the others are the same in every frame."""
    return lambda g, values: (action(g, values[0]), *values[1:])


def each(*actions: Action) -> Action:
    """One action for each item."""
    return lambda g, values: tuple(action(g, value) for action, value in zip(actions, values, strict=True))


def keyed(**actions: Action) -> Action:
    """On the named items of a dict, a named tuple, a dataclass or a data object."""

    def act(g: Tensor, value: Any) -> Any:
        changes = {name: action(g, _item(value, name)) for name, action in actions.items()}
        if isinstance(value, Mapping):
            return {**value, **changes}
        if hasattr(value, "_replace"):
            return value._replace(**changes)
        if dataclasses.is_dataclass(value):
            return dataclasses.replace(value, **changes)
        twin = copy.copy(value)
        for name, item in changes.items():
            setattr(twin, name, item)
        return twin

    return act


def _item(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, Mapping) else getattr(value, name)


def pixels(g: Tensor, value: Tensor) -> Tensor:
    """Quarter turns, counter-clockwise as displayed, and flips of (..., height, width): rows are counted downwards."""
    if torch.linalg.det(g) < 0:
        # g is a turn after the reflection that keeps x
        return pixels(g @ torch.diag(torch.tensor([1.0, -1.0], dtype=g.dtype)), value.flip(-2))
    return value.rot90(round(math.atan2(float(g[1, 0]), float(g[0, 0])) / (math.pi / 2)), (-2, -1))


def field(matrix: Callable[[Tensor], Tensor] = lambda g: g) -> Action:
    """Pixels that move and carry channels (axis -3) that g acts on besides."""
    turn = through(matrix, -3)
    return lambda g, value: pixels(g, turn(g, value))


def rolled(g: Tensor, value: Tensor) -> Tensor:
    """Whole pixels around a torus: columns along x, rows along y."""
    return value.roll((round(float(g[1, 2])), round(float(g[0, 2]))), (-2, -1))


def polynomials(degree: int, x: Tensor) -> Tensor:
    """A basis of the harmonic polynomials of a degree, up to 3, of (..., 3): real, orthogonal, x y z in e3nn's order."""
    x, y, z = x.unbind(-1)
    r2 = x**2 + y**2 + z**2
    basis = {
        0: (torch.ones_like(x),),
        1: (x, y, z),
        2: (x * z, x * y, (2 * y**2 - x**2 - z**2) / math.sqrt(12), y * z, (z**2 - x**2) / 2),
        3: (
            (z**2 - x**2) * x / 2 + x * z**2,
            math.sqrt(6) * x * y * z,
            (5 * y**2 - r2) * x * math.sqrt(0.15),
            (5 * y**2 - 3 * r2) * y * math.sqrt(0.1),
            (5 * y**2 - r2) * z * math.sqrt(0.15),
            (z**2 - x**2) * y * math.sqrt(1.5),
            (z**2 - x**2) * z / 2 - x**2 * z,
        ),
    }
    return torch.stack(basis[degree], -1)


def wigner(degree: int, rotation: Tensor) -> Tensor:
    """D with Y(R x) = D Y(x) for `polynomials`."""
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.lstsq(polynomials(degree, x), polynomials(degree, x @ rotation.mT)).solution.mT


def irreps_matrix(irreps: str, g: Tensor) -> Tensor:
    """The matrix of g on features such as "4x0e+2x1o" of O(3)."""
    sign, blocks = torch.linalg.det(g).sign(), []
    for count, degree, parity in re.findall(r"(?:(\d+)x)?(\d+)([eo])", irreps):
        block = wigner(int(degree), sign * g) * (sign if parity == "o" else 1)
        blocks += [block] * int(count or 1)
    return torch.block_diag(*blocks)


def irreps(notation: str, axis: int = -1) -> Action:
    """Irreps on one axis."""
    return through(lambda g: irreps_matrix(notation, g), axis)


def acting_on(basis: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The matrix of g on functions of a point that map among themselves."""

    def matrix(g: Tensor) -> Tensor:
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return torch.linalg.lstsq(basis(x), basis(x @ g.mT)).solution.mT

    return matrix
