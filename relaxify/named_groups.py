"""The named groups: their generators, and how to draw from them. `Group.parse` reads names and makes groups of these."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.random_elements import (
    AnyOf,
    Dihedral,
    HaarRotation,
    Permutations,
    Shifted,
    Word,
    haar_rotation_vector,
    normal_coefficients,
    shortest_words,
    uniform_angle,
)

LARGEST = 10**8
"""Entries of all generators of a group that are made: 0.8 GB."""


class Definition(NamedTuple):
    """What a Group is made of, in its order."""

    name: str
    generators: Float[Tensor, "lie d d"]
    finite: Float[Tensor, "fin d d"]
    compact: bool = True
    coefficients: Callable[[int, torch.Generator], Tensor] = normal_coefficients
    words: Callable[[torch.Generator], Word] | None = None


def definition(name: str) -> Definition:
    """Of the group of that name; ValueError, with the known ones, if there is none."""
    plain = re.sub(r"[\s()\[\]_]", "", name).upper()
    if plain in _OF_THE_CUBE:
        return _OF_THE_CUBE[plain]()
    match = re.fullmatch(r"([A-Z]+)(\d+(?:[,.]\d+)?)", plain)
    known = _CONTINUOUS | _families(match[2]) if match else {}
    if match is None or (key := f"{match[1]}({match[2]})") not in known:
        raise ValueError(_unknown(name))
    if (entries := _entries(match[1], match[2])) > LARGEST:
        raise ValueError(
            f"the generators of {key} have {entries:.1g} entries, more than {LARGEST:.0e}; name a group that acts on fewer "
            "axes, or pass Group.from_generators(...) with some of them."
        )
    return known[key]()


def _entries(kind: str, size: str) -> float:
    """How many entries the generators of a group of this kind have, or a few more."""
    if kind in ("C", "D", "SCALE"):
        return 0
    n = sum(map(float, size.split(","))) + 1
    return float(n**2 * (2 if kind == "S" else n if kind == "T" else n**2))


def _antisymmetric(d: int, pairs: list[tuple[int, int]], sign: float = -1.0) -> Float[Tensor, "lie d d"]:
    matrices = torch.zeros(len(pairs), d, d, dtype=torch.float64)
    for matrix, (i, j) in zip(matrices, pairs, strict=True):
        matrix[i, j], matrix[j, i] = sign, 1.0
    return matrices


def nothing(d: int) -> Float[Tensor, "none d d"]:
    """No generators."""
    return torch.zeros(0, d, d, dtype=torch.float64)


def _diagonal(*entries: float) -> Float[Tensor, "one d d"]:
    return torch.diag(torch.tensor(entries, dtype=torch.float64))[None]


# J_x, J_y, J_z of CR sec. 3.1
_SO2 = _antisymmetric(2, [(0, 1)])
_SO3 = _antisymmetric(3, [(1, 2), (2, 0), (0, 1)])


def _lorentz() -> Definition:
    boosts = _antisymmetric(4, [(0, 1), (0, 2), (0, 3)], sign=1.0)
    rotations = torch.nn.functional.pad(_SO3, (1, 0, 1, 0))
    return Definition("SO(1,3)", torch.cat([rotations, boosts]), nothing(4), compact=False)


def _pseudo_orthogonal(p: int, q: int, *, reflections: bool) -> Definition:
    """All g with g^T eta g = eta = diag(1, .., -1, ..), with p and q signs: the identity component, or all four.

    The generators are turns of two axes of one sign, and boosts of two of different signs.
    """
    if (p, q) == (1, 3) and not reflections:
        return _lorentz()
    pairs = list(itertools.combinations(range(p + q), 2))
    turns = [pair for pair in pairs if (pair[0] < p) == (pair[1] < p)]
    boosts = [pair for pair in pairs if pair not in turns]
    lie = torch.cat([_antisymmetric(p + q, turns), _antisymmetric(p + q, boosts, sign=1.0)])
    flips = torch.cat([_flip(p + q, 0), _flip(p + q, p + q - 1)]) if reflections else nothing(p + q)
    return Definition(f"{'O' if reflections else 'SO'}({p},{q})", lie, flips, compact=False)


def _special_linear(n: int) -> Definition:
    """Trace-free matrices: e_ij for i != j, and e_ii - e_(i+1)(i+1)."""
    basis = [_unit(n, i, j) for i, j in itertools.product(range(n), repeat=2) if i != j]
    basis += [_unit(n, i, i) - _unit(n, i + 1, i + 1) for i in range(n - 1)]
    return Definition(f"SL({n})", torch.stack(basis), nothing(n), compact=False)


def _general_linear(n: int) -> Definition:
    basis = [_unit(n, i, j) for i, j in itertools.product(range(n), repeat=2)]
    return Definition(f"GL({n})", torch.stack(basis), _flip(n, 0), compact=False, words=Dihedral(1, 2))


def _unit(n: int, i: int, j: int) -> Float[Tensor, "n n"]:
    matrix = torch.zeros(n, n, dtype=torch.float64)
    matrix[i, j] = 1.0
    return matrix


def _flip(n: int, axis: int) -> Float[Tensor, "one n n"]:
    """The reflection of one axis."""
    entries = torch.ones(n, dtype=torch.float64)
    entries[axis] = -1.0
    return torch.diag(entries)[None]


def _rotations(n: int) -> Definition:
    """SO(n), by the turns e_ij - e_ji of two axes."""
    turns = _antisymmetric(n, list(itertools.combinations(range(n), 2)))
    return Definition(f"SO({n})", turns, nothing(n), coefficients=HaarRotation(n))


def _orthogonal(n: int) -> Definition:
    """O(n): SO(n) and, for odd n, the inversion, for even n, which has it already, the reflection of the last axis."""
    beside = -torch.eye(n, dtype=torch.float64)[None] if n % 2 else _flip(n, n - 1)
    rotations = _rotations(n)
    words = Dihedral(1, 2)
    return Definition(f"O({n})", rotations.generators, beside, coefficients=rotations.coefficients, words=words)


def _special_unitary() -> Definition:
    """SU(2) = Spin(3) on (Re z_1, Im z_1, Re z_2, Im z_2), as `torch.view_as_real` has them: -i sigma_a / 2, a = x, y, z.

    [T_a, T_b] = epsilon_abc T_c as of SO(3), which it covers twice: the element of a whole turn is -1.
    """
    sigma = torch.tensor([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128)
    half = -0.5j * sigma
    real = torch.stack([torch.stack([half.real, -half.imag], -1), torch.stack([half.imag, half.real], -1)], -2)
    return Definition(
        "SU(2)", real.transpose(2, 3).reshape(3, 4, 4).contiguous(), nothing(4), coefficients=haar_rotation_vector
    )


def _of_the_cube(name: str, *more: Tensor) -> Definition:
    """Generated by quarter turns about z and x, and more."""
    quarters = torch.stack([torch.linalg.matrix_exp(_SO3[axis] * math.pi / 2) for axis in (2, 0)])
    finite = torch.cat([quarters.round() + 0.0, *more])
    return Definition(name, nothing(3), finite, words=AnyOf(shortest_words(finite)))


_OF_THE_CUBE: dict[str, Callable[[], Definition]] = {
    "OCTA": lambda: _of_the_cube("Octa"),
    "FULLOCTA": lambda: _of_the_cube("FullOcta", _diagonal(-1, -1, -1)),
}

_CONTINUOUS: dict[str, Callable[[], Definition]] = {
    "O(1)": lambda: Definition("O(1)", nothing(1), _diagonal(-1), words=Dihedral(1, 2)),
    "SO(2)": lambda: Definition("SO(2)", _SO2, nothing(2), coefficients=uniform_angle),
    "O(2)": lambda: Definition("O(2)", _SO2, _diagonal(1, -1), coefficients=uniform_angle, words=Dihedral(1, 2)),
    "SO(3)": lambda: Definition("SO(3)", _SO3, nothing(3), coefficients=haar_rotation_vector),
    "O(3)": lambda: Definition("O(3)", _SO3, _diagonal(-1, -1, -1), coefficients=haar_rotation_vector, words=Dihedral(1, 2)),
    "SO(1,3)": _lorentz,
    "SU(2)": _special_unitary,
    "SPIN(3)": _special_unitary,
}


def _families(size: str) -> dict[str, Callable[[], Definition]]:
    """The groups that exist for every n >= 1, or every factor a > 1, of the given size."""
    if "," in size:
        p, q = map(int, size.split(","))
        if p < 1 or q < 1:
            return {}
        return {
            f"SO({size})": lambda: _pseudo_orthogonal(p, q, reflections=False),
            f"O({size})": lambda: _pseudo_orthogonal(p, q, reflections=True),
        }
    dilations = {f"SCALE({size})": lambda: _dilations(float(size))} if float(size) > 1 else {}
    if not size.isdigit() or (n := int(size)) == 0:
        return dilations
    return {
        f"C({n})": lambda: Definition(f"C({n})", nothing(2), _rotation(n), words=Dihedral(n)),
        f"D({n})": lambda: _dihedral(n),
        f"S({n})": lambda: Definition(f"S({n})", nothing(n), _permutation_generators(n), words=Permutations(n)),
        f"T({n})": lambda: _translations(n),
        f"GL({n})": lambda: _general_linear(n),
        **_affine(n),
        **dilations,
        **(_with_turns(n) if n > 1 else {}),
    }


def _with_turns(n: int) -> dict[str, Callable[[], Definition]]:
    """Of n >= 2; SO(2), O(2), SO(3) and O(3) have their own generators."""
    found = {f"SL({n})": lambda: _special_linear(n), f"SO({n})": lambda: _rotations(n), f"O({n})": lambda: _orthogonal(n)}
    return {name: make for name, make in found.items() if name not in _CONTINUOUS}


def _dilations(factor: float) -> Definition:
    return Definition(f"Scale({factor:g})", nothing(2), _diagonal(factor, factor), compact=False)


def _rotation(n: int) -> Float[Tensor, "one 2 2"]:
    c, s = math.cos(2 * math.pi / n), math.sin(2 * math.pi / n)
    return torch.tensor([[[c, -s], [s, c]]], dtype=torch.float64)


def _dihedral(n: int) -> Definition:
    if n == 1:
        return Definition("D(1)", nothing(2), _diagonal(1, -1), words=Dihedral(1, 2))
    return Definition(f"D({n})", nothing(2), torch.cat([_rotation(n), _diagonal(1, -1)]), words=Dihedral(n, 2))


def _permutation_generators(n: int) -> Float[Tensor, "two n n"]:
    identity = torch.eye(n, dtype=torch.float64)
    swap = [1, 0, *range(2, n)] if n > 1 else [0]
    # column i of a permutation matrix is e_{p(i)}
    return torch.stack([identity[:, swap], identity.roll(1, dims=0)])


def _translations(n: int) -> Definition:
    """x -> x + t as (n+1) x (n+1) matrices on (x, 1)."""
    basis = torch.zeros(n, n + 1, n + 1, dtype=torch.float64)
    basis[range(n), range(n), n] = 1.0
    return Definition(f"T({n})", basis, nothing(n + 1), compact=False)


def _with_translations(name: str, kind: str) -> Definition:
    """x -> L x + t as matrices on (x, 1): the translations first, then the linear part."""
    n = int(name.split("(")[1].rstrip(")"))
    linear = definition(f"{kind}({n})")
    shifts = _translations(n).generators
    lie = torch.cat([shifts, torch.nn.functional.pad(linear.generators, (0, 1, 0, 1))])
    finite = torch.nn.functional.pad(linear.finite, (0, 1, 0, 1))
    finite[:, n, n] = 1.0
    return Definition(name, lie, finite, compact=False, coefficients=Shifted(n, linear.coefficients), words=linear.words)


LINEAR_KINDS = {"SE": "SO", "E": "O", "Aff": "GL"}


def _affine(n: int) -> dict[str, Callable[[], Definition]]:
    kinds = [(kind, part) for kind, part in LINEAR_KINDS.items() if n > 1 or kind != "SE"]
    return {f"{kind.upper()}({n})": functools.partial(_with_translations, f"{kind}({n})", part) for kind, part in kinds}


_SIGN = re.compile(r"\s*(?:[×⊗*]|(?<=[\s)\]\d])x(?=\s*(?:[a-z]+[\s_]*[(\[]?\s*\d|(?:full[\s_]?)?octa)))\s*", re.IGNORECASE)


def factor_names(name: str) -> list[str]:
    """The factors of a product's name; the name itself of what is none.

    >>> factor_names("O(3) x S(5)"), factor_names("so3×octa"), factor_names("O(2) about x")
    (['O(3)', 'S(5)'], ['so3', 'octa'], ['O(2) about x'])
    """
    return _SIGN.split(name.strip())


def _unknown(group: str) -> str:
    families = ["SO(n)", "O(n)", "SO(p,q)", "O(p,q)", "SL(n)", "GL(n)", "E(n)", "SE(n)", "Aff(n)", "C(n)", "D(n)", "S(n)"]
    known = ", ".join([*families, "T(n)", "SU(2)", "Octa", "FullOcta", "Scale(a)"])
    return f"unknown group {group!r}: the known ones are {known}; pass one of these or Group.from_generators(...)."
