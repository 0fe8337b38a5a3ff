"""The entries of the corpus by their names, domain by domain: each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from verdicts.entry import Entry

DOMAINS = tuple(sorted(path.stem.removeprefix("entries_") for path in Path(__file__).parent.glob("entries_*.py")))


def entries(domains: Iterable[str] = DOMAINS) -> dict[str, Entry]:
    """Every entry of some domains, by name."""
    found: dict[str, Entry] = {}
    for domain in domains:
        named = [(f"{domain}: {entry.name}", entry) for entry in import_module(f"verdicts.entries_{domain}").ENTRIES]
        if twice := {name for name, _ in named if sum(name == other for other, _ in named) > 1}:
            raise ValueError(f"two entries have the name {min(twice)!r}; choose another for one.")
        found |= dict(named)
    return found
