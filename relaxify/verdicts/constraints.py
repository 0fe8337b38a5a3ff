"""What holds for the entries of an input holds for inputs nearby: rotations, rigid motions, unit vectors, symmetry, padding.

A model may rest on such a property (a matrix whose transpose is its inverse), and commute with the group on those alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

_CLOSE = 1e-4


def kept(value: Shaped[Tensor, "..."], near: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """The nearest to `near` of the values that have the properties that `value` has.

    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> moved = kept(turn, turn + 0.1 * torch.ones(2, 2))
    >>> torch.allclose(moved @ moved.mT, torch.eye(2), atol=1e-6)
    True
    """
    if value.ndim > 1 and value.shape[-1] == value.shape[-2] > 1:
        if _is_rigid(value):
            near = torch.cat([near[..., :-1, :], value[..., -1:, :]], dim=-2)
            rotation = _polar(near[..., :-1, :-1])
            return torch.cat([torch.cat([rotation, near[..., :-1, -1:]], dim=-1), near[..., -1:, :]], dim=-2)
        if _is_orthogonal(value):
            return _polar(near)
        if torch.equal(value, value.mT):
            near = (near + near.mT) / 2
    for axis in range(-1, -value.ndim - 1, -1):
        if value.shape[axis] > 1 and _is_unit(value, axis):
            return torch.nn.functional.normalize(near, dim=axis)
    if not value.is_complex() and (value >= 0).all():
        near = near.abs()
    return near.masked_fill(_is_padding(value), 0)


def exactly(value: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """A value with its properties in all digits."""
    can_have = value.is_floating_point() and value.layout is torch.strided and value.numel() and value.isfinite().all()
    return kept(value, value).clone() if can_have else value.clone()


def _is_orthogonal(value: Tensor) -> bool:
    identity = torch.eye(value.shape[-1], dtype=value.dtype).expand_as(value)
    return torch.allclose(value @ value.mH, identity, atol=_CLOSE)


def _is_rigid(value: Tensor) -> bool:
    last = torch.eye(value.shape[-1], dtype=value.dtype)[-1]
    is_last = torch.equal(value[..., -1, :], last.expand_as(value[..., -1, :]))
    return value.shape[-1] > 2 and is_last and _is_orthogonal(value[..., :-1, :-1])


def _is_unit(value: Tensor, axis: int) -> bool:
    lengths = value.norm(dim=axis)
    return torch.allclose(lengths, torch.ones_like(lengths), atol=_CLOSE)


def _is_padding(value: Tensor) -> Tensor:
    """Where whole vectors are zero, and not all are."""
    zero = (value == 0).all(-1, keepdim=True) if value.ndim > 1 else torch.zeros_like(value, dtype=torch.bool)
    return (zero & ~zero.all()).expand_as(value)


def _polar(near: Tensor) -> Tensor:
    """The nearest orthogonal matrix."""
    u, _, v = torch.linalg.svd(near)
    return u @ v
