"""The derivative of a curve of outputs, t -> f(x(t)), at t = 0: by forward-mode AD, or by central differences."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from relaxify.graph.inputs import tensors_of

AGREEMENT = 1e-5
STEP = 1e-4
SHORTER_STEPS = (1.0, 1e-2, 1e-3)
AHEAD = 1e-6

Curve = Callable[[Tensor], Any]
"""t, a tensor without axes -> a nest of tensors."""

Differentiation = Callable[[Curve], tuple[list[Tensor], list[Tensor]]]
"""A curve -> its value and its derivative at 0, for each of its tensors of floating point."""


def by_forward_ad(curve: Curve) -> tuple[list[Tensor], list[Tensor]]:
    """The value and the derivative at 0, exact. NotImplementedError or RuntimeError where an operation has none.

    >>> by_forward_ad(lambda t: torch.exp(2 * t))
    ([tensor(1.)], [tensor(2.)])
    """
    with forward_ad.dual_level():
        t = forward_ad.make_dual(torch.zeros(()), torch.ones(()))
        outputs = [forward_ad.unpack_dual(value) for value in floating(curve(t))]
        return [o.primal.detach() for o in outputs], [
            torch.zeros_like(o.primal) if o.tangent is None else o.tangent.detach() for o in outputs
        ]


def by_differences(curve: Curve, step: float = STEP) -> tuple[list[Tensor], list[Tensor]]:
    """The same by central differences, of error O(step^2)."""
    return _at(curve, 0.0), _differences(curve, step)


def _at(curve: Curve, t: float) -> list[Tensor]:
    return [value.detach() for value in floating(curve(torch.tensor(t)))]


def _differences(curve: Curve, step: float) -> list[Tensor]:
    ahead, behind = _at(curve, step), _at(curve, -step)
    return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]


def best_method(curve: Curve, step: float = STEP) -> tuple[Differentiation, str]:
    """Forward-mode AD if it works on this curve and agrees with differences: a model may hide its input from it (detach).

    Differences over a kink (two pixels of a max pool that almost tie) are wrong, but not those of a step short of it. So
    they are taken with smaller steps too before they are believed: what is hidden stays hidden at every step.
    """
    return _best(curve, step)[:2]


def of_each(curves: Sequence[Curve]) -> tuple[list[tuple[list[Tensor], list[Tensor]]], str]:
    """The value and the derivative of each curve at 0, by the best method for the first one, and which that is."""
    derive, method, first = _best(curves[0], STEP)
    return [first or derive(curves[0]), *map(derive, curves[1:])], method


def _best(curve: Curve, step: float) -> tuple[Differentiation, str, tuple[list[Tensor], list[Tensor]] | None]:
    """The best method, and what it has found already."""
    differences = functools.cache(functools.partial(_differences, curve))
    for derive in (_without_graph, by_forward_ad):
        try:
            value, derivative = derive(curve)
        except (NotImplementedError, RuntimeError):
            continue
        steps = (step * shorter for shorter in SHORTER_STEPS)
        if _leads_on(curve, value, derivative) or any(_agree(value, derivative, differences(each)) for each in steps):
            return derive, "forward-mode AD", (value, derivative)
    return functools.partial(by_differences, step=step), "central differences", None


def _without_graph(curve: Curve) -> tuple[list[Tensor], list[Tensor]]:
    """By forward-mode AD, in less time where no gradient is taken within."""
    with torch.no_grad():
        return by_forward_ad(curve)


def _leads_on(curve: Curve, value: list[Tensor], derivative: list[Tensor]) -> bool:
    """Whether one run further on is where the derivative leads: enough for most."""
    ahead = _at(curve, AHEAD)
    if [a.shape for a in ahead] != [v.shape for v in value]:
        return False
    return _agree(value, derivative, [(a - v) / AHEAD for a, v in zip(ahead, value, strict=True)])


def _agree(value: list[Tensor], derivative: list[Tensor], differences: list[Tensor]) -> bool:
    if [d.shape for d in derivative] != [d.shape for d in differences]:
        return False
    return all(
        float((a - b).norm()) <= AGREEMENT * (1 + float(v.norm()))
        for v, a, b in zip(value, derivative, differences, strict=True)
    )


def floating(outputs: Any) -> list[Tensor]:
    """The tensors of floating point in a nest of containers; sparse ones as dense."""
    found = [value for _, value in tensors_of(outputs) if value.is_floating_point()]
    return [value if value.layout is torch.strided else value.to_dense() for value in found]
