"""The labels of the corpus are true: measured without a line of what they judge."""

from __future__ import annotations

import functools
import math
import warnings
from collections import Counter

import pytest

from verdicts import oracle
from verdicts.corpus import entries
from verdicts.entry import BROKEN, FAULTY, LATENT, NEVER, SOUND, UNSEEN, Entry

ENTRIES = entries()

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
    # a fault has to show on the inputs on which the model is judged
    trained = functools.partial(oracle.error, entry, trained=True, seeds=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error = oracle.error(entry, seeds=1 if entry.label == BROKEN else 2)
        assert LABELLED[entry.label](error, trained), f"{entry.label}, error {error:.1e}"


def test_there_are_enough_of_both() -> None:
    counts = Counter(entry.label for entry in ENTRIES.values())
    assert counts[SOUND] >= 70
    assert counts[BROKEN] >= 70


def test_where_it_breaks_is_told_of_those_that_break() -> None:
    assert [name for name, entry in ENTRIES.items() if bool(entry.fault) != (entry.label in FAULTY)] == []
