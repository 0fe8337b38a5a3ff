"""What the recorded runs of a sound verdict tell is what fits tell, and where they leave something open, fits are made."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from relaxify.evidence.analysis import Analysis, analyse, analyse_verdict
from relaxify.evidence.verdict_runs import Tape
from relaxify.groups import Group
from relaxify.sites import Site
from relaxify.verdicts.measuring import measurement


class Lengths(nn.Module):
    """Vectors in channels, mixed, then their lengths, mixed; with a product of components on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 6, bias=False)
        self.score = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        vectors: Tensor = self.mix(x)
        return vectors, self.score((vectors * vectors).sum(dim=-2))


class Squared(Lengths):
    """A linear map of r r^T, which is neither a vector nor invariant."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        vectors: Tensor = self.mix(x)
        pairs = vectors.unsqueeze(-2) * vectors.unsqueeze(-3)
        return self.score(pairs), pairs.sum(dim=-1)


def both(model: nn.Module, group: str, x: Tensor) -> tuple[Analysis | None, Analysis]:
    tape, parsed = Tape(), Group.parse(group)
    measured = measurement(model, parsed, (x,), runner=tape)
    claims: Sequence[Site] = []
    told = analyse_verdict(model, parsed, (x,), None, claims, measured, tape.runs)
    return told, analyse(model, parsed, (x,), None, claims)


def cloud(points: int = 16) -> Tensor:
    return torch.randn(points, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("group", ["SO(3)", "O(3)"])
def test_values_are_told_as_fits_tell_them(group: str) -> None:
    told, fitted = both(Lengths(), group, cloud())
    assert told is not None
    assert told.observer.runs == 0
    assert told.calls.keys() == fitted.calls.keys() == {"mix", "score"}
    for one, other in zip(told.evidence.nodes, fitted.evidence.nodes, strict=True):
        found, expected = told.evidence.of(one), fitted.evidence.of(other)
        if found.kind != "undecided":
            assert (found.kind, found.axes) == (expected.kind, expected.axes)
            assert found.actions is None or torch.equal(found.actions, torch.as_tensor(expected.actions))


@pytest.mark.parametrize(
    ("model", "group", "x"),
    [
        pytest.param(Squared(), "SO(3)", cloud(), id="tensors"),
        pytest.param(Lengths(), "SO(3)", cloud(1)[:, :, :4], id="few samples"),
        pytest.param(nn.Linear(3, 3, bias=False), "SO(3)", cloud().mT, id="broken"),
    ],
)
def test_what_the_runs_leave_open_is_left_to_fits(model: nn.Module, group: str, x: Tensor) -> None:
    assert both(model, group, x)[0] is None


def test_a_number_that_multiplies_all_is_no_vector() -> None:
    model = nn.Linear(4, 4, bias=False)
    told, _ = both(model, "Scale(2)", torch.randn(16, 2, 4, generator=torch.Generator().manual_seed(0)))
    assert told is None
