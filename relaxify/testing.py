"""For test suites: a function's equivariance error, and an assertion that names the first operation which breaks a model.

As a pytest plugin (`pytest_plugins = ["relaxify.testing"]` in conftest.py) it gives tests the fixture `assert_equivariant`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relaxify.graph.exported import AnyModel
from relaxify.graph.inputs import Inputs, map_tensors, tensors_of
from relaxify.groups import Group
from relaxify.inspection import OutputAction, Report, inspect
from relaxify.representations import Representation
from relaxify.verdicts.action_errors import InputAction
from relaxify.verdicts.default_action import default_action
from relaxify.verdicts.features import IrrepsOf

__all__ = ["assert_equivariant", "elements", "equivariance_error"]

SMALLEST_RESPONSE = 1e-3
"""Of the output's size; a function that responds less to its inputs proves nothing."""


def assert_equivariant(
    model: AnyModel,
    group: Group | str,
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    input_action: InputAction | None = None,
    input_irreps: IrrepsOf | None = None,
    output_action: OutputAction | None = None,
    tolerance: float = 1e-6,
    training: bool = False,
) -> Report:
    """AssertionError unless |f(g x) - g f(x)| is at most `tolerance` of the model's response; else the report.

    Arguments as of `relaxify.inspect`. The error is measured in float64, so that rounding does not hide a fault; a model
    that is equivariant there and not in its own precision fails too. An output that does not respond to the inputs proves
    nothing, and fails.

    >>> import torch
    >>> from torch import nn
    >>> assert_equivariant(nn.Linear(3, 3), "SO(3)", torch.randn(9, 3))
    Traceback (most recent call last):
    AssertionError: Linear is not equivariant under SO(3): ...
    """
    report = inspect(
        model,
        group,
        *inputs,
        keywords=keywords,
        input_action=input_action,
        input_irreps=input_irreps,
        output_action=output_action,
        training=training,
    )
    if complaint := _complaint(report, tolerance):
        judged = "is not equivariant" if report.verdict.elements else "cannot be judged"
        raise AssertionError(f"{report.model} {judged} under {report.group}: {complaint}")
    return report


def _complaint(report: Report, tolerance: float) -> str | None:
    if not report.verdict.elements:
        return f"{report.verdict.told}."
    error = f"relative error {report.error.mean:.1e}, at most {report.error.largest:.1e}; {report.verdict.told}"
    if report.faults:
        return f"{error}; it breaks " + "\n  and ".join(
            f"{f'{group} ' if report.factors else ''}in {fault.module or 'the model'} at {fault.location}\n"
            f"    {fault.source}\n  {fault.cause}."
            for group, fault in report.faults.items()
        )
    if not report.is_sound:
        return f"{error}; no single operation could be named. The inputs' action may be wrong."
    if not report.error.largest <= max(tolerance, report.verdict.tolerance):
        return f"{error}, above {tolerance:.1e}."
    return None


def equivariance_error(
    function: Callable[..., Any],
    group: Group | str,
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    input_action: InputAction | None = None,
    output_action: OutputAction | None = None,
    spread: float = 1.0,
) -> float:
    """max over g of |f(g x) - g f(x)|, over |f(x + d) - f(x)|, the response to a normally distributed d (CR eq. 1).

    - `function`: a model or any function, which is run as it is: in its own precision, mode and device. All tensors of its
      output count, side by side.
    - `input_action`, `output_action`: as of `relaxify.inspect`; by default inputs move as vectors on their axis of the
      group's size, and the output stays as it is, an invariant.
    - `spread`: the standard deviation of d; choose that of the inputs.

    The elements g are those of `elements`. Infinite if the response is below a thousandth of |f(x)|, for then the error
    says nothing; NaN if an output is. ValueError if it is ambiguous how the group acts on the inputs.

    >>> x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> equivariance_error(lambda x: x @ x.mT, "O(3)", x) < 1e-14  # inner products are invariant
    True
    >>> equivariance_error(torch.relu, "SO(3)", x, output_action=lambda g, y: y @ g.mT) > 0.1
    True
    """
    group, given = Group.parse(group), dict(keywords) if keywords else inputs
    act = input_action or default_action(group, given)
    generator = torch.Generator().manual_seed(1)

    def run(values: Inputs) -> Any:
        # some models write to their inputs
        values = map_tensors(lambda _, value: value.detach().clone(), values)
        return function(**values) if isinstance(values, dict) else function(*values)

    def perturbed(_: str, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return value + spread * torch.randn(value.shape, generator=generator).to(value)

    y = run(given)
    response = (_flat(run(map_tensors(perturbed, given))) - _flat(y)).norm()
    if not response > SMALLEST_RESPONSE * _flat(y).norm():
        return float("inf")
    pairs = ((run(act(g, given)), y if output_action is None else output_action(g, y)) for g in elements(group))
    # unlike the builtin, this max lets NaN through
    return float(torch.stack([(_flat(moved) - _flat(expected)).norm() / response for moved, expected in pairs]).max())


def elements(group: Group | str) -> list[Float[Tensor, "d d"]]:
    """Two random elements of a group, the same ones every time, and one more in each further component, as matrices.

    >>> sorted({round(float(torch.linalg.det(g))) for g in elements("O(3)")})
    [-1, 1]
    """
    group = Group.parse(group)
    defining, generator = Representation.defining(group), torch.Generator().manual_seed(0)
    first, second = (defining.rho(group.random(generator)) for _ in range(2))
    return [first, second, *(first @ h for h in group.finite)]


def _flat(output: Any) -> Tensor:
    """All values of an output in one row."""
    return torch.cat([value.detach().flatten() for _, value in tensors_of(output)])


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture(name="assert_equivariant")
    def _fixture() -> Callable[..., Report]:
        """relaxify.testing.assert_equivariant."""
        return assert_equivariant
