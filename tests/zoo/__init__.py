"""Equivariant models from the wild, one file a family, each with the linear ops that a person finds by reading it.

Every file of this folder that defines `ENTRIES` is part of the zoo.
"""

import importlib
import pkgutil

from zoo.entry import Entry

_MODULES = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("test_")]

ENTRIES: dict[str, Entry] = {
    entry.name: entry for name in _MODULES for entry in getattr(importlib.import_module(f"zoo.{name}"), "ENTRIES", ())
}
