"""What is said of input that cannot be judged: one sentence that names the thing, the reason and what to do instead."""

from __future__ import annotations

import functools
import re

import pytest
from torch import nn

import relaxify
from verdicts.messages import BAD, Bad, vectors
from verdicts.process import output_of


@functools.cache
def words() -> dict[str, tuple[str, str]]:
    """As a user sees it: the tests' own checks of annotations would speak first."""
    found: dict[str, tuple[str, str]] = output_of("verdicts.messages")
    return found


@pytest.mark.parametrize(("call", "bad"), [pytest.param(call, bad, id=call) for bad in BAD for call in bad.calls])
def test_what_cannot_be_judged_is_refused_in_a_sentence(call: str, bad: Bad) -> None:
    kind, message = words()[call]
    assert kind in (("undecided", "AssertionError") if bad.undecided else ("ValueError", "TypeError")), message
    assert is_a_sentence(message), message
    assert [pattern for pattern in bad.says if not re.search(pattern, message)] == [], message


def is_a_sentence(message: str) -> bool:
    """One line that ends as a sentence does, of a length that one reads."""
    return "\n" not in message.strip() and message.rstrip().endswith(".") and len(message) < 500


def test_ambiguity_is_put_in_the_words_of_python() -> None:
    assert "--" not in words()["two axes of the group's size, inspect"][1]


def test_a_plan_without_inputs_says_that_the_whole_model_was_not_checked() -> None:
    model: nn.Module = vectors()
    assert "example_inputs" in str(relaxify.plan(model, "SO(3)"))
