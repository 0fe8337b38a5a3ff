"""What a person finds by reading a model is what `plan` finds with example inputs, and nothing else."""

from __future__ import annotations

import pytest
import torch

from relaxify import plan
from zoo import ENTRIES

# those that test_round_trips leaves out for time
NAMES = [
    "Equiformer",
    "MACE, foundation configuration",
    "SEGNN",
    "ViSNet block, degree 2",
    "e3nn v2106 with attributes",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_equivariant_linear_op_is_found_and_no_other(name: str) -> None:
    entry = ENTRIES[name]
    torch.manual_seed(0)
    model, inputs = entry.make(), entry.inputs()
    found = plan(model, entry.group, example_inputs=inputs, input_action=entry.transform)
    assert {site.path for site in found.sites} == entry.expected
    assert not found.unsound
