"""Matrix groups given by their generators: a basis of the Lie algebra and generators of the finite part.

Everything else about a group (its action on features, random elements, intertwiners) follows from these two lists, so a
group made from a user's own matrices is treated exactly as a named one (CR sec. 3.1).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.named_groups import LINEAR_KINDS, definition, factor_names, nothing
from relaxify.random_elements import EachCoefficients, EachWord, Element, Word, normal_coefficients, random_word


@dataclass(frozen=True, eq=False)
class Group:
    """A matrix group, by generators of its defining representation, in float64.

    `generators[i]` is a Lie-algebra basis A_i: exp(t A_i) is in the group for every t. `finite[j]` is a group element
    g_j; products of these reach what the exponentials do not (reflections, or all of a finite group).

    `Group.parse` makes the named groups; `Group.from_generators` takes any matrices. Of a product G x H, whose elements
    are pairs, the matrices are g (+) h, block by block, and `factors` are G and H.

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
    coefficients: Callable[[int, torch.Generator], Tensor] = field(default=normal_coefficients, repr=False)
    words: Callable[[torch.Generator], Word] | None = field(default=None, repr=False)
    factors: tuple[Group, ...] = field(default=(), repr=False)

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
        if self.factors:
            return False
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
        found = Group(f"linear part of {self.name}", torch.stack(basis) if basis else nothing(self.dim - 1), finite, False)
        known = re.fullmatch(r"(SE|E|Aff)\((\d+)\)", self.name)
        named = Group.parse(f"{LINEAR_KINDS[known[1]]}({known[2]})") if known and known[0] != "SE(1)" else found
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
        word = self.words(generator) if self.words else random_word(len(self.finite), generator)
        return Element(self.coefficients(len(self.generators), generator), word)

    @classmethod
    def parse(cls, group: Group | str) -> Group:
        """The group of that name: SO(n), O(n), SO(p,q), O(p,q), SL(n), GL(n), SU(2), C(n), D(n), S(n), T(n).

        E(n), SE(n) and Aff(n) move points, x -> L x + t, by matrices on (x, 1). Groups of the plane may be placed in space:
        "O(2) about z". SO(p,q) is the component of the identity. SU(2), or Spin(3), acts on two complex numbers as on four
        real ones. Also O(1), the flip of a line; Octa and FullOcta, the cube's rotations and all its symmetries; Scale(a),
        the powers of the dilation of the plane by a; products of these, "O(3) x S(5)", whose factors act on axes of their
        own. Case, brackets, blanks and underscores do not matter. A Group is returned as it is. ValueError if unknown.

        >>> Group.parse("c_4"), Group.parse("so1,3")
        (Group('C(4)'), Group('SO(1,3)'))
        """
        if isinstance(group, Group):
            return group
        if not isinstance(group, str):
            raise ValueError(f"{group!r} is not a group; pass a name such as 'SO(3)', or a Group.")
        if len(names := factor_names(group)) > 1:
            return cls.product(*map(cls.parse, names))
        if about := re.fullmatch(r"(.+)[\s_]about[\s_]([xyz])", group.strip(), re.IGNORECASE):
            return _about(cls.parse(about[1]), about[2].lower())
        return cls(*definition(group))

    @classmethod
    def product(cls, *groups: Group) -> Group:
        """The direct product of groups, by the matrices g (+) h (+) ... of their elements. ValueError if none is given.

        >>> both = Group.product(Group.parse("SO(2)"), Group.parse("S(3)"))
        >>> both, both.generators.shape, both.finite.shape
        (Group('SO(2) x S(3)'), torch.Size([1, 5, 5]), torch.Size([2, 5, 5]))
        """
        factors = tuple(factor for group in groups for factor in group.factors or (group,))
        if len(factors) < 2:
            raise ValueError(f"a product has two factors or more, not {len(factors)}.")
        generators = [_beside(factors, number, each, 0.0) for number, f in enumerate(factors) for each in f.generators]
        finite = [_beside(factors, number, each, 1.0) for number, f in enumerate(factors) for each in f.finite]
        d = sum(factor.dim for factor in factors)
        return cls(
            " x ".join(factor.name for factor in factors),
            torch.stack(generators) if generators else nothing(d),
            torch.stack(finite) if finite else nothing(d),
            all(factor.compact for factor in factors),
            EachCoefficients(tuple((len(factor.generators), factor.coefficients) for factor in factors)),
            EachWord(tuple((len(factor.finite), factor.words) for factor in factors)),
            factors,
        )

    def parts(self, g: Float[Tensor, "d d"]) -> tuple[Float[Tensor, "_ _"], ...]:
        """The matrix of each factor in that of an element of a product.

        >>> [len(part) for part in Group.parse("O(3) x S(2)").parts(torch.eye(5))]
        [3, 2]
        """
        ends = list(itertools.accumulate(factor.dim for factor in self.factors))
        blocks = [slice(end - factor.dim, end) for factor, end in zip(self.factors, ends, strict=True)]
        return tuple(g[block, block] for block in blocks)

    def joined(self, elements: Sequence[Element]) -> Element:
        """The product's element that is each of these in its factor.

        >>> both = Group.parse("S(2) x SO(2)")
        >>> both.joined([Element(torch.zeros(0), (0,)), Element(torch.ones(1))])
        Element(coefficients=tensor([1.]), word=(0,))
        """
        letters = itertools.accumulate((len(factor.finite) for factor in self.factors), initial=0)
        word = (first + letter for first, each in zip(letters, elements, strict=False) for letter in each.word)
        return Element(torch.cat([each.coefficients for each in elements]), tuple(word))

    def of_factor(self, number: int, g: Float[Tensor, "n n"]) -> Float[Tensor, "d d"]:
        """The matrix of the product's element that is g in one factor and 1 in the others."""
        return _beside(self.factors, number, g, 1.0)

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


def _beside(factors: Sequence[Group], number: int, matrix: Tensor, entry: float) -> Tensor:
    """The matrix of one factor in a product, with this entry on the diagonals of the others."""
    others = [entry * torch.eye(factor.dim, dtype=matrix.dtype, device=matrix.device) for factor in factors]
    return torch.block_diag(*others[:number], matrix, *others[number + 1 :])


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
    generators, finite = nothing(3).new_zeros(len(group.generators), 3, 3), torch.zeros(len(group.finite), 3, 3).double()
    for small, large in ((group.generators, generators), (group.finite, finite)):
        large[:, torch.tensor(plane)[:, None], torch.tensor(plane)] = small
    finite[:, free, free] = 1.0
    return replace(group, name=f"{group.name} about {axis}", generators=generators, finite=finite, factors=())
