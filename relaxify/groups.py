"""Matrix groups given by their generators: a basis of the Lie algebra and generators of the finite part.

Everything else about a group (its action on features, random elements, intertwiners) follows from these two lists, so a
group made from a user's own matrices is treated exactly as a named one (CR sec. 3.1).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.named_groups import LINEAR_KINDS, definition, nothing
from relaxify.random_elements import Element, Word, normal_coefficients, random_word


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
    coefficients: Callable[[int, torch.Generator], Tensor] = field(default=normal_coefficients, repr=False)
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
        return cls(*definition(group))

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
    generators, finite = nothing(3).new_zeros(len(group.generators), 3, 3), torch.zeros(len(group.finite), 3, 3).double()
    for small, large in ((group.generators, generators), (group.finite, finite)):
        large[:, torch.tensor(plane)[:, None], torch.tensor(plane)] = small
    finite[:, free, free] = 1.0
    return replace(group, name=f"{group.name} about {axis}", generators=generators, finite=finite)
