"""What inspect, plan and assert_equivariant say of each model of the corpus is true, and where it breaks is named right."""

from __future__ import annotations

import pytest

from verdicts.corpus import DOMAINS
from verdicts.process import output_of
from verdicts.table import documented, total

NAMED_RIGHT = 0.95
PROCESSES = 4
"""Importing what the corpus needs takes as long as judging many of its models."""


@pytest.mark.parametrize("domains", [DOMAINS[k::PROCESSES] for k in range(PROCESSES)], ids=" ".join)
def test_the_verdicts_are_true(domains: tuple[str, ...]) -> None:
    found = output_of("verdicts", "--json", *domains)
    assert [line for score in found["models"] for line in score["wrong"]] == []
    for domain in domains:
        scores = [score for score in found["models"] if score["name"].startswith(f"{domain}: ")]
        misnamed = {score["name"]: score["misnamed"] for score in scores if score["misnamed"]}
        assert len(misnamed) <= (1 - NAMED_RIGHT) * sum(score["faulty"] for score in scores), misnamed
    expected = [documented()[domain] for domain in domains]
    assert found["rows"] == expected, "docs/inspect.md tells otherwise: cd tests && python -m verdicts --table"


def test_the_totals_of_the_table_are_those_of_its_rows() -> None:
    *domains, totals = documented().values()
    assert [row[0] for row in domains] == list(DOMAINS)
    assert total(domains) == totals
