"""Causes are data: a kind and what its sentence quotes, which is put together where it is shown."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from relaxify import inspect
from relaxify.inspection.cause import Cause, CauseKind


@pytest.mark.parametrize("kind", CauseKind)
def test_every_kind_has_a_sentence_without_its_full_stop(kind: CauseKind) -> None:
    sentence = str(Cause(kind, op="conv2d", group="C(4)", details={"dtype": "bfloat16"}))
    assert len(sentence.split()) > 3
    assert not sentence.endswith(".")
    assert "{" not in sentence


def test_a_kind_is_told_by_its_name_and_its_numbers_travel_beside_the_sentence() -> None:
    torch.manual_seed(0)
    fault = inspect(nn.Conv2d(1, 1, 3, stride=2), "C(4)", torch.randn(3, 1, 8, 8)).fault
    assert fault is not None
    assert fault.kind == "resampling"
    assert fault.kind is CauseKind.RESAMPLING
    assert "conv2d with windows of 3 every 2 pixels leaves 1 of 8 out" in fault.cause
    data = json.loads(json.dumps(fault.to_dict()))
    assert (data["kind"], data["cause"]) == (fault.kind, fault.cause)
    assert data["details"] == {"kernel": 3, "stride": 2, "rest": 1, "size": 8, "padded": 0, "reach": 3}
