"""What inspect, plan and assert_equivariant say of each model of the corpus is true, and where it breaks is named right."""

from __future__ import annotations

import functools

import pytest

from verdicts.corpus import ENTRIES
from verdicts.entry import FAULTY, LATENT, Entry
from verdicts.scoring import Score, refuses, score

NAMED_RIGHT = 0.95

EACH = pytest.mark.parametrize("name", list(ENTRIES))


@functools.cache
def scored(name: str) -> Score:
    return score(ENTRIES[name])


@EACH
def test_nothing_is_called_sound_that_is_not(name: str) -> None:
    found = scored(name)
    assert not found.false_sound, found.verdicts


@EACH
def test_nothing_is_called_broken_that_is_sound(name: str) -> None:
    found = scored(name)
    assert not found.false_broken, f"{found.verdicts}: {found.words}"


@EACH
def test_there_is_a_verdict_or_a_sentence(name: str) -> None:
    found = scored(name)
    assert not found.crashed
    assert not found.unspoken, found.words


@EACH
def test_the_users_model_and_inputs_stay_as_they_are(name: str) -> None:
    assert not scored(name).changed


def test_the_first_operation_that_breaks_is_named() -> None:
    scores = [scored(name) for name, entry in ENTRIES.items() if entry.label in FAULTY]
    wrong = {found.entry.name: (found.named, found.entry.fault) for found in scores if not found.named_right}
    assert len(wrong) <= (1 - NAMED_RIGHT) * len(scores), wrong


@pytest.mark.parametrize("entry", [pytest.param(e, id=name) for name, e in ENTRIES.items() if e.label == LATENT])
def test_strict_relaxation_refuses_what_will_break_once_trained(entry: Entry) -> None:
    assert refuses(entry)
