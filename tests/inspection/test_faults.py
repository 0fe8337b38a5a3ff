"""The first broken operation is the planted one, its cause is right in words, and sound models are left in peace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from zoo import ENTRIES
from zoo.entry import Entry
from zoo.faults import FAULTS

from relaxify import inspect
from relaxify.inspection.report import Report


def inspected(entry: Entry, model: nn.Module, *, training: bool = False) -> Report:
    return inspect(model, entry.group, *entry.inputs(), input_action=entry.transform, training=training)


# many seconds each
SLOW = {"SEGNN, layer norm", "SEGNN, tanh", "VN-PointNet, largest over points", "VN-PointNet, leaky relu"}


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in SLOW])
def test_the_planted_fault_is_named_and_so_is_its_cause(name: str) -> None:
    planted = FAULTS[name]
    torch.manual_seed(0)
    fault = inspected(planted.entry, planted.make(), training=planted.training).fault
    assert fault is not None
    assert (fault.module, fault.op, fault.kind) == (planted.where, planted.op, planted.kind)


SOUND = ["DeepSets", "EGNN, sparse", "GNNFF", "PaiNN forces", "PaiNN dipole", "SchNet", "TensorNet", "VN-transformer"]


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_model_has_no_fault(name: str) -> None:
    entry = ENTRIES[name]
    torch.manual_seed(0)
    report = inspected(entry, entry.make())
    assert report.is_sound
    assert report.error.largest < 1e-7
    assert report.forward_passes <= 60


def test_the_inverse_convention_is_told() -> None:
    """What a layer returns moves by g^-1 where the caller moves the inputs by g."""

    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, v: Tensor) -> Tensor:
            return self.layer(v.mT).mT * 2

    inverse = lambda g, inputs: (inputs[0] @ g.to(inputs[0]),)  # noqa: E731
    report = inspect(Mix(), "SO(3)", torch.randn(30, 4, 3), input_action=inverse, output_action=lambda g, y: y @ g.T)
    assert report.fault is not None
    assert report.fault.kind == "convention"
    assert "inverse of g" in report.fault.cause


def test_a_model_that_is_sound_under_rotations_alone_is_told_from_one_that_is_not() -> None:
    planted = FAULTS["PaiNN, pseudovector added"]
    torch.manual_seed(0)
    model = planted.make()
    assert inspect(model, "SO(3)", *planted.entry.inputs(), input_action=planted.entry.transform).is_sound


def test_the_operation_that_overflows_in_the_models_own_precision_is_named() -> None:
    class Weighed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.score = nn.Linear(1, 4, bias=False), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            v = self.mix(x.unsqueeze(-1))
            weights = (500 * self.score(v.norm(dim=1)).abs()).exp()
            return (v * (weights / weights.sum(0)).unsqueeze(1)).sum(0)

    torch.manual_seed(0)
    report = inspect(Weighed(), "SO(3)", torch.randn(9, 3))
    assert not report.is_sound
    assert report.fault is not None
    assert (report.fault.op, report.fault.kind) == ("exp", "rounding")
    assert "gives NaN or infinite values in float32" in report.fault.cause


def test_a_small_fault_is_told_by_what_it_is_and_by_no_convention() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.score = nn.Linear(1, 4, bias=False), nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            many = (len(x), len(x), 3)
            d = nn.functional.pairwise_distance(x[:, None].expand(many), x[None].expand(many), eps=1e-4)
            weights = self.score(d.unsqueeze(-1)).squeeze(-1).softmax(-1)
            return torch.einsum("ij,jdc->idc", weights, self.mix(x.unsqueeze(-1)))

    torch.manual_seed(0)
    report = inspect(Attention().double(), "SO(3)", torch.randn(5, 3).double())
    assert report.fault is not None
    assert report.fault.op == "pairwise_distance"
    assert report.fault.kind != "convention"


def test_the_operation_whose_nan_reaches_the_output_is_named_and_no_mask() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(1, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            lengths = x.norm(dim=-1)
            weights = torch.where(lengths < lengths.mean(), lengths, -torch.inf).softmax(0)
            return self.mix(x.unsqueeze(-1)) * (weights * (lengths - 10).log()).view(-1, 1, 1)

    torch.manual_seed(0)
    report = inspect(Masked(), "SO(3)", torch.randn(9, 3))
    assert not report.is_sound
    assert report.fault is not None
    assert report.fault.op == "log"
    assert report.fault.cause == "log gives NaN or infinite values"
    assert "log gives NaN" in str(report)
