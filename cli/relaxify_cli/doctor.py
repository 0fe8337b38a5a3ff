"""`relaxify doctor`: versions, the adapters that are found, and what is missing for which extra."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from relaxify_cli.errors import shown

LIBRARIES = ("torch", "numpy", "scipy", "safetensors", "jaxtyping", "e3nn", "escnn", "cuequivariance-torch")


def doctor() -> None:
    """Show versions, the adapters found, and what is missing for which extra."""
    console = Console()
    console.print(_versions())
    console.print(_adapters())
    console.print(_extras())


def _versions() -> Table:
    table = Table("library", "version")
    table.add_row("relaxify", _version("relaxify") or "not installed")
    table.add_row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in LIBRARIES:
        table.add_row(name, _version(name) or "not installed")
    return table


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _adapters() -> Table:
    table = Table("adapter", "from", "state")
    for entry in sorted(importlib.metadata.entry_points(group="relaxify.adapters"), key=lambda entry: entry.name):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "?"
        table.add_row(shown(entry.name), shown(origin), shown(_state(entry)))
    return table


def _state(entry: importlib.metadata.EntryPoint) -> str:
    from relaxify.registry import Adapter

    try:
        adapter = entry.load()
    # a plug-in may fail in any way; this command is there to say how
    except Exception as error:
        return f"cannot be loaded ({type(error).__name__}: {error})"
    return "ready" if isinstance(adapter, Adapter) and not isinstance(adapter, type) else "is not an adapter"


def _extras() -> Table:
    table = Table("extra", "state")
    extras: dict[str, list[str]] = {}
    for extra, distribution, requirement in _requirements():
        missing = extras.setdefault(extra, [])
        if _version(distribution) is None:
            missing.append(requirement)
    for extra, missing in sorted(extras.items()):
        advice = f"missing {', '.join(missing)}: pip install 'relaxify[{extra}]'"
        table.add_row(shown(extra), shown(advice) if missing else "complete")
    return table


def _requirements() -> Iterator[tuple[str, str, str]]:
    """(extra, distribution, requirement) of everything an extra of relaxify brings."""
    for line in importlib.metadata.requires("relaxify") or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        name = re.match(r"[\w.-]+", requirement.strip())
        if extra and name:
            yield extra[1], name[0], requirement.strip()
