"""Generators from matrices: the actions whose exponentials a fit found, exact where they are a known representation's."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from scipy.linalg import logm
from torch import Tensor

from relaxify.algebras import brackets, exponential, structure_constants
from relaxify.evidence.transformations import ANGLE, close
from relaxify.groups import Group


def actions_of(group: Group, matrices: Sequence[Float[Tensor, "d d"]], axes: int) -> Float[Tensor, "actions d d"]:
    """log M(exp(t A)) / t for each Lie generator A, M itself for each finite one; the known ones exactly."""
    lie, found = len(group.generators), torch.stack([*matrices])
    for exact in known_actions(group, axes).values():
        if close(found, torch.cat([torch.linalg.matrix_exp(ANGLE * exact[:lie]), exact[lie:]])):
            return exact
    return torch.cat([torch.stack([_log(m) / ANGLE for m in found[:lie]]) if lie else found[:0], found[lie:]])


def _log(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The real logarithm, by eigenvalues where those tell it: scipy's, which always does, takes ten times as long."""
    values, vectors = torch.linalg.eig(matrix)
    log = ((vectors * values.log()) @ torch.linalg.pinv(vectors)).real
    if close(exponential(log), matrix):
        return log
    return torch.as_tensor(logm(matrix.numpy()).real).reshape(matrix.shape)


@functools.lru_cache(64)
def known_actions(group: Group, axes: int) -> Mapping[str, Float[Tensor, "actions d d"]]:
    """By name, the representations that need no fit on this many axes."""
    identity, own = torch.eye(group.vector_size, dtype=torch.float64), group.vectors
    if axes == 1:
        return {"vector": own}
    if axes == 2:
        lie, finite = own[: len(group.generators)], own[len(group.generators) :]
        squares = [torch.kron(a, identity) + torch.kron(identity, a) for a in lie]
        return {"vector⊗vector": torch.stack([*squares, *(torch.kron(g, g) for g in finite)])}
    return {}


def bracket_sign(group: Group, actions: Float[Tensor, "actions d d"]) -> float | None:
    """The sign s with [a_i, a_j] = s sum_k c_ijk a_k, c the structure constants: -1 for g -> M(g^-1), which reverses all.

    None if the group has no brackets, or those of the actions are neither: of what hardly moves, say.
    """
    a, b = group.generators, actions[: len(group.generators)]
    if not len(a) or not brackets(a).abs().max() > 1e-9:
        return None
    expected = torch.einsum("ijk,kab->ijab", structure_constants(a), b)
    sign = (expected * brackets(b)).sum().sign()
    return float(sign) if (brackets(b) - sign * expected).norm() < 0.1 * expected.norm() else None


def is_isometric(group: Group, actions: Float[Tensor, "actions d d"]) -> bool:
    """Whether the actions are orthogonal. A sound map between orthogonal representations gives no other kind."""
    lie, finite = actions[: len(group.generators)], actions[len(group.generators) :]
    identity = torch.eye(actions.shape[-1], dtype=actions.dtype).expand_as(finite)
    return torch.allclose(lie, -lie.mT, atol=1e-5) and torch.allclose(finite @ finite.mT, identity, atol=1e-5)
