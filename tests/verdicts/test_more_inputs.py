"""Outputs of few entries: broken where no linear map takes f(x) to f(g x) on many inputs; never sound because one does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from relaxify.verdicts.measuring import measure
from relaxify.verdicts.verdict import Status


class Total(nn.Module):
    """One four-vector for a jet, after an activation."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.mix, self.act = nn.Linear(1, 3, bias=False), act

    def forward(self, p: Tensor) -> Tensor:
        return self.act(self.mix(p.unsqueeze(-1))).sum((0, -1))


class InAnotherBasis(nn.Module):
    def forward(self, v: Tensor) -> Tensor:
        return (v.mT * torch.arange(1.0, 5.0).to(v)).mT


@pytest.mark.parametrize(
    ("act", "status"),
    [(nn.Identity(), Status.SOUND), (nn.Tanh(), Status.BROKEN), (InAnotherBasis(), Status.UNDECIDED)],
    ids=["sound", "bent", "in another basis"],
)
def test_one_four_vector_is_told(act: nn.Module, status: Status) -> None:
    torch.manual_seed(0)
    assert measure(Total(act), "SO(1,3)", (torch.randn(9, 4),)).status is status
