"""`relaxify plan`: what would be relaxed in a model, and what not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.table import Column, Table

from relaxify_cli.errors import BAD_INPUT, THRESHOLD, on_the_command_line, shown
from relaxify_cli.options import INPUTS_HELP, Action, Exclude, Factory, Html, Include, Irreps, Json
from relaxify_cli.progress import waiting
from relaxify_cli.reporting import console, say

if TYPE_CHECKING:
    from relaxify.relaxation.plan import Plan
    from relaxify.sites import Site

EXAMPLE = "relaxify plan my.models:make_model --group O3 --inputs batch.safetensors"


def plan(
    model: Factory,
    group: Annotated[str, typer.Option("--group", "-g", help="The symmetry group, such as SO3.")],
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            "-i",
            metavar="X.safetensors|PKG.MOD:FACTORY",
            help=f"{INPUTS_HELP} Layers whose type proves nothing are then judged by their values.",
        ),
    ] = None,
    action: Action = None,
    irreps: Irreps = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
    html: Html = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --html names.")] = False,
) -> None:
    """Show which layers of a model would be relaxed, and which not and why. Changes nothing.

    Exit code 1 if the model breaks the symmetry somewhere.
    """
    import relaxify
    from relaxify.output import check_target, write_whole
    from relaxify_cli.loading import build_model, files_of, irreps_of, load_action, load_inputs

    if (action is not None or irreps) and inputs is None:
        option = "--irreps" if action is None else "--action"
        raise ValueError(f"{option} says how the group moves the example inputs; give those with --inputs.")
    read = files_of(model, inputs, action)
    if html is not None:
        check_target(html, inputs=read, force=force)
    net = build_model(model)
    given = None if inputs is None else load_inputs(inputs, net)
    with waiting("planning"):
        result = relaxify.plan(
            net,
            group,
            include=include or (),
            exclude=exclude or (),
            example_inputs=given,
            input_action=load_action(action),
            input_irreps=irreps_of(irreps),
        )
    if html is not None:
        write_whole(html, result.to_html().encode(), inputs=read, force=force)
    if as_json:
        say(result.to_json())
    else:
        _print(result, console())
    if result.unsound:
        raise typer.Exit(THRESHOLD)
    if not result.sites:
        raise typer.Exit(BAD_INPUT)


def _print(result: Plan, out: Console) -> None:
    from relaxify.relaxation.plan import UNCHECKED

    if result.sites:
        out.print(f"[bold]Would be relaxed for {result.group.name}[/bold]")
        out.print(_tree(result.sites))
    if result.rejected:
        out.print("[bold]Would be left as they are[/bold]")
        out.print(_rejected(result))
    if result.moved:
        moved = "; ".join(f"{name}: {what}" for name, what in result.moved.items())
        out.print(f"Inputs that are moved: {shown(moved)}. The others stay.", soft_wrap=True)
    if result.diverged is not None:
        out.print(f"Runs on x and on g x take different courses from {shown(result.diverged)} on.")
    if result.sites:
        _sum_up(out, result)
    if result.verdict is None:
        out.print(f"{on_the_command_line(UNCHECKED).capitalize()}.")
    if result.unsound:
        first = result.unsound[0]
        place = shown(first.path or "the model")
        out.print(f"[bold red]It breaks {result.group.name}[/bold red] at {place}, {first.op}: {shown(first.reason)}.")
    elif not result.sites:
        out.print(f"No layer can be relaxed for {result.group.name}.")


def _tree(sites: tuple[Site, ...]) -> Table:
    """The sites in the tree of the model's modules, a line each."""
    table = Table(
        Column("site", overflow="fold"),
        Column("in -> out", overflow="fold"),
        Column("weights", justify="right", no_wrap=True),
        Column("adds", justify="right", no_wrap=True),
        *([Column("found at", overflow="fold")] if any(map(_place, sites)) else []),
        box=None,
    )
    tree: dict[str, object] = {}
    for site in sites:
        branch = tree
        *parents, last = site.path.split(".")
        for name in parents:
            branch = cast("dict[str, object]", branch.setdefault(name, {}))
        # a module may be a site and hold others
        branch[f"{last}\0"] = site
    for label, leaf in _lines(tree, ""):
        if leaf is None:
            table.add_row(shown(label))
            continue
        map_ = f"{leaf.map.rep_in} -> {leaf.map.rep_out}" + (f", {leaf.factors}" if leaf.factors else "")
        cells = [shown(map_), f"{leaf.parameters:,}", f"{leaf.added_parameters:,}", shown(_place(leaf))]
        table.add_row(shown(label), *cells[: len(table.columns) - 1])
    return table


def _lines(branch: dict[str, object], indent: str) -> Iterator[tuple[str, Site | None]]:
    """Each line of a tree, with its site if it is one. A module with one child shares a line with it."""
    for name, entry in branch.items():
        while isinstance(entry, dict) and len(entry) == 1:
            ((child, entry),) = entry.items()
            name = f"{name}.{child}"
        if isinstance(entry, dict):
            yield f"{indent}{name}", None
            yield from _lines(entry, f"{indent}  ")
        else:
            yield indent + (name.removesuffix("\0") or "(the model)"), cast("Site", entry)


def _place(site: Site) -> str:
    """The statement that runs a site, with the file by its name alone: a path of site-packages would fill the line."""
    return Path(site.location).name


def _rejected(result: Plan) -> Table:
    """Candidates with one reason stand together: a model has many, for few reasons."""
    table = Table(
        Column("op", overflow="fold"), Column("why not", ratio=2), Column("candidates", ratio=3, overflow="fold"), box=None
    )
    reasons: dict[tuple[str, str], list[str]] = {}
    for rejected in result.rejected:
        reasons.setdefault((rejected.op, on_the_command_line(rejected.reason)), []).append(rejected.path or "(the model)")
    for (op, reason), paths in reasons.items():
        table.add_row(op, shown(reason), "\n".join(map(shown, paths)))
    return table


def _sum_up(out: Console, result: Plan) -> None:
    added = sum(site.added_parameters for site in result.sites)
    ops = Counter(site.map.op for site in result.sites)
    out.print(f"{len(result.sites)} sites: {', '.join(f'{count} {op}' for op, count in ops.items())}.")
    worst = max(site.proof or 0.0 for site in result.sites)
    then = ""
    if any(site.evidence == "symmetrised" for site in result.sites):
        out.print("They are ordinary convolutions: their kernels would be symmetrised; the rest becomes the terms'.")
        then = " then"
    out.print(f"Each{then} commutes with {result.group.name} to {worst:.0e} in float64.")
    out.print(f"Dense terms add {added:,} parameters during training.")
