"""The element that a matrix of the defining representation is: from g back to exp(sum_i c_i A_i) g_word.

Rotations of space are read as quaternions, by scipy: as exact near half turns as near none.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from relaxify.algebras import exponential
from relaxify.groups import Group
from relaxify.random_elements import Element, Word, shortest_words


def element_of(group: Group, matrix: Float[Tensor, "d d"]) -> Element:
    """The element of SO(2), O(2), SO(3), O(3), a finite group, or a product of these, whose matrix this is.

    ValueError for other groups, and for a matrix that is not of the group.

    >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> element_of(Group.parse("SO(2)"), quarter).coefficients.tolist(), element_of(Group.parse("C(8)"), quarter).word
    ([1.5707963267948966], (0, 0))
    """
    if (known := _known(group, matrix)) is not None:
        return known
    if group.factors:
        return _of_product(group, matrix)
    if group.is_affine:
        return _moving(group, matrix.double())
    if not _is_read(group):
        raise ValueError(
            f"an element of {group.name} is not found from its matrix; name SO(2), O(2), SO(3), O(3), C(n) or D(n)."
        )
    g = matrix.double()
    for word in _words(group):
        rest = g @ torch.linalg.inv(_product(group, word))
        if not torch.linalg.det(rest) > 0:
            # no exponential, nor anything that scipy takes for a rotation
            continue
        found = Element(_coefficients(group, rest), word)
        turned = exponential(torch.einsum("a,aij->ij", found.coefficients, group.generators))
        if torch.allclose(rest, turned, atol=_tolerance(matrix)):
            return found
    raise ValueError(f"{matrix.tolist()} is no element of {group.name}; pass one of its {group.dim} x {group.dim} matrices.")


def _known(group: Group, matrix: Float[Tensor, "d d"]) -> Element | None:
    """The identity, and a finite generator, of any group."""
    identity = torch.eye(group.dim, dtype=torch.float64)
    words: list[tuple[Word, Tensor]] = [((), identity), *(((letter,), g) for letter, g in enumerate(group.finite))]
    word = next((word for word, g in words if torch.equal(g, matrix.double())), None)
    return None if word is None else Element(torch.zeros(len(group.generators), dtype=torch.float64), word)


def _of_product(group: Group, matrix: Float[Tensor, "d d"]) -> Element:
    parts = group.parts(matrix)
    if not torch.equal(torch.block_diag(*parts), matrix):
        raise ValueError(f"{matrix.tolist()} is no element of {group.name}: it mixes what its factors act on.")
    return group.joined([element_of(factor, part) for factor, part in zip(group.factors, parts, strict=True)])


def _moving(group: Group, matrix: Float[Tensor, "d d"]) -> Element:
    """exp of (A, u) is (exp(A), V u) with V = int_0^1 exp(s A) ds, which the exponential of (A, 1) has beside exp(A)."""
    found = element_of(group.linear_part, matrix[:-1, :-1])
    n, linear = group.vector_size, torch.einsum("a,aij->ij", found.coefficients, group.linear_part.generators)
    one, nothing = torch.eye(n, dtype=torch.float64), torch.zeros(n, 2 * n, dtype=torch.float64)
    mean = exponential(torch.cat([torch.cat([linear, one], 1), nothing]))[:n, n:]
    logarithm = torch.cat([linear, torch.linalg.solve(mean, matrix[:-1, -1])[:, None]], 1)
    sides = group.generators[:, :-1].flatten(1).mT, logarithm.flatten()[:, None]
    return Element(torch.linalg.lstsq(*sides).solution[:, 0], found.word)


def _is_read(group: Group) -> bool:
    """Whether this group is made of rotations, or has few elements."""
    if not len(group.generators):
        return group.compact and not (group.name.startswith("S(") and group.dim > 6)
    is_whole = len(group.generators) == {2: 1, 3: 3}.get(group.dim)
    return is_whole and torch.allclose(group.generators, -group.generators.mT)


def _tolerance(matrix: Tensor) -> float:
    """Actions are given g in the precision of the inputs."""
    return 30 * torch.finfo(matrix.dtype).eps if matrix.dtype.is_floating_point else 1e-6


def _words(group: Group) -> tuple[Word, ...]:
    return shortest_words(group.finite) if len(group.finite) else ((),)


def _product(group: Group, word: Word) -> Float[Tensor, "d d"]:
    product = torch.eye(group.dim, dtype=torch.float64)
    for letter in word:
        product = product @ group.finite[letter]
    return product


def _coefficients(group: Group, rotation: Float[Tensor, "d d"]) -> Float[Tensor, " lie"]:
    if not len(group.generators):
        return torch.zeros(0, dtype=torch.float64)
    logarithm = _turn(rotation) if group.dim == 2 else _rotation_vector(rotation)
    found: Tensor = torch.linalg.lstsq(group.generators.flatten(1).mT, logarithm.flatten()[:, None]).solution[:, 0]
    return found


def _turn(rotation: Float[Tensor, "2 2"]) -> Float[Tensor, "2 2"]:
    angle = torch.atan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1])
    return angle * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)


def _rotation_vector(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """log R."""
    x, y, z = Rotation.from_matrix(rotation.numpy()).as_rotvec().tolist()
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
