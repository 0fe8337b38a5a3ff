"""How far a model's output is from transforming with its input: under group elements, and to first order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.evidence.actions import InputAction
from relaxify.evidence.evidence import Evidence, Observer, quiet
from relaxify.evidence.fitting import elements
from relaxify.graph.inputs import Inputs, call, map_tensors, tensors_of
from relaxify.groups import Element, Group
from relaxify.inspection import derivatives
from relaxify.inspection.carried import Carried
from relaxify.inspection.derivatives import Curve
from relaxify.inspection.report import Errors, OutputReport
from relaxify.representations import Representation

OutputAction = Callable[[Tensor, Any], Any]
"""(matrix of the defining representation, output) -> transformed output."""

Run = tuple[Element, Any, Any]
"""A group element g, f(x) and f(g x)."""


def runs_of(evidence: Evidence) -> Iterator[Run]:
    """The outputs of the runs that the evidence rests on."""
    for sample in evidence.samples:
        for g, run in zip(elements(evidence.group), sample.moved, strict=True):
            yield g, sample.base.output, run.output


def runs_with(model: nn.Module, group: Group, inputs: Inputs, action: InputAction) -> Iterator[Run]:
    """The outputs of another model on x and on g x."""
    vector = Representation.defining(group)
    base = _output(model, inputs)
    for g in elements(group):
        yield g, base, _output(model, action(vector.rho(g), inputs))


def _output(model: nn.Module, inputs: Inputs) -> Any:
    torch.manual_seed(0)
    return call(model, map_tensors(lambda _, value: value.detach().clone(), inputs))


def group_errors(
    runs: Iterable[Run], carried: Sequence[Carried], response: Sequence[float], action: OutputAction | None
) -> tuple[Errors, tuple[Errors, ...]]:
    """|f(g x) - g f(x)| / response, over the runs: of the whole output, and of each of its tensors."""
    distances = [_distances(run, carried, action) for run in runs]
    parts = tuple(
        Errors.of([_over(d, scale) for d in of_tensor])
        for of_tensor, scale in zip(zip(*distances, strict=True), response, strict=True)
    )
    return Errors.of([_over(_norm(of_run), _norm(response)) for of_run in distances]), parts


def _distances(run: Run, carried: Sequence[Carried], action: OutputAction | None) -> list[float]:
    """|f(g x) - g f(x)| for each tensor of the output."""
    g, base, moved = run
    if action is None:
        values = [value.detach().double() for _, value in tensors_of(base)]
        expected = [each.move(g, value) for each, value in zip(carried, values, strict=True)]
    else:
        group = carried[0].group
        acted = action(Representation.defining(group).rho(g), map_tensors(lambda _, value: value.detach().double(), base))
        expected = [value for _, value in tensors_of(acted)]
    found = [value.detach().double() for _, value in tensors_of(moved)]
    return [float((a - b).norm()) for a, b in zip(found, expected, strict=True)]


def output_reports(
    evidence: Evidence, carried: Sequence[Carried], errors: Sequence[Errors], response: Sequence[float]
) -> tuple[OutputReport, ...]:
    """Each tensor of the output, with its error."""
    values = [value.detach() for _, value in tensors_of(evidence.recording.output)]
    return tuple(
        OutputReport(each.name, tuple(value.shape), each.words, error, _over(scale, float(value.norm())))
        for each, value, error, scale in zip(carried, values, errors, response, strict=True)
    )


def _norm(numbers: Iterable[float]) -> float:
    return sum(number**2 for number in numbers) ** 0.5


def _over(distance: float, scale: float) -> float:
    return distance / scale if scale else 0.0 if not distance else float("inf")


def response_of(observer: Observer) -> list[float]:
    """|f(x + d) - f(x)| for each tensor of the output, d random and as large as g x - x is for a generic g."""
    vector, g = Representation.defining(observer.group), elements(observer.group)[-1]
    moved = dict(tensors_of(observer.action(vector.rho(g), observer.inputs)))

    def shifted(name: str, value: Tensor, shrink: float) -> Tensor:
        if not value.is_floating_point() or torch.equal(moved[name], value):
            return value.clone()
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(5), dtype=value.dtype)
        return value + shrink * noise * (moved[name] - value).norm() / noise.norm()

    with quiet():
        here = [value.detach() for _, value in tensors_of(_output(observer.model, observer.inputs))]
        # the number of neighbours, and so the size of an output, may change
        for shrink in (1.0, 0.1, 0.01):
            inputs = map_tensors(functools.partial(shifted, shrink=shrink), observer.inputs)
            there = [value.detach() for _, value in tensors_of(_output(observer.model, inputs))]
            if all(a.shape == b.shape for a, b in zip(here, there, strict=True)):
                return [float((a - b).norm()) / shrink for a, b in zip(here, there, strict=True)]
    return [float(value.norm()) for value in here]


def lie_derivatives(
    observer: Observer, carried: Sequence[Carried], action: OutputAction | None = None
) -> tuple[tuple[float, ...], str]:
    """|L_A f(x)| / |f(x)| for each Lie generator A: L_A f(x) = d/dt exp(-tA) f(exp(tA) x) at 0 (Gruver et al. 2023).

    By forward-mode AD, or by central differences where an operation of the model has no forward derivative, or hides the
    input from it (detach, a gradient within forward). Also says which.
    """
    generators = observer.group.generators
    with quiet():
        if not len(generators):
            return (), "none: the group has no Lie generators"
        derive, method = derivatives.best_method(curve_of(observer, generators[0]))
        found = []
        for generator, unit in zip(generators, torch.eye(len(generators)), strict=True):
            value, derivative = derive(curve_of(observer, generator))
            terms = _moved_back(observer, carried, action, generator, unit, value, derivative)
            found.append(_over(_norm(float(term.norm()) for term in terms), _norm(float(v.norm()) for v in value)))
    return tuple(found), method


def curve_of(observer: Observer, generator: Tensor) -> Curve:
    """t -> f(exp(tA) x)."""

    def outputs(t: Tensor) -> Any:
        inputs = observer.action(torch.linalg.matrix_exp(t * generator), observer.inputs)
        torch.manual_seed(0)
        return call(observer.model, inputs)

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
        output = _output(observer.model, observer.inputs)
        step = 1e-5
        forth = [v.detach() for _, v in tensors_of(action(identity + step * generator, output))]
        back = [v.detach() for _, v in tensors_of(action(identity - step * generator, output))]
        own = [(a - b) / (2 * step) for a, b in zip(forth, back, strict=True)]
    return [d - o for d, o in zip(derivative, own, strict=True)]
