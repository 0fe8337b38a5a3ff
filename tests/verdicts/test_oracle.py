"""The labels of the corpus are true: measured without a line of what they judge."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from verdicts import oracle
from verdicts.corpus import BY_DOMAIN, ENTRIES
from verdicts.entry import BROKEN, LATENT, NEVER, SOUND, UNSEEN, Entry

EXACT = 1e-6
"""Of a sound model, in float64: where constants are kept in float32, these are equivariant to their own digits."""
TORN = 1e-5

LABELLED = {
    SOUND: lambda error, trained: error <= EXACT and trained() <= EXACT,
    BROKEN: lambda error, trained: error >= TORN,
    LATENT: lambda error, trained: error <= EXACT and trained() >= TORN,
    NEVER: lambda error, trained: math.isnan(error),
}


@pytest.mark.parametrize("entry", [pytest.param(e, id=name) for name, e in ENTRIES.items() if e.label != UNSEEN])
def test_the_label_is_what_is_measured(entry: Entry) -> None:
    error = oracle.error(entry)
    assert LABELLED[entry.label](error, lambda: oracle.error(entry, trained=True)), f"{entry.label}, error {error:.1e}"


@pytest.mark.parametrize("entry", [pytest.param(e, id=name) for name, e in ENTRIES.items() if e.label == BROKEN])
def test_a_broken_model_is_seen_to_be_broken_on_the_inputs_that_it_is_judged_on(entry: Entry) -> None:
    assert oracle.error(entry, seeds=1) >= TORN


def test_no_two_entries_share_a_name() -> None:
    assert len(ENTRIES) == sum(map(len, BY_DOMAIN.values()))


def test_there_are_enough_of_both() -> None:
    counts = Counter(entry.label for entry in ENTRIES.values())
    assert counts[SOUND] >= 70
    assert counts[BROKEN] >= 70


@pytest.mark.parametrize("entry", [pytest.param(e, id=name) for name, e in ENTRIES.items()])
def test_where_it_breaks_is_told_of_those_that_break(entry: Entry) -> None:
    assert bool(entry.fault) == (entry.label in (BROKEN, LATENT))
