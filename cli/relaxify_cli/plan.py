"""`relaxify plan`: what would be relaxed in a model, and what not and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from relaxify_cli.errors import BAD_INPUT

if TYPE_CHECKING:
    from relaxify.relaxation.planning import Plan


def plan(
    model: Annotated[
        str, typer.Argument(metavar="PKG.MOD:FACTORY", help="What makes the model; or path/to/file.py:factory.")
    ],
    group: Annotated[str, typer.Option("--group", "-g", help="The symmetry group, such as SO3.")],
    include: Annotated[list[str] | None, typer.Option(help="Only layers at paths of this pattern; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No layer at paths of this pattern; may be repeated.")] = None,
) -> None:
    """Show which layers of a model would be relaxed, and which not and why. Changes nothing."""
    import relaxify
    from relaxify_cli.loading import build_model

    result = relaxify.plan(build_model(model), group, include=include or (), exclude=exclude or ())
    console = Console()
    if result.sites:
        console.print(f"[bold]Would be relaxed for {result.group.name}[/bold]")
        console.print(_sites(result))
    if result.rejected:
        console.print("[bold]Would be left as they are[/bold]")
        console.print(_rejected(result))
    added = sum(site.added_parameters for site in result.sites)
    if not result.sites:
        console.print(f"No layer can be relaxed for {result.group.name}.")
        raise typer.Exit(BAD_INPUT)
    worst = max(site.proof or 0.0 for site in result.sites)
    console.print(
        f"{len(result.sites)} sites, each of which commutes with {result.group.name} to {worst:.0e} in float64; "
        f"dense terms add {added:,} parameters during training."
    )


def _sites(result: Plan) -> Table:
    table = Table("site", "in -> out", Column("adds", justify="right"), box=None)
    table.columns[0].overflow = "fold"
    for site in result.sites:
        path, map_ = escape(site.path or "(the model)"), f"{site.map.rep_in} -> {site.map.rep_out}"
        table.add_row(path, map_, f"{site.added_parameters:,}")
    return table


def _rejected(result: Plan) -> Table:
    """Candidates with one reason stand together: a model has many, for few reasons."""
    table = Table(
        Column("op", overflow="fold"), Column("why not", ratio=2), Column("candidates", ratio=3, overflow="fold"), box=None
    )
    reasons: dict[tuple[str, str], list[str]] = {}
    for rejected in result.rejected:
        reasons.setdefault((rejected.op, rejected.reason), []).append(rejected.path or "(the model)")
    for (op, reason), paths in reasons.items():
        table.add_row(op, escape(reason), escape("\n".join(paths)))
    return table
