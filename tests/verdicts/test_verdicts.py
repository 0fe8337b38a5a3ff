"""What inspect, plan and assert_equivariant say of each model of the corpus is true, and where it breaks is named right."""

from __future__ import annotations

import pytest

from verdicts.corpus import DOMAINS
from verdicts.process import output_of
from verdicts.table import documented, total

NAMED_RIGHT = 0.95


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_verdicts_are_true(domain: str) -> None:
    found = output_of("verdicts", "--json", domain)
    scores = found["models"]
    assert [line for score in scores for line in score["wrong"]] == []
    misnamed = {score["name"]: score["misnamed"] for score in scores if score["misnamed"]}
    assert len(misnamed) <= (1 - NAMED_RIGHT) * sum(score["faulty"] for score in scores), misnamed
    assert found["rows"] == [documented()[domain]], "docs/inspect.md tells otherwise: cd tests && python -m verdicts --table"


def test_the_totals_of_the_table_are_those_of_its_rows() -> None:
    *domains, totals = documented().values()
    assert [row[0] for row in domains] == list(DOMAINS)
    assert total(domains) == totals
