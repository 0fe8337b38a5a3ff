"""Long tables, a line for each row: as wide as they must be where no terminal reads them, so that programs can."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Column, Table

from relaxify_cli.errors import printable, shown

# rich takes long to lay out long tables
BATCH = 300


def in_columns(out: Console, rows: Iterable[Sequence[str]], *columns: Column) -> None:
    """Print rows in columns. Cells are names from files: printed as they are, and nothing in them is markup."""
    found = list(rows)
    widths = [max(len(row[at]) for row in found) for at in range(len(columns))] if len(found) > BATCH else []
    for column, width in zip(columns, widths, strict=False):
        column.min_width = width
    table = Table(*columns, box=None)
    for row in found[:BATCH]:
        table.add_row(*map(shown, row))
    out.print(table)
    for row in found[BATCH:]:
        cells = (f"{printable(cell):{width}}" for cell, width in zip(row, widths, strict=True))
        out.file.write(f" {'  '.join(cells).rstrip()}\n")


def in_bytes(size: int) -> str:
    """A size in the unit that suits it.

    >>> in_bytes(512), in_bytes(1_500_000)
    ('512 B', '1.5 MB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"
