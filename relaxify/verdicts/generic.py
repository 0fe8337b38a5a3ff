"""A model in general position: parameters that are exactly 0 or 1 moved, as training will move them.

A bias that is zero, an affine weight that is one, a gate that is closed break nothing yet. Only what is trained moves:
neither buffers nor frozen parameters, nor the row of an embedding that stands for padding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from relaxify.verdicts.twin import Twin

SIZE = 0.2


def special(model: nn.Module) -> dict[str, Bool[Tensor, "..."]]:
    """Where each trained parameter is exactly 0 or 1.

    >>> [name for name, _ in special(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))).items()]
    ['1.weight', '1.bias']
    """
    padding = dict(_padding_rows(model))
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or not (parameter.is_floating_point() or parameter.is_complex()):
            continue
        exact = (parameter == 0) | (parameter == 1)
        if name in padding:
            exact[padding[name]] = False
        if exact.any():
            found[name] = exact
    return found


def _padding_rows(model: nn.Module) -> Iterator[tuple[str, int]]:
    for path, module in model.named_modules():
        row = getattr(module, "padding_idx", None)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and row is not None:
            yield f"{path}.weight".lstrip("."), row


def move_special(model: nn.Module, names: Collection[str]) -> None:
    """Move the special entries of these parameters, in place and as `Generic` does."""
    parameters = dict(model.named_parameters())
    for seed, (name, exact) in enumerate(special(model).items()):
        if name in names:
            parameter = parameters[name]
            parameter.data.add_(SIZE * _noise(parameter.detach(), exact, seed))


class Generic:
    """A copy of which the special parameters can be moved, some at a time."""

    def __init__(self, twin: Twin, where: Mapping[str, Bool[Tensor, "..."]]) -> None:
        self.twin = twin
        self.names = tuple(where)
        parameters = dict(twin.model.named_parameters())
        self._parameters = {name: parameters[name] for name in where}
        self._before = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._noise = {name: _noise(self._before[name], exact, seed) for seed, (name, exact) in enumerate(where.items())}

    def move(self, names: Collection[str], size: float = SIZE) -> Twin:
        """The copy with these parameters moved and all others as they were."""
        for name, parameter in self._parameters.items():
            moved = self._before[name] + size * self._noise[name] if name in names else self._before[name]
            parameter.data.copy_(moved)
        self.twin.settle()
        return self.twin


def _noise(value: Tensor, exact: Tensor, seed: int) -> Tensor:
    """Normal numbers where a parameter is special, as large as its others are."""
    others = value[~exact & (value != 0)].abs()
    scale = float(others.square().mean().sqrt()) if others.numel() else 1.0
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(7000 + seed), dtype=torch.float64)
    return (scale * noise * exact).to(value.dtype)


def responsible(names: Sequence[str], breaks: Callable[[Sequence[str]], bool], most: int = 4) -> tuple[str, ...]:
    """Those of the parameters that break the model by themselves, by halving; or the fewest that only together do.

    >>> responsible("abcdefgh", lambda some: "c" in some)
    ('c',)
    >>> responsible("abcdefgh", lambda some: {"b", "g"} <= set(some))
    ('b', 'g')
    """
    found: list[str] = []

    def search(some: Sequence[str]) -> bool:
        if len(found) >= most or not breaks(some):
            return False
        if len(some) == 1:
            found.extend(some)
            return True
        parts = [search(half) for half in _halves(some)]
        if not any(parts):
            found.extend(_together(some, (), breaks))
        return True

    search(names)
    return tuple(found) or tuple(names[:most])


def _together(some: Sequence[str], others: Sequence[str], breaks: Callable[[Sequence[str]], bool]) -> list[str]:
    """The fewest of some that break the model beside others, where some and others do (Zeller's delta debugging)."""
    if len(some) == 1:
        return list(some)
    first, second = _halves(some)
    for half in (first, second):
        if breaks((*half, *others)):
            return _together(half, others, breaks)
    found = _together(first, (*second, *others), breaks)
    return found + _together(second, (*found, *others), breaks)


def _halves(some: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    return some[: len(some) // 2], some[len(some) // 2 :]
