"""Every bad input gets one sentence, and docs/errors.md says which."""

from __future__ import annotations

import re

import pytest
from bad_inputs import CASES, PAGE, page, said


def test_the_page_is_what_is_said() -> None:
    assert page() == PAGE.read_text()


def test_there_are_many() -> None:
    assert sum(map(len, CASES.values())) >= 60


@pytest.mark.parametrize("title", CASES)
def test_each_is_one_sentence_and_leaves_all_as_it_was(title: str) -> None:
    for case in CASES[title]:
        _, code, shown = said(case)
        assert code in (1, 2), case.what
        assert shown.isprintable(), case.what
        assert shown.endswith("."), case.what
        assert re.search(r"[;:(]", shown), case.what
        assert "unexpected" not in shown, case.what
