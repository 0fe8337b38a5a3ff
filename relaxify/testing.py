"""For users' own test suites: assert that a model is equivariant, and name the first operation that breaks it if not.

As a pytest plugin (`pytest_plugins = ["relaxify.testing"]` in conftest.py) it gives tests the fixture `assert_equivariant`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from relaxify.evidence.actions import InputAction
from relaxify.groups import Group
from relaxify.inspection.inspecting import inspect
from relaxify.inspection.outputs import OutputAction
from relaxify.inspection.report import Report

__all__ = ["assert_equivariant"]


def assert_equivariant(
    model: nn.Module,
    group: Group | str,
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    input_action: InputAction | None = None,
    output_action: OutputAction | None = None,
    tolerance: float = 1e-6,
    training: bool = False,
) -> Report:
    """AssertionError unless |f(g x) - g f(x)| is at most `tolerance` of the model's response; else the report.

    Arguments as of `relaxify.inspect`. The error is measured in float64, so that rounding does not hide a fault; a model
    that is equivariant there and not in its own precision fails too. An output that does not respond to the inputs proves
    nothing, and fails.

    >>> import torch
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
        output_action=output_action,
        training=training,
    )
    if complaint := _complaint(report, tolerance):
        raise AssertionError(f"{report.model} is not equivariant under {report.group}: {complaint}")
    return report


def _complaint(report: Report, tolerance: float) -> str | None:
    error = f"relative error {report.error.mean:.1e}, at most {report.error.largest:.1e}"
    if report.fault is not None:
        fault = report.fault
        return (
            f"{error}; it breaks in {fault.module or 'the model'} at {fault.location}\n    {fault.source}\n  {fault.cause}."
        )
    if not report.error.largest <= tolerance:
        return f"{error}, above {tolerance:.1e}; no single operation could be named. The inputs' action may be wrong."
    silent = [output.name for output in report.outputs if not output.response and output.transforms != "zero"]
    if silent:
        return f"{', '.join(silent)} does not respond to the inputs, which proves nothing; give weights that are not zero."
    return None


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture(name="assert_equivariant")
    def _fixture() -> Callable[..., Report]:
        """relaxify.testing.assert_equivariant."""
        return assert_equivariant
