"""Symbolic tracing reaches what it can, says where it stops, and leaves the model as it was."""

from __future__ import annotations

from pathlib import Path

import torch
from e3nn import o3
from torch import Tensor, nn

from models.vn_pointnet import VNPointNet
from relaxify import plan
from relaxify.graph.symbolic import functional_ops, trace


class Mixed(nn.Module):
    """Two parts that trace, under a forward that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.mix = Mix()
        self.scripted = torch.jit.script(nn.Linear(3, 3))
        self.bare = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        if x.sum() > 0:
            x = -x
        return self.head(self.mix(self.scripted(x)))


class Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oi,...i->...o", self.weight, x)


def statement(location: str) -> str:
    file, line = location.rsplit(":", 1)
    return Path(file).read_text().splitlines()[int(line) - 1].strip()


def test_what_fails_as_a_whole_is_split_into_islands_and_the_statement_is_named() -> None:
    tracing = trace(Mixed(), [])
    assert [(island.path, island.operations) for island in tracing.islands] == [("head", 2), ("mix", 1)]
    (obstacle,) = tracing.obstacles
    assert obstacle.path == ""
    assert statement(obstacle.location) == "if x.sum() > 0:"
    assert "control flow" in obstacle.reason


def test_functional_ops_are_named_with_their_parameter_and_statement() -> None:
    (found,) = functional_ops(trace(Mixed(), []))
    assert (found.path, found.op) == ("mix.weight", "einsum")
    assert statement(found.location) == 'return torch.einsum("oi,...i->...o", self.weight, x)'


def test_tracing_leaves_no_trace() -> None:
    model, rng = Mixed(), torch.get_rng_state()
    trace(model, [])
    assert not hasattr(model, "seen")
    assert torch.equal(torch.get_rng_state(), rng)


def test_leaves_stay_whole() -> None:
    model = nn.Sequential(o3.Linear("2x1o", "2x1o"), nn.Linear(6, 6))
    (island,) = trace(model, [model[0]]).islands
    assert [node.target for node in island.graph.nodes if node.op == "call_module"] == ["0", "1"]


def test_a_model_that_traces_is_one_island() -> None:
    result = plan(VNPointNet(num_classes=4, n_knn=4, width=12), "SO(3)")
    assert [island.path for island in result.islands] == [""]
    assert result.tracing.obstacles == ()


def test_a_model_that_cannot_be_copied_is_an_obstacle() -> None:
    class Unique(nn.Module):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("there is but one")

    tracing = trace(nn.Sequential(Unique(), nn.Linear(2, 2)), [])
    assert tracing.islands == ()
    assert [obstacle.reason for obstacle in tracing.obstacles] == ["it cannot be copied: there is but one"]


def test_without_example_inputs_what_only_they_could_tell_is_listed() -> None:
    result = plan(nn.ModuleDict({"known": o3.Linear("2x1o", "2x1o"), "mixed": Mixed()}), "O(3)")
    reasons = {rejected.path: rejected.reason for rejected in result.rejected}
    assert set(reasons) == {"mixed.head.0", "mixed.bare", "mixed.mix.weight"}
    assert set(reasons.values()) == {"its type proves nothing; pass example_inputs=(...) so that it is judged by its values"}
