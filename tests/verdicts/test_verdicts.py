"""What inspect, plan and assert_equivariant say of each model of the corpus is true, and where it breaks is named right."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from verdicts.corpus import DOMAINS, LIBRARIES
from verdicts.process import output_of

NAMED_RIGHT = 0.95


@pytest.mark.parametrize(
    "domains",
    [
        pytest.param([domain for domain in DOMAINS if domain not in LIBRARIES], id="plain torch"),
        pytest.param(LIBRARIES, id="libraries"),
    ],
)
def test_the_verdicts_are_true(domains: Sequence[str]) -> None:
    scores = output_of("verdicts", "--json", *domains)
    assert [line for score in scores for line in score["wrong"]] == []
    misnamed = {score["name"]: score["misnamed"] for score in scores if score["misnamed"]}
    assert len(misnamed) <= (1 - NAMED_RIGHT) * sum(score["faulty"] for score in scores), misnamed
