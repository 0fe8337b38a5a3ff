"""`relaxify diff`: what differs between two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column

from relaxify_cli.errors import THRESHOLD, shown
from relaxify_cli.options import Json
from relaxify_cli.reporting import console, say_json
from relaxify_cli.tables import in_columns

if TYPE_CHECKING:
    from relaxify.checkpoint import Comparison, Difference

EXAMPLE = "relaxify diff plain.safetensors other.pt"


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A .safetensors, .pt, index or folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same kind or not.")],
    as_json: Json = False,
) -> None:
    """Say which tensors differ between two checkpoints, and by how much. Exit code 1 if any does.

    |A - B| is the largest difference of an entry, relative to the largest |A| of the tensor.
    """
    from relaxify.checkpoint import compare

    found = compare(a, b)
    if as_json:
        say_json(found.to_dict())
    else:
        print_comparison(found, console())
    if not found.is_equal:
        raise typer.Exit(THRESHOLD)


def print_comparison(found: Comparison, out: Console, most: int | None = None) -> None:
    """What differs, of each kind the first ones only if there is a bound."""
    for path, keys in ((found.a, found.only_a), (found.b, found.only_b)):
        if keys:
            out.print(f"[bold]Only in {shown(str(path))}[/bold]", soft_wrap=True)
            in_columns(out, ((key,) for key in keys[:most]), Column("key", overflow="fold"))
    if found.differing:
        out.print("[bold]Different in A and B[/bold]")
        numbers = [Column(name, justify="right") for name in ("|A - B|", "relative", "entries")]
        kinds = [Column("A"), Column("B")] if any(each.a != each.b for each in found.differing) else []
        rows = (_cells(each)[: 4 + len(kinds)] for each in found.differing[:most])
        in_columns(out, rows, Column("key", overflow="fold"), *numbers, *kinds)
    alike = "no tensor is the same" if not found.same else f"{_tensors(found.same)} the same"
    if found.is_equal:
        out.print(f"No difference: {alike}.")
    else:
        only = len(found.only_a) + len(found.only_b)
        out.print(f"{_tensors(len(found.differing))} different, {only} in one of them alone; {alike}.")


def _tensors(count: int) -> str:
    return "1 tensor is" if count == 1 else f"{count:,} tensors are"


def _cells(each: Difference) -> tuple[str, ...]:
    numbers = ("-" if value is None else f"{value:.2e}" for value in (each.largest, each.relative))
    entries = "-" if each.entries is None else f"{each.entries:,}"
    kinds = ("", "") if each.a == each.b else (each.a, each.b)
    return each.key, *numbers, entries, *kinds
