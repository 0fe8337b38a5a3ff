"""`relaxify doctor`: versions, the adapters that are found, and what each extra still needs."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table

from relaxify_cli.errors import shown
from relaxify_cli.extras import Need, extras
from relaxify_cli.options import Json
from relaxify_cli.progress import waiting
from relaxify_cli.reporting import console, say_json

EXAMPLE = "relaxify doctor --json"

LIBRARIES = ("torch", "numpy", "scipy", "safetensors", "jaxtyping", "e3nn", "escnn", "cuequivariance-torch")


def doctor(as_json: Json = False) -> None:
    """Show versions, the adapters found, and what each extra still needs, with the command that installs it.

    What is installed is also imported, in a process of its own: a version that fits is no proof that it works.
    """
    with waiting("importing what the extras bring"):
        needs = extras()
    if as_json:
        lacking = {extra: [need.to_dict() for need in of_extra] for extra, of_extra in needs.items()}
        say_json({"versions": _versions(), "adapters": _adapters(), "extras": lacking})
    else:
        _print(needs, console())


def _versions() -> dict[str, str | None]:
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return {"relaxify": _version("relaxify"), "Python": python, **{name: _version(name) for name in LIBRARIES}}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _adapters() -> list[dict[str, str]]:
    found = []
    for entry in sorted(importlib.metadata.entry_points(group="relaxify.adapters"), key=lambda entry: entry.name):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "?"
        found.append({"name": entry.name, "from": origin, "state": _state(entry)})
    return found


def _state(entry: importlib.metadata.EntryPoint) -> str:
    from relaxify.registry import Adapter

    try:
        adapter = entry.load()
    # a plug-in may fail in any way; this command is there to say how
    except Exception as error:
        return f"cannot be loaded ({type(error).__name__}: {error})"
    return "found" if isinstance(adapter, Adapter) and not isinstance(adapter, type) else "is not an adapter"


def _print(needs: Mapping[str, Sequence[Need]], out: Console) -> None:
    versions = Table("library", "version")
    for name, version in _versions().items():
        versions.add_row(name, version or "not installed")
    adapters = Table("adapter", "from", "state")
    for adapter in _adapters():
        adapters.add_row(*(shown(adapter[column]) for column in ("name", "from", "state")))
    for table in (versions, adapters, _table(needs)):
        out.print(table)


def _table(found: Mapping[str, Sequence[Need]]) -> Table:
    table = Table("extra", "state", Column("fix", overflow="fold"))
    for name, needs in found.items():
        state = "; ".join(need.why for need in needs) or "works"
        fixes = dict.fromkeys(need.fix for need in needs)
        table.add_row(shown(name), shown(state), "\n".join(map(shown, fixes)))
    return table
