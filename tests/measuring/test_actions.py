"""How inputs move where the user does not say: vectors, positions, images; and what is asked instead of guessed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from relaxify import Group, inspect, plan
from relaxify.verdicts.action_errors import ActionError, Remedy
from relaxify.verdicts.default_action import default_action


class Update(nn.Module):
    """New positions: those pulled towards, or pushed off, the middle; or shrunk towards the origin, which is some place."""

    def __init__(self, *, of_the_origin: bool = False) -> None:
        super().__init__()
        self.of_the_origin = of_the_origin

    def forward(self, x: Tensor) -> Tensor:
        return 0.9 * x if self.of_the_origin else x + torch.tanh(x - x.mean(0))


def test_positions_that_are_alone_are_translated() -> None:
    x = torch.randn(20, 3)
    (g,) = Group.parse("T(3)").generators[:1]
    moved = default_action(Group.parse("T(3)"), (x,))(torch.eye(4).double() + g, (x,))[0]
    torch.testing.assert_close(moved, x + torch.tensor([1.0, 0.0, 0.0]))
    report = inspect(Update(), "T(3)", x)
    assert report.is_sound
    assert [each.transforms for each in report.outputs] == ["position on axis -1"]
    assert not inspect(Update(of_the_origin=True), "T(3)", x).is_sound


@pytest.mark.parametrize(
    ("group", "shapes", "remedy"),
    [
        ("T(3)", [(20, 3), (20, 3)], Remedy.FUNCTION),
        ("T(3)", [(3, 3)], Remedy.FUNCTION),
        ("SO(3)", [(7, 3, 3)], Remedy.SIZES),
        ("SO(3)", [(20, 5)], Remedy.FUNCTION),
        ("C(4)", [(2, 1, 9, 9)], Remedy.PIXELS),
        ("C(4)", [(3, 1, 9, 8)], Remedy.SQUARE),
        ("C(8)", [(3, 1, 9, 9)], Remedy.QUARTERS),
        ("C(8)", [(2, 1, 9, 9)], Remedy.QUARTERS),
        ("SO(2)", [(3, 2, 9, 9)], Remedy.QUARTERS),
    ],
)
def test_what_could_be_meant_in_two_ways_is_asked(group: str, shapes: list[tuple[int, ...]], remedy: Remedy) -> None:
    with pytest.raises(ActionError, match=r"shape|axis") as refusal:
        default_action(Group.parse(group), tuple(torch.ones(shape) for shape in shapes))
    assert refusal.value.remedy is remedy
    assert all(str(shape) in str(refusal.value) for shape in shapes)


def test_whole_numbers_are_told_from_positions() -> None:
    with pytest.raises(ActionError, match=r"input.0 is int64 \(20, 3\), .*; pass floating-point positions\."):
        default_action(Group.parse("SO(3)"), (torch.ones(20, 3, dtype=torch.long),))


class Graph(nn.Module):
    """Sums over neighbours; with a fault, of nodes that are known by their number."""

    def __init__(self, *, knows_numbers: bool = False) -> None:
        super().__init__()
        self.mix, self.knows_numbers = nn.Linear(4, 4), knows_numbers

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        sums = torch.zeros_like(x).index_add(0, edge_index[1], self.mix(x)[edge_index[0]]).tanh()
        return sums + x * torch.arange(len(x)).to(x)[:, None] if self.knows_numbers else sums


EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 0, 3]])


@pytest.mark.parametrize("knows_numbers", [False, True])
def test_edges_known_by_their_name_are_renamed_with_their_nodes(knows_numbers: bool) -> None:
    model, keywords = Graph(knows_numbers=knows_numbers), {"x": torch.randn(6, 4), "edge_index": EDGES}
    report = inspect(model, "S(6)", keywords=keywords)
    assert report.is_sound is not knows_numbers
    assert plan(model, "S(6)", example_inputs=keywords).moved["edge_index"] == "numbers of what is permuted"


def test_a_permutation_takes_an_edge_to_where_its_nodes_go() -> None:
    group = Group.parse("S(6)")
    given = {"x": torch.eye(6)[:, :5], "edge_index": EDGES}
    act = default_action(group, given)
    for _ in range(5):
        moved = act(g := torch.eye(6)[torch.randperm(6)], given)
        assert moved["edge_index"].dtype == torch.int64
        # the rows that an edge names are the rows that it named
        assert torch.equal(moved["x"][moved["edge_index"]], given["x"][EDGES])
        assert torch.equal(moved["x"], g @ given["x"])


@pytest.mark.parametrize("numbers", [EDGES, EDGES.int(), EDGES.T, EDGES[0]], ids=["edges", "int32", "rows", "one end"])
def test_numbers_that_may_be_those_of_nodes_are_asked_about(numbers: Tensor) -> None:
    with pytest.raises(ActionError, match=r"of numbers below 6: whether these are those of what S\(6\) permutes is ambig"):
        default_action(Group.parse("S(6)"), (torch.randn(6, 4), numbers))


def test_numbers_that_cannot_be_those_of_nodes_stay() -> None:
    given = (torch.randn(6, 4), EDGES + 1, EDGES - 1, torch.tensor(3), torch.zeros(2, 5, dtype=torch.bool))
    moved = default_action(Group.parse("S(6)"), given)(torch.eye(6)[[1, 2, 3, 4, 5, 0]], given)
    assert all(torch.equal(a, b) for a, b in zip(moved[1:], given[1:], strict=True))
