"""Damaged files are used right or refused in one sentence: a few of each kind here, and many with `make fuzz`."""

from __future__ import annotations

import pytest
from fuzz import KINDS, draw


@pytest.mark.parametrize("kind", KINDS)
def test_damage_raises_nothing_else(kind: str) -> None:
    draw(kind, 60)
