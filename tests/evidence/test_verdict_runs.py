"""What the recorded runs of a sound verdict tell is what fits tell, and where they leave something open, fits are made."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from relaxify.evidence.analysis import Analysis, analyse, analyse_verdict
from relaxify.evidence.verdict_runs import Tape, evidence_of
from relaxify.groups import Group
from relaxify.representations import Representation
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


class Flattened(Lengths):
    """Several vectors along one axis, one after the other or interleaved."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        vectors: Tensor = self.mix(x)
        return vectors.flatten(1), vectors.mT.flatten(1)


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
        assert (found.kind, found.axes) == (expected.kind, expected.axes)
        assert found.actions is None or torch.equal(found.actions, torch.as_tensor(expected.actions))
        if expected.kind == "none":
            assert found.residual > 1e-3


def test_several_vectors_along_one_axis_are_told_from_few_samples() -> None:
    told, _ = both(Flattened(), "SO(3)", cloud(20))
    assert told is not None
    for node, layout in zip(told.evidence.nodes[-1].all_input_nodes, ("component_major", "channel_major"), strict=True):
        found = told.evidence.of(node)
        vectors = Representation.defining(told.evidence.group, 6, layout)
        assert (found.kind, found.axes) == ("linear", (-1,))
        assert torch.equal(torch.as_tensor(found.actions), vectors.act(torch.eye(18, dtype=torch.float64)).mT)


def test_where_only_some_values_are_asked_for_the_others_are_undecided() -> None:
    model, parsed, x = Lengths(), Group.parse("SO(3)"), cloud()
    tape = Tape(lambda recording: set(recording.nodes[-1].all_input_nodes))
    measured = measurement(model, parsed, (x,), runner=tape)
    assert measured.orbit is not None
    evidence = evidence_of(parsed, tape.runs, measured.orbit)
    assert evidence is not None
    told = [node for node in evidence.nodes if node.op == "call_function" and evidence.of(node).kind != "undecided"]
    assert told == evidence.nodes[-1].all_input_nodes


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
