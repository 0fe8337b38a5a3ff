"""`relaxify show`: what is in a checkpoint file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from relaxify_cli.errors import shown
from relaxify_cli.options import Json
from relaxify_cli.reporting import console, say_json
from relaxify_cli.tables import in_bytes, in_columns

if TYPE_CHECKING:
    from relaxify.checkpoint import Contents, StateContents, TensorContents, Totals

EXAMPLE = "relaxify show relaxed.safetensors"


def show(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A .safetensors, .pt, index or folder.")],
    as_json: Json = False,
) -> None:
    """Show what is in a checkpoint: its tensors, its terms and their theta, and what else there is. Runs no code of it."""
    from relaxify.checkpoint import contents

    found = contents(checkpoint)
    if as_json:
        # a NaN theta is null: JSON has none
        say_json(found.to_dict())
    else:
        _print(found, console())


def _print(found: Contents, out: Console) -> None:
    out.print(f"[bold]{shown(str(found.path))}[/bold]: {found.kind}, {in_bytes(found.size)}", soft_wrap=True)
    if not found.states:
        out.print("It holds no state dict.")
    for state in found.states:
        out.print()
        _print_state(state, out)
    if found.rest:
        out.print()
        out.print("[bold]Also in the file[/bold]")
        in_columns(out, ((name, what) for name, what in found.rest), Column("name", overflow="fold"), Column("what"))


def _print_state(state: StateContents, out: Console) -> None:
    where = f"State dict at [bold]{shown(state.name)}[/bold]" if state.where else "State dict"
    out.print(f"{where}: {_totals(state.totals())}")
    columns = (Column("key", overflow="fold"), Column("dtype"), Column("shape"), Column("size", justify="right"))
    shares = any(each.same_as is not None for each in state.tensors)
    more = [Column("in the memory of", overflow="fold")] if shares else []
    in_columns(out, (_cells(each)[: len(columns) + len(more)] for each in state.tensors), *columns, *more)
    if state.problem is not None:
        out.print(f"[bold red]Its terms cannot be read[/bold red]: {shown(state.problem)}")
    if state.terms:
        _print_terms(state, out)


def _cells(tensor: TensorContents) -> tuple[str, ...]:
    shape = "x".join(map(str, tensor.shape)) or "()"
    return tensor.key, tensor.dtype, shape, in_bytes(tensor.size), tensor.same_as or ""


def _totals(totals: Totals) -> str:
    dtypes = ", ".join(f"{dtype} {in_bytes(size)}" for dtype, size in totals.by_dtype.items())
    return f"{totals.tensors:,} tensors, {totals.entries:,} entries, {in_bytes(totals.size)} ({dtypes})"


def _print_terms(state: StateContents, out: Console) -> None:
    of_terms, groups = state.totals(of_terms=True), ", ".join(state.groups)
    out.print()
    many = "s" if len(state.terms) > 1 else ""
    out.print(
        f"{len(state.terms)} term{many} for [bold]{shown(groups)}[/bold], record format {shown(', '.join(state.formats))}: "
        f"{of_terms.tensors:,} of the tensors, {in_bytes(of_terms.size)}."
    )
    out.print(_terms(state))


def _terms(state: StateContents) -> Table:
    several = len(state.groups) > 1
    table = Table(
        Column("term", overflow="fold"),
        *([Column("group")] if several else []),
        Column("theta", justify="right"),
        Column("in -> out", overflow="fold"),
        Column("rank", justify="right"),
        Column("adds", justify="right"),
        Column("fold"),
        box=None,
    )
    for term in state.terms:
        rank = "full" if term.rank is None else str(term.rank)
        fold = "yes" if term.unfoldable is None else f"no: {term.unfoldable}"
        first = (term.path, term.group) if several else (term.path,)
        cells = (*first, f"{term.theta:.4g}", f"{term.rep_in} -> {term.rep_out}", rank, f"{term.parameters:,}", fold)
        table.add_row(*map(shown, cells))
    return table
