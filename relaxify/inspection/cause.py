"""Cause: why an operation breaks the symmetry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A kind, for machines, and a sentence, for people."""

    kind: str
    words: str
