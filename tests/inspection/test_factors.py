"""Under a product of groups a report says which factor is broken, and at which layer."""

from __future__ import annotations

import json

import pytest
from points import GROUP, clouds, made

from relaxify import inspect, relaxify, set_theta
from relaxify.inspection.cause import CauseKind
from relaxify.testing import assert_equivariant

FAULTS = {"O(3)": ("bias", "gate", "linear", CauseKind.BIAS), "S(5)": ("embedded", "", "mul", CauseKind.CONSTANT)}


@pytest.mark.parametrize("broken", [["O(3)"], ["S(5)"]])
def test_each_factor_has_its_fault(broken: list[str]) -> None:
    model = made(**{FAULTS[name][0]: True for name in broken})
    report = inspect(model, GROUP, clouds())
    assert not report.is_sound
    assert {name: (fault.module, fault.op, fault.kind) for name, fault in report.faults.items()} == {
        name: FAULTS[name][1:] for name in broken
    }
    assert [each.group for each in report.factors if not each.is_sound] == broken
    assert report.verdict.worst.group in broken
    told = str(report)
    assert all(f"PointNet under {name}: error" in told for name in ("O(3)", "S(5)"))
    data = json.loads(report.to_json())
    assert [each["fault"] is not None for each in data["factors"]] == [name in broken for name in ("O(3)", "S(5)")]
    assert all(f"It breaks {name}</strong>" in report.to_html() for name in broken)
    with pytest.raises(AssertionError, match=r"PointNet is not equivariant under O.* x S") as failure:
        assert_equivariant(model, GROUP, clouds())
    assert all(f"{name} in {FAULTS[name][1] or 'the model'} at " in str(failure.value) for name in broken)


def test_terms_are_measured_under_the_product_and_not_under_others() -> None:
    """A term of O(3) x S(5) is no matrix on what O(3) alone acts on: a report under O(3) leaves it out."""
    model = relaxify(made(), GROUP, example_inputs=clouds())
    set_theta(model, 1.0)
    for parameter in model.parameters():
        parameter.data += 0.1
    report = assert_equivariant(model, GROUP, clouds())
    (output,) = report.outputs
    assert output.transforms == "vector on axis -2 under O(3), vector on axis -3 under S(5)"
    assert report.relaxed_error is not None
    assert report.relaxed_error.mean > 0.1
    assert {layer.path for layer in report.layers if layer.share} == {"first", "gate", "mean", "last"}
    assert {layer.path for layer in inspect(model, "O(3)", clouds()).layers if layer.share} == {"mean"}
