"""On the axes of all factors of a product each acts as on its own, wherever its axes are: together they are one matrix."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import random, seeds

from relaxify import Group, Representation, irreps
from relaxify.evidence.products import LARGEST_JOINT, joint
from relaxify.evidence.transformations import Transformation
from relaxify.sites import Features

FACTORS = {"O(3)": "1x1o", "SO(2)": "1x0+1x2", "S(4)": "1xvector", "S(3)": "1xsign", "SO(1,3)": "1xvector"}


def carried(name: str, axis: int | None) -> tuple[Representation, Transformation]:
    """A representation on an axis of a value; on None, that nothing moves."""
    group = Group.parse(name)
    if axis is None:
        return Representation.trivial(group), Transformation("invariant")
    own = irreps(group, FACTORS[name])
    actions = own.act(torch.eye(own.dim, dtype=torch.float64)).mT
    return own, Transformation("linear", (axis,) if own.dim > 1 else (), actions)


@settings(max_examples=25, deadline=None)
@given(st.permutations([-4, -3, -2, None]), st.lists(st.sampled_from(sorted(FACTORS)), min_size=2, max_size=3), seeds)
def test_a_pair_of_elements_acts_as_each_in_turn(axes: list[int | None], names: list[str], seed: int) -> None:
    factors = [carried(name, axis) for name, axis in zip(names, axes, strict=False)]
    sizes = dict.fromkeys((-4, -3, -2), 2) | {-1: 3}
    sizes |= {each.axes[0]: own.dim for own, each in factors if each.axes}
    value = random(*(sizes[axis] for axis in (-4, -3, -2, -1)), seed=seed)
    group = Group.product(*map(Group.parse, names))
    found = joint(group, [each for _, each in factors], tuple(value.shape))
    drawn = group.random(torch.Generator().manual_seed(seed))
    expected = value
    letter = start = 0
    for (own, each), factor in zip(factors, group.factors, strict=True):
        word = tuple(x - letter for x in drawn.word if letter <= x < letter + len(factor.finite))
        count = len(factor.generators)
        g = own.rho(type(drawn)(drawn.coefficients[start : start + count], word))
        letter, start = letter + len(factor.finite), start + count
        expected = Features(each.axes).apply(g, expected) if each.axes else g.squeeze() * expected
    if found.kind == "invariant":
        torch.testing.assert_close(expected, value)
        return
    assert found.actions is not None
    matrix = Representation.of(group, "joint", 1, found.actions).rho(drawn)
    moved = Features(found.axes).apply(matrix, value) if found.axes else matrix.squeeze() * value
    torch.testing.assert_close(moved, expected)


def test_two_factors_may_act_on_one_axis() -> None:
    group = Group.parse("SO(3) x O(1)")
    vector = Transformation("linear", (-1,), group.factors[0].generators)
    minus = Transformation("linear", (-1,), -torch.eye(3, dtype=torch.float64)[None])
    found = joint(group, [vector, minus], (7, 3))
    assert found.axes == (-1,)
    assert torch.equal(found.actions, torch.cat([vector.actions, minus.actions]))


def test_what_one_factor_leaves_open_or_breaks_is_open_or_broken() -> None:
    group = Group.parse("SO(3) x S(200)")
    vector = Transformation("linear", (-1,), group.factors[0].generators)
    for kind in ("none", "undecided", "zero"):
        assert joint(group, [vector, Transformation(kind)], (9, 200, 3)).kind == kind
    points = Transformation("linear", (-2,), group.factors[1].finite)
    assert LARGEST_JOINT < 3 * 200
    assert joint(group, [vector, points], (9, 200, 3)).beyond
