"""Inputs near the given ones: what varies a little, and what stays because it is a code, a mask or an index."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relaxify.graph.complex_values import as_real
from relaxify.modules.copies import parts
from relaxify.verdicts.constraints import kept

SIZE = 0.05
"""Of the spread of a tensor's entries."""

_ATOMS = str | bytes | int | float | complex | None | type


def tensors_in(value: Any) -> dict[str, Tensor]:
    """Every tensor that an object holds, by its place."""
    found: dict[str, Tensor] = {}
    waiting, seen = [("", value)], {}
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, Tensor):
            found[name] = item
        elif not isinstance(item, _ATOMS) and id(item) not in seen:
            seen[id(item)] = item
            waiting += [(f"{name}.{key}", part) for key, part in parts(item)]
    return found


def replaced(value: Any, function: Callable[[str, Tensor], Tensor]) -> Any:
    """A copy of an object with `function(place, tensor)` in the place of each tensor."""
    changed = {
        id(tensor): function(name, tensor.detach()).requires_grad_(tensor.requires_grad)
        for name, tensor in tensors_in(value).items()
    }
    memo: dict[int, Any] = {**changed}
    return copy.deepcopy(value, memo)


def nearby(inputs: Any, moved: Any, seed: int, size: float = SIZE) -> Any:
    """Inputs with noise of a relative `size` on every floating tensor; codes and masks that the group leaves alone stay."""
    return _shifted(inputs, moved, seed, lambda value, noise: value + size * _spread(value) * noise)


def nudged(inputs: Any, moved: Any, seed: int, eps: float) -> Any:
    """Inputs that differ in their last digits."""
    return _shifted(inputs, moved, seed, lambda value, noise: value + 4 * eps * _spread(value) * _bounded(noise))


def _shifted(inputs: Any, moved: Any, seed: int, shift: Callable[[Tensor, Tensor], Tensor]) -> Any:
    generator, others = torch.Generator().manual_seed(seed), tensors_in(moved)

    def near(name: str, value: Tensor) -> Tensor:
        if not _varies(value, others.get(name)):
            return value.clone()
        exact = torch.complex128 if value.is_complex() else torch.float64
        noise = torch.randn(value.shape, generator=generator, dtype=exact).to(value.dtype)
        return kept(value, shift(value, noise))

    return replaced(inputs, near)


def _bounded(noise: Tensor) -> Tensor:
    parts = as_real(noise).clamp(-2, 2)
    return torch.view_as_complex(parts) if noise.is_complex() else parts


def _varies(value: Tensor, moved: Tensor | None) -> bool:
    if not (value.is_floating_point() or value.is_complex()) or value.layout is not torch.strided:
        return False
    stays = moved is None or (moved.shape == value.shape and torch.equal(moved, value))
    return bool(value.isfinite().all()) and not (stays and _is_code(value))


def are_equal(value: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same entries, sparse ones too."""
    dense = [each if each.layout is torch.strided else each.to_dense() for each in (value, other)]
    return value.shape == other.shape and torch.equal(*dense)


def is_zero(value: Tensor) -> bool:
    """Whether there are entries, all of them zero."""
    return value.layout is torch.strided and bool(value.numel()) and not value.any()


def _is_code(value: Tensor) -> bool:
    return torch.equal(value.real, value.real.round())


def _spread(value: Tensor) -> float:
    """The standard deviation of the entries, or their size where they have none."""
    if not value.numel():
        return 0.0
    spread = float(value.std(correction=0)) if value.numel() > 1 else 0.0
    return spread or float(value.abs().max()) or 1.0


def distance(a: Any, b: Any) -> float:
    """|a - b| over all tensors that two inputs share."""
    ours, theirs = tensors_in(a), tensors_in(b)
    names = [name for name, value in ours.items() if name in theirs and theirs[name].shape == value.shape]
    return _norm([ours[name].detach() - theirs[name].detach() for name in names if _is_measured(ours[name])])


def size(inputs: Any) -> float:
    """|x| over all tensors of the inputs."""
    return _norm([value.detach() for value in tensors_in(inputs).values() if _is_measured(value)])


def _norm(values: list[Tensor]) -> float:
    """Infinite entries, as of masks, count as nothing."""
    return float(sum(float(v.abs().double().nan_to_num(0.0, 0.0, 0.0).square().sum()) for v in values)) ** 0.5


def _is_measured(value: Tensor) -> bool:
    return (value.is_floating_point() or value.is_complex()) and value.layout is torch.strided
