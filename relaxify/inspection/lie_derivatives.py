"""Lie derivatives of a model's output: how far it is from transforming with its input, to first order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from relaxify.algebras import exponential
from relaxify.evidence.runs import Observer
from relaxify.graph.inputs import call
from relaxify.graph.precision import quiet
from relaxify.inspection import derivatives
from relaxify.inspection.carried import Carried
from relaxify.inspection.derivatives import Curve, floating
from relaxify.modules.copies import duplicate
from relaxify.verdicts.action_errors import OutputAction
from relaxify.verdicts.state import seeded


def lie_derivatives(
    observer: Observer, carried: Sequence[Carried], action: OutputAction | None = None
) -> tuple[tuple[float, ...], str]:
    """|L_A f(x)| / |f(x)| for each Lie generator A: L_A f(x) = d/dt exp(-tA) f(exp(tA) x) at 0 (Gruver et al. 2023).

    By forward-mode AD, or by central differences where an operation of the model has no forward derivative, or hides the
    input from it (detach, a gradient within forward). Also says which.
    """
    generators = observer.group.generators
    if not len(generators):
        return (), "none: the group has no Lie generators"
    with quiet():
        derived, method = derivatives.of_each([curve_of(observer, generator) for generator in generators])
        found = []
        for generator, unit, (value, derivative) in zip(generators, torch.eye(len(generators)), derived, strict=True):
            terms = _moved_back(observer, carried, action, generator, unit, value, derivative)
            size = _norm(float(v.norm()) for v in value)
            found.append(_norm(float(term.norm()) for term in terms) / (size or 1.0))
    return tuple(found), method


def curve_of(observer: Observer, generator: Tensor) -> Curve:
    """t -> f(exp(tA) x)."""

    def outputs(t: Tensor) -> Any:
        own = duplicate(observer.inputs, lambda tensor: tensor, "the input")
        observer.twin.restore()
        with seeded():
            return call(observer.twin.model, observer.actions.inputs(exponential(t * generator), own))

    return outputs


def _moved_back(
    observer: Observer,
    carried: Sequence[Carried],
    action: OutputAction | None,
    generator: Tensor,
    unit: Tensor,
    value: list[Tensor],
    derivative: list[Tensor],
) -> list[Tensor]:
    """d/dt f(exp(tA) x) - drho_out(A) f(x)."""
    if action is None:
        own = [each.move_infinitesimally(unit, v) for each, v in zip(carried, value, strict=True)]
    else:
        # the output action is linear in the output, and to first order in t
        identity = torch.eye(len(generator))
        output, step = observer.twin.run(observer.inputs), 1e-5
        forth = floating(action(identity + step * generator, output))
        back = floating(action(identity - step * generator, output))
        own = [(a.detach() - b.detach()) / (2 * step) for a, b in zip(forth, back, strict=True)]
    return [d - o for d, o in zip(derivative, own, strict=True)]


def _norm(numbers: Iterable[float]) -> float:
    return sum(number**2 for number in numbers) ** 0.5
