"""Matrix groups given by their generators: a basis of the Lie algebra and generators of the finite part.

Everything else about a group (its action on features, random elements, intertwiners) follows from these two lists, so a
group made from a user's own matrices is treated exactly as a named one (CR sec. 3.1).
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

Word = tuple[int, ...]


@dataclass(frozen=True)
class Element:
    """The group element exp(sum_i coefficients[i] A_i) g_{word[0]} g_{word[1]} ... of generators A_i and g_j."""

    coefficients: Float[Tensor, " lie"]
    word: Word = ()


def _normal_coefficients(size: int, generator: torch.Generator) -> Float[Tensor, " lie"]:
    return torch.randn(size, generator=generator, dtype=torch.float64)


def _uniform_angle(size: int, generator: torch.Generator) -> Float[Tensor, " lie"]:
    return (2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1) * math.pi


def _haar_rotation_vector(size: int, generator: torch.Generator) -> Float[Tensor, " lie"]:
    quaternion = torch.randn(size + 1, generator=generator, dtype=torch.float64)
    quaternion = quaternion / quaternion.norm()
    axis = quaternion[1:] / quaternion[1:].norm()
    return axis * 2 * torch.atan2(quaternion[1:].norm(), quaternion[0])


@dataclass(frozen=True)
class _Shifted:
    """Translations beside what the linear part draws."""

    n: int
    linear: Callable[[int, torch.Generator], Tensor]

    def __call__(self, size: int, generator: torch.Generator) -> Float[Tensor, " lie"]:
        shift = torch.randn(self.n, generator=generator, dtype=torch.float64)
        return torch.cat([shift, self.linear(size - self.n, generator)])


@dataclass(frozen=True)
class _HaarRotation:
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


@dataclass(frozen=True, eq=False)
class Group:
    """A matrix group, by generators of its defining representation, in float64.

    `generators[i]` is a Lie-algebra basis A_i: exp(t A_i) is in the group for every t. `finite[j]` is a group element
    g_j; products of these reach what the exponentials do not (reflections, or all of a finite group).

    `Group.parse` makes the named groups; `Group.from_generators` takes any matrices.

    >>> Group.parse("SO(3)").generators.shape
    torch.Size([3, 3, 3])
    >>> boost = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    >>> Group.from_generators(boost, name="SO(1,1)")
    Group('SO(1,1)')
    """

    name: str
    generators: Float[Tensor, "lie d d"]
    finite: Float[Tensor, "fin d d"]
    compact: bool = True
    coefficients: Callable[[int, torch.Generator], Tensor] = field(default=_normal_coefficients, repr=False)
    words: Callable[[torch.Generator], Word] | None = field(default=None, repr=False)

    @property
    def dim(self) -> int:
        """Size of the defining representation's matrices."""
        return int(self.generators.shape[-1])

    @property
    def actions(self) -> int:
        """Number of generators, Lie and finite together: the terms of the penalty's sum."""
        return len(self.generators) + len(self.finite)

    @functools.cached_property
    def is_affine(self) -> bool:
        """Whether its matrices act on points as on (x, 1), x -> L x + t, and move the origin.

        >>> Group.parse("T(3)").is_affine, Group.parse("SE(3)").is_affine, Group.parse("SO(3)").is_affine
        (True, True, False)
        """
        last = torch.eye(self.dim, dtype=torch.float64)[-1].expand(len(self.finite), -1)
        moves = bool(self.generators[:, :-1, -1].any()) or bool(self.finite[:, :-1, -1].any())
        return moves and not self.generators[:, -1].any() and torch.allclose(self.finite[:, -1], last)

    @property
    def vectors(self) -> Float[Tensor, "actions n n"]:
        """How the generators act on vectors, the differences of points: by themselves, or by their linear parts L."""
        both, n = torch.cat([self.generators, self.finite]), self.vector_size
        return both[:, :n, :n]

    @property
    def vector_size(self) -> int:
        """The length of a vector: n also of E(n), whose matrices on points are (n+1) x (n+1)."""
        return self.of_features.dim

    @functools.cached_property
    def linear_part(self) -> Group:
        """The group of the L in x -> L x + t: SO(n) of SE(n), O(n) of E(n); other groups are their own.

        >>> Group.parse("SE(3)").linear_part
        Group('SO(3)')
        """
        if not self.is_affine:
            return self
        lie, finite = self.generators[:, :-1, :-1], self.finite[:, :-1, :-1]
        basis: list[Tensor] = []
        for matrix in lie:
            if torch.linalg.matrix_rank(torch.stack([*basis, matrix]).flatten(1)) > len(basis):
                basis.append(matrix)
        found = Group(f"linear part of {self.name}", torch.stack(basis) if basis else _none(self.dim - 1), finite, False)
        known = re.fullmatch(r"(SE|E|Aff)\((\d+)\)", self.name)
        named = Group.parse(f"{_LINEAR[known[1]]}({known[2]})") if known and known[0] != "SE(1)" else found
        is_named = torch.equal(named.generators, found.generators) and torch.equal(named.finite, found.finite)
        return named if is_named else found

    @property
    def of_features(self) -> Group:
        """The group that acts on features: the linear part of one that moves points, if that does more than nothing."""
        return self.linear_part if self.linear_part.actions else self

    @property
    def is_orthogonal(self) -> bool:
        """Whether its elements keep lengths."""
        identity = torch.eye(self.dim, dtype=torch.float64).expand_as(self.finite)
        antisymmetric = torch.allclose(self.generators, -self.generators.mT, rtol=0, atol=1e-9)
        return antisymmetric and torch.allclose(self.finite @ self.finite.mT, identity, atol=1e-9)

    def random(self, generator: torch.Generator | None = None) -> Element:
        """A random element: Haar-distributed for the named compact groups, generic for the others."""
        generator = generator or torch.Generator().manual_seed(0)
        word = self.words(generator) if self.words else _random_word(len(self.finite), generator)
        return Element(self.coefficients(len(self.generators), generator), word)

    @classmethod
    def parse(cls, group: Group | str) -> Group:
        """The group of that name: SO(n), O(n), SO(p,q), O(p,q), SL(n), GL(n), SU(2), C(n), D(n), S(n), T(n).

        E(n), SE(n) and Aff(n) move points, x -> L x + t, by matrices on (x, 1). Groups of the plane may be placed in space:
        "O(2) about z". SO(p,q) is the component of the identity. SU(2), or Spin(3), acts on two complex numbers as on four
        real ones. Also O(1), the flip of a line; Octa and FullOcta, the cube's rotations and all its symmetries; Scale(a),
        the powers of the dilation of the plane by a. Case, brackets, blanks and underscores do not matter. A Group is
        returned as it is. ValueError if unknown.

        >>> Group.parse("c_4"), Group.parse("so1,3")
        (Group('C(4)'), Group('SO(1,3)'))
        """
        if isinstance(group, Group):
            return group
        if not isinstance(group, str):
            raise ValueError(f"{group!r} is not a group; pass a name such as 'SO(3)', or a Group.")
        if about := re.fullmatch(r"(.+)[\s_]about[\s_]([xyz])", group.strip(), re.IGNORECASE):
            return _about(cls.parse(about[1]), about[2].lower())
        plain = re.sub(r"[\s()\[\]_]", "", group).upper()
        if plain in _OF_THE_CUBE:
            return _OF_THE_CUBE[plain]()
        match = re.fullmatch(r"([A-Z]+)(\d+(?:[,.]\d+)?)", plain)
        known = _CONTINUOUS | _families(match[2]) if match else {}
        if match is None or (name := f"{match[1]}({match[2]})") not in known:
            raise ValueError(_unknown(group, plain))
        return known[name]()

    @classmethod
    def from_generators(
        cls,
        generators: Tensor | None = None,
        *,
        finite: Tensor | None = None,
        name: str = "custom",
        compact: bool = False,
    ) -> Group:
        """The group generated by exp(t A) for the A in `generators` (lie, d, d) and by the matrices `finite` (fin, d, d).

        ValueError if neither is given, the sizes differ, an entry is not finite, the A are linearly dependent, or a
        finite generator is singular.
        """
        given = [_matrices(m, name) for m in (generators, finite) if m is not None]
        if not given:
            raise ValueError(f"group {name!r} has no generators; pass `generators` or `finite`.")
        d = given[0].shape[-1]
        for matrices in given:
            if matrices.ndim != 3 or matrices.shape[1:] != (d, d):
                raise ValueError(f"group {name!r}: generators have shape {tuple(matrices.shape)}; pass (count, {d}, {d}).")
            if not matrices.isfinite().all():
                raise ValueError(f"group {name!r}: a generator has NaN or infinite entries; pass finite matrices.")
        empty = torch.zeros(0, d, d, dtype=torch.float64)
        lie = given[0] if generators is not None else empty
        discrete = given[-1] if finite is not None else empty
        if len(lie) and torch.linalg.matrix_rank(lie.flatten(1)) < len(lie):
            raise ValueError(f"group {name!r}: the Lie-algebra generators are linearly dependent; pass a basis.")
        if len(discrete) and (torch.linalg.det(discrete) == 0).any():
            raise ValueError(f"group {name!r}: a finite generator is singular; group elements are invertible.")
        return cls(name, lie, discrete, compact)

    def __repr__(self) -> str:
        return f"Group({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Group)
            and self.name == other.name
            and torch.equal(self.generators, other.generators)
            and torch.equal(self.finite, other.finite)
        )

    def __hash__(self) -> int:
        return hash(self.name)


def _matrices(given: object, name: str) -> Tensor:
    if isinstance(given, list | tuple):
        raise ValueError(f"group {name!r}: generators are one tensor (count, d, d), not a {type(given).__name__}: stack it.")
    return torch.as_tensor(given, dtype=torch.float64)


def _about(group: Group, axis: str) -> Group:
    """A group of the plane in space: on the two axes after this one, which it leaves alone."""
    if group.dim != 2:
        raise ValueError(f"{group.name} about {axis}: only groups of the plane have an axis, such as 'SO(2) about z'.")
    free = "xyz".index(axis)
    plane = [(free + 1) % 3, (free + 2) % 3]
    generators, finite = _none(3).new_zeros(len(group.generators), 3, 3), torch.zeros(len(group.finite), 3, 3).double()
    for small, large in ((group.generators, generators), (group.finite, finite)):
        large[:, torch.tensor(plane)[:, None], torch.tensor(plane)] = small
    finite[:, free, free] = 1.0
    return replace(group, name=f"{group.name} about {axis}", generators=generators, finite=finite)


def _integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))


def _random_word(letters: int, generator: torch.Generator) -> Word:
    length = _integer(4 * letters, generator) if letters else 0
    return tuple(_integer(letters, generator) for _ in range(length))


@dataclass(frozen=True)
class _Dihedral:
    """Uniform words r^k s^j over k < rotations, j < reflections (a cyclic group has no reflections)."""

    rotations: int
    reflections: int = 1

    def __call__(self, generator: torch.Generator) -> Word:
        flip = 0 if self.rotations == 1 else 1
        return (0,) * _integer(self.rotations, generator) + (flip,) * _integer(self.reflections, generator)


@dataclass(frozen=True)
class _AnyOf:
    """One of these words, each as likely."""

    words: tuple[Word, ...]

    def __call__(self, generator: torch.Generator) -> Word:
        return self.words[_integer(len(self.words), generator)]


@dataclass(frozen=True)
class _Permutations:
    """Uniform permutations of n as words in the transposition (letter 0) and the cycle i -> i + 1 (letter 1)."""

    n: int

    def __call__(self, generator: torch.Generator) -> Word:
        order = torch.randperm(self.n, generator=generator).tolist()
        word: list[int] = []
        for end, i in itertools.product(range(self.n - 1, 0, -1), range(self.n - 1)):
            if i < end and order[i] > order[i + 1]:
                order[i], order[i + 1] = order[i + 1], order[i]
                # cycle^i transposition cycle^-i swaps i and i + 1
                word += [1] * i + [0] + [1] * ((self.n - i) % self.n)
        return tuple(word)


def _antisymmetric(d: int, pairs: list[tuple[int, int]], sign: float = -1.0) -> Float[Tensor, "lie d d"]:
    matrices = torch.zeros(len(pairs), d, d, dtype=torch.float64)
    for matrix, (i, j) in zip(matrices, pairs, strict=True):
        matrix[i, j], matrix[j, i] = sign, 1.0
    return matrices


def _none(d: int) -> Float[Tensor, "none d d"]:
    return torch.zeros(0, d, d, dtype=torch.float64)


def _diagonal(*entries: float) -> Float[Tensor, "one d d"]:
    return torch.diag(torch.tensor(entries, dtype=torch.float64))[None]


# J_x, J_y, J_z of CR sec. 3.1
_SO2 = _antisymmetric(2, [(0, 1)])
_SO3 = _antisymmetric(3, [(1, 2), (2, 0), (0, 1)])


def _lorentz() -> Group:
    boosts = _antisymmetric(4, [(0, 1), (0, 2), (0, 3)], sign=1.0)
    rotations = torch.nn.functional.pad(_SO3, (1, 0, 1, 0))
    return Group("SO(1,3)", torch.cat([rotations, boosts]), _none(4), compact=False)


def _pseudo_orthogonal(p: int, q: int, *, reflections: bool) -> Group:
    """All g with g^T eta g = eta = diag(1, .., -1, ..), with p and q signs: the identity component, or all four.

    The generators are turns of two axes of one sign, and boosts of two of different signs.
    """
    if (p, q) == (1, 3) and not reflections:
        return _lorentz()
    pairs = list(itertools.combinations(range(p + q), 2))
    turns = [pair for pair in pairs if (pair[0] < p) == (pair[1] < p)]
    boosts = [pair for pair in pairs if pair not in turns]
    lie = torch.cat([_antisymmetric(p + q, turns), _antisymmetric(p + q, boosts, sign=1.0)])
    flips = torch.cat([_flip(p + q, 0), _flip(p + q, p + q - 1)]) if reflections else _none(p + q)
    return Group(f"{'O' if reflections else 'SO'}({p},{q})", lie, flips, compact=False)


def _special_linear(n: int) -> Group:
    """Trace-free matrices: e_ij for i != j, and e_ii - e_(i+1)(i+1)."""
    basis = [_unit(n, i, j) for i, j in itertools.product(range(n), repeat=2) if i != j]
    basis += [_unit(n, i, i) - _unit(n, i + 1, i + 1) for i in range(n - 1)]
    return Group(f"SL({n})", torch.stack(basis), _none(n), compact=False)


def _general_linear(n: int) -> Group:
    basis = [_unit(n, i, j) for i, j in itertools.product(range(n), repeat=2)]
    return Group(f"GL({n})", torch.stack(basis), _flip(n, 0), compact=False, words=_Dihedral(1, 2))


def _unit(n: int, i: int, j: int) -> Float[Tensor, "n n"]:
    matrix = torch.zeros(n, n, dtype=torch.float64)
    matrix[i, j] = 1.0
    return matrix


def _flip(n: int, axis: int) -> Float[Tensor, "one n n"]:
    """The reflection of one axis."""
    entries = torch.ones(n, dtype=torch.float64)
    entries[axis] = -1.0
    return torch.diag(entries)[None]


def _rotations(n: int) -> Group:
    """SO(n), by the turns e_ij - e_ji of two axes."""
    turns = _antisymmetric(n, list(itertools.combinations(range(n), 2)))
    return Group(f"SO({n})", turns, _none(n), coefficients=_HaarRotation(n))


def _orthogonal(n: int) -> Group:
    """O(n): SO(n) and, for odd n, the inversion, for even n, which has it already, the reflection of the last axis."""
    beside = -torch.eye(n, dtype=torch.float64)[None] if n % 2 else _flip(n, n - 1)
    rotations = _rotations(n)
    words = _Dihedral(1, 2)
    return Group(f"O({n})", rotations.generators, beside, coefficients=rotations.coefficients, words=words)


def _special_unitary() -> Group:
    """SU(2) = Spin(3) on (Re z_1, Im z_1, Re z_2, Im z_2), as `torch.view_as_real` has them: -i sigma_a / 2, a = x, y, z.

    [T_a, T_b] = epsilon_abc T_c as of SO(3), which it covers twice: the element of a whole turn is -1.
    """
    sigma = torch.tensor([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128)
    half = -0.5j * sigma
    real = torch.stack([torch.stack([half.real, -half.imag], -1), torch.stack([half.imag, half.real], -1)], -2)
    return Group("SU(2)", real.transpose(2, 3).reshape(3, 4, 4).contiguous(), _none(4), coefficients=_haar_rotation_vector)


def _of_the_cube(name: str, *more: Tensor) -> Group:
    """Generated by quarter turns about z and x, and more."""
    quarters = torch.stack([torch.linalg.matrix_exp(_SO3[axis] * math.pi / 2) for axis in (2, 0)])
    finite = torch.cat([quarters.round() + 0.0, *more])
    return Group(name, _none(3), finite, words=_AnyOf(shortest_words(finite)))


def shortest_words(finite: Float[Tensor, "fin d d"]) -> tuple[Word, ...]:
    """A shortest word for each element of the finite group that these matrices generate.

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


_OF_THE_CUBE: dict[str, Callable[[], Group]] = {
    "OCTA": lambda: _of_the_cube("Octa"),
    "FULLOCTA": lambda: _of_the_cube("FullOcta", _diagonal(-1, -1, -1)),
}

_CONTINUOUS: dict[str, Callable[[], Group]] = {
    "O(1)": lambda: Group("O(1)", _none(1), _diagonal(-1), words=_Dihedral(1, 2)),
    "SO(2)": lambda: Group("SO(2)", _SO2, _none(2), coefficients=_uniform_angle),
    "O(2)": lambda: Group("O(2)", _SO2, _diagonal(1, -1), coefficients=_uniform_angle, words=_Dihedral(1, 2)),
    "SO(3)": lambda: Group("SO(3)", _SO3, _none(3), coefficients=_haar_rotation_vector),
    "O(3)": lambda: Group("O(3)", _SO3, _diagonal(-1, -1, -1), coefficients=_haar_rotation_vector, words=_Dihedral(1, 2)),
    "SO(1,3)": _lorentz,
    "SU(2)": _special_unitary,
    "SPIN(3)": _special_unitary,
}


def _families(size: str) -> dict[str, Callable[[], Group]]:
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
        f"C({n})": lambda: Group(f"C({n})", _none(2), _rotation(n), words=_Dihedral(n)),
        f"D({n})": lambda: _dihedral(n),
        f"S({n})": lambda: Group(f"S({n})", _none(n), _permutation_generators(n), words=_Permutations(n)),
        f"T({n})": lambda: _translations(n),
        f"GL({n})": lambda: _general_linear(n),
        **_affine(n),
        **dilations,
        **(_with_turns(n) if n > 1 else {}),
    }


def _with_turns(n: int) -> dict[str, Callable[[], Group]]:
    """Of n >= 2; SO(2), O(2), SO(3) and O(3) have their own generators."""
    found = {f"SL({n})": lambda: _special_linear(n), f"SO({n})": lambda: _rotations(n), f"O({n})": lambda: _orthogonal(n)}
    return {name: make for name, make in found.items() if name not in _CONTINUOUS}


def _dilations(factor: float) -> Group:
    return Group(f"Scale({factor:g})", _none(2), _diagonal(factor, factor), compact=False)


def _rotation(n: int) -> Float[Tensor, "one 2 2"]:
    c, s = math.cos(2 * math.pi / n), math.sin(2 * math.pi / n)
    return torch.tensor([[[c, -s], [s, c]]], dtype=torch.float64)


def _dihedral(n: int) -> Group:
    if n == 1:
        return Group("D(1)", _none(2), _diagonal(1, -1), words=_Dihedral(1, 2))
    return Group(f"D({n})", _none(2), torch.cat([_rotation(n), _diagonal(1, -1)]), words=_Dihedral(n, 2))


def _permutation_generators(n: int) -> Float[Tensor, "two n n"]:
    identity = torch.eye(n, dtype=torch.float64)
    swap = [1, 0, *range(2, n)] if n > 1 else [0]
    # column i of a permutation matrix is e_{p(i)}
    return torch.stack([identity[:, swap], identity.roll(1, dims=0)])


def _translations(n: int) -> Group:
    """x -> x + t as (n+1) x (n+1) matrices on (x, 1)."""
    basis = torch.zeros(n, n + 1, n + 1, dtype=torch.float64)
    basis[range(n), range(n), n] = 1.0
    return Group(f"T({n})", basis, _none(n + 1), compact=False)


def _with_translations(name: str, kind: str) -> Group:
    """x -> L x + t as matrices on (x, 1): the translations first, then the linear part."""
    n = int(name.split("(")[1].rstrip(")"))
    linear = Group.parse(f"{kind}({n})")
    shifts = _translations(n).generators
    lie = torch.cat([shifts, torch.nn.functional.pad(linear.generators, (0, 1, 0, 1))])
    finite = torch.nn.functional.pad(linear.finite, (0, 1, 0, 1))
    finite[:, n, n] = 1.0
    return Group(name, lie, finite, compact=False, coefficients=_Shifted(n, linear.coefficients), words=linear.words)


_LINEAR = {"SE": "SO", "E": "O", "Aff": "GL"}


def _affine(n: int) -> dict[str, Callable[[], Group]]:
    kinds = [(kind, part) for kind, part in _LINEAR.items() if n > 1 or kind != "SE"]
    return {f"{kind.upper()}({n})": functools.partial(_with_translations, f"{kind}({n})", part) for kind, part in kinds}


def _unknown(group: str, plain: str) -> str:
    families = ["SO(n)", "O(n)", "SO(p,q)", "O(p,q)", "SL(n)", "GL(n)", "E(n)", "SE(n)", "Aff(n)", "C(n)", "D(n)", "S(n)"]
    known = ", ".join([*families, "T(n)", "SU(2)", "Octa", "FullOcta", "Scale(a)"])
    return f"unknown group {group!r}: the known ones are {known}; pass one of these or Group.from_generators(...)."
