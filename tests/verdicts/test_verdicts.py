"""What inspect, plan and assert_equivariant say of each model of the corpus is true, and where it breaks is named right."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from verdicts.corpus import DOMAINS, LIBRARIES
from verdicts.process import output_of

NAMED_RIGHT = 0.95

WRONG: frozenset[str] = frozenset(
    {
        "images: divergence with y downwards",
        "outputs: classes alone",
        "outputs: an object of the user's own",
        "outputs: a number",
        "sets: histogram",
        "sets: the largest item marked",
        "states: numpy's random numbers",
        "states: Python's random numbers",
        "states: a generator of its own",
        "wild: hessians",
        "wild: complex harmonics out",
        "wild: lengths as words",
    }
)
"""Models of which something untrue is said so far. A name leaves the list when it is told right; none is added."""

MISNAMED: frozenset[str] = frozenset(
    {
        "irreps: wrong parity",
        "irreps: odd scalars in an mlp",
        "steerable: relu on vectors at the end",
        "steerable: max pooling on an odd size",
    }
)
"""Broken models of steerable and tensor-product libraries whose first operation is not named right so far."""


@pytest.mark.parametrize(
    "domains",
    [
        pytest.param([domain for domain in DOMAINS if domain not in LIBRARIES], id="plain torch"),
        pytest.param(LIBRARIES, id="libraries"),
    ],
)
def test_the_verdicts_are_true(domains: Sequence[str]) -> None:
    scores = output_of("verdicts", "--json", *domains)
    assert [line for score in scores if score["name"] not in WRONG for line in score["wrong"]] == []
    misnamed = {score["name"]: score["misnamed"] for score in scores if score["misnamed"] and score["name"] not in MISNAMED}
    assert len(misnamed) <= (1 - NAMED_RIGHT) * sum(score["faulty"] for score in scores), misnamed
