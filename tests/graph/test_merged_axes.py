"""A product after a view that merged axes is the same product on the axes that there were before."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import random

from relaxify.graph.contractions import contraction
from relaxify.graph.merged_axes import unmerged
from relaxify.sites import Features

sizes = st.integers(1, 3)


@given(st.lists(st.lists(sizes, min_size=1, max_size=3), min_size=2, max_size=3), st.data())
def test_a_product_on_merged_axes_is_the_product_on_each(groups: list[list[int]], data: st.DataObject) -> None:
    """Whatever axes a view has merged around the one that is contracted, on either side."""
    at = data.draw(st.integers(0, len(groups) - 1))
    groups[at] = groups[at][:1]
    flat, whole = tuple(map(math.prod, groups)), tuple(size for group in groups for size in group)
    letters = "abc"[: len(flat)]
    equation = f"z{letters[at]},{letters}->{letters.replace(letters[at], 'z')}"
    x, weight = random(*whole), random(5, flat[at], seed=1)
    y = torch.einsum(equation, weight, x.reshape(flat))
    found = contraction(
        torch.einsum, (equation, weight, x.reshape(flat)), {}, lambda t: t is weight, lambda t: tuple(t.shape)
    )
    assert found is not None
    before = unmerged(found, flat, whole, tuple(y.shape))
    if before is None:
        assert [size for size in flat if size != 1] == [size for size in whole if size != 1] or flat[at] == 1
        return
    form = before.contraction
    rows = Features(form.axes_in).rows(x.reshape(before.data)) @ weight.mT
    result = y.reshape(before.result)
    torch.testing.assert_close(Features(form.axes_out).restore(rows, like=result), result)


@given(st.permutations([2, 3, 4]))
def test_a_view_that_is_no_merging_gives_nothing(order: list[int]) -> None:
    """(6, 4) came from (2, 3, 4) or (3, 2, 4), by axes that stand beside each other, and from no other order."""
    x, weight = torch.zeros(6, 4), torch.zeros(5, 4)
    found = contraction(torch.nn.functional.linear, (x, weight), {}, lambda t: t is weight, lambda t: tuple(t.shape))
    assert found is not None
    assert (unmerged(found, (6, 4), tuple(order), (6, 5)) is not None) is (order[-1] == 4)
