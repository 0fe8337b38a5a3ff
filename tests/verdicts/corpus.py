"""Every entry of the corpus, by its name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from verdicts.entry import Entry

DOMAINS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("entries_*.py")))

BY_DOMAIN: dict[str, tuple[Entry, ...]] = {
    domain.removeprefix("entries_"): import_module(f"verdicts.{domain}").ENTRIES for domain in DOMAINS
}

ENTRIES: dict[str, Entry] = {f"{domain}: {entry.name}": entry for domain, entries in BY_DOMAIN.items() for entry in entries}
