"""What a verdict costs is told in forward passes of the model itself."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.verdicts import Judged, measured


def test_plan_and_inspect_are_timed_in_forward_passes() -> None:
    small = Judged("linear", "SO(3)", lambda: nn.Linear(2, 2, bias=False), lambda: (torch.randn(8, 3, 2),))
    row = measured(small, rounds=1)
    # more than the runs that they make at the least
    assert row["inspect, forwards"] > row["plan, forwards"] > 10
