"""Equivariant models from the wild, one file a family, each with the linear ops that a person finds by reading it.

Every file of this folder that defines `ENTRIES` is part of the zoo.
"""

import importlib
import pkgutil

from zoo.entry import Entry


def _entries() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith(("test_", "__")):
            continue
        for entry in getattr(importlib.import_module(f"zoo.{module.name}"), "ENTRIES", ()):
            if entry.name in found:
                raise ValueError(f"two entries of the zoo are called {entry.name!r}; rename one of them.")
            found[entry.name] = entry
    return found


ENTRIES = _entries()
