"""The verdict under a product of groups: what it is under the factors, each moving its own axes of the inputs."""

from __future__ import annotations

import pytest
import torch
from points import GROUP, both, clouds, made
from torch import Tensor, nn

from relaxify import Group
from relaxify.testing import elements, equivariance_error
from relaxify.verdicts import Status, measure
from relaxify.verdicts.action_errors import ActionError
from relaxify.verdicts.actions import action_on
from relaxify.verdicts.default_action import default_action
from relaxify.verdicts.draws import draws


class Mixed(nn.Module):
    """x A on channels, with a part that is the same for all points and one that is the same for all components, or not."""

    def __init__(self, *, turns: bool, permutes: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        points, components = torch.ones(4, 4), torch.eye(3)
        if not permutes:
            points = torch.randn(4, 4, generator=generator)
        if not turns:
            components = torch.randn(3, 3, generator=generator)
        self.points, self.components = nn.Parameter(points), nn.Parameter(components)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("pq,ij,bqj->bpi", self.points, self.components, x) + x


@pytest.mark.parametrize(("turns", "permutes"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_verdict_is_the_worst_of_the_factors(turns: bool, permutes: bool) -> None:
    model, x = Mixed(turns=turns, permutes=permutes), (torch.randn(9, 4, 3),)
    found = measure(model, "SO(3) x S(4)", x, generic=False, own=False)
    assert [each.is_sound for each in found.factors] == [turns, permutes]
    assert found.is_sound is (turns and permutes)
    assert found.error.largest == max(each.error.largest for each in found.factors)
    assert found.to_dict()["factors"][1]["group"] == "S(4)"
    assert ("under S(4) broken" in found.told) is not permutes


def test_the_default_moves_what_each_factor_would() -> None:
    group, x = Group.parse("E(3) x S(5)"), (torch.randn(5, 3), torch.randn(5, 7))
    for g in elements(group):
        turned, shifted = g[:3, :3].float(), g[:3, 3].float()
        moved = default_action(group, x)(g, x)
        torch.testing.assert_close(moved[0], g[4:, 4:].float() @ (x[0] @ turned.mT + shifted))
        torch.testing.assert_close(moved[1], g[4:, 4:].float() @ x[1])


@pytest.mark.parametrize("name", ["O(3) x S(9)", "SO(1,3) x C(4)", "S(8) x S(3)"])
def test_elements_are_pairs_of_the_factors_elements(name: str) -> None:
    group = Group.parse(name)
    for drawn in (draws(group, 0), draws(group, 1)):
        of_factors = [[g.matrix for g in draws(factor, 0 if drawn is draws(group, 0) else 1)] for factor in group.factors]
        for number, g in enumerate(drawn):
            for part, each in zip(group.parts(g.matrix), of_factors, strict=True):
                torch.testing.assert_close(part, each[number % len(each)])


def test_an_output_action_moves_by_the_blocks_of_g() -> None:
    x = (clouds(),)
    assert measure(made(), GROUP, x, output_action=both).is_sound
    assert equivariance_error(made(), GROUP, *x, output_action=both) < 1e-5
    wrong = measure(made(), GROUP, x, output_action=lambda g, y: y)
    assert [each.status for each in wrong.factors] == [Status.BROKEN, Status.BROKEN]


def test_features_are_of_the_factor_that_has_such() -> None:
    x = (torch.randn(6, 5, 4), torch.randn(6, 5, 3))

    class Scaled(nn.Module):
        def forward(self, x: Tensor, v: Tensor) -> Tensor:
            return x * v.norm(dim=-1, keepdim=True)

    act = action_on(Scaled(), GROUP, x, None, {"x": "1x0e+1x1o"})
    assert measure(Scaled(), GROUP, x, input_action=act).is_sound
    with pytest.raises(ValueError, match=r"input_irreps of 'x'"):
        action_on(Scaled(), GROUP, x, None, {"x": "1x7q"})


@pytest.mark.parametrize(
    ("group", "shapes", "sentence"),
    [
        ("O(3) x S(3)", [(8, 3)], r"shape \(8, 3\), on which O\(3\) and S\(3\) do not commute, as factors of"),
        ("O(3) x S(5)", [(5, 5, 3)], r"which axis of size 5 carries vectors of S\(5\) is ambiguous"),
        ("O(3) x S(5)", [(8, 3)], r"no example input has an axis of size 5 that S\(5\) could act on"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_asked(group: str, shapes: list[tuple[int, ...]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        measure(nn.Identity(), group, tuple(torch.randn(shape) for shape in shapes))


@pytest.mark.parametrize("name", ["S(5)", "O(3) x S(5)"])
def test_whole_numbers_that_may_be_permuted_are_asked_about(name: str) -> None:
    with pytest.raises(
        ActionError, match=r"input.0 is int64 \(5,\): whether S\(5\) permutes its axis of size 5 is ambiguous"
    ):
        default_action(Group.parse(name), (torch.zeros(5, dtype=torch.long), torch.randn(5, 3)))
