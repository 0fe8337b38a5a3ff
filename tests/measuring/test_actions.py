"""How inputs move where the user does not say: vectors, positions, images; and what is asked instead of guessed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from relaxify import Group, inspect
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
