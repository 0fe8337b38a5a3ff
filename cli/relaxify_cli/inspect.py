"""`relaxify inspect`: which layer of a model breaks equivariance, by how much, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from relaxify_cli.errors import THRESHOLD, ThresholdError, shown
from relaxify_cli.options import INPUTS_HELP, Action, Factory, Html, Irreps, Json, OutputAction
from relaxify_cli.progress import waiting
from relaxify_cli.reporting import console, say

if TYPE_CHECKING:
    from relaxify.inspection import Errors, Report

EXAMPLE = "relaxify inspect my.models:make_model --group O3 --inputs batch.safetensors --html report.html"


def inspect(
    model: Factory,
    inputs: Annotated[str, typer.Option("--inputs", "-i", metavar="X.safetensors|PKG.MOD:FACTORY", help=INPUTS_HELP)],
    group: Annotated[str | None, typer.Option("--group", "-g", help="The symmetry group, such as SO3.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to load first: .safetensors or .pt.")] = None,
    action: Action = None,
    irreps: Irreps = None,
    output_action: OutputAction = None,
    training: Annotated[bool, typer.Option("--training", help="In training mode, where dropout acts.")] = False,
    images: Annotated[
        bool,
        typer.Option("--images", help="Instead of a group: translation, rotation, scaling and shear of the input images."),
    ] = False,
    periodic: Annotated[bool, typer.Option("--periodic", help="With --images: these have no border.")] = False,
    as_json: Json = False,
    html: Html = None,
    plot: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Plot the error of each module.")] = None,
    fail_above: Annotated[
        float | None, typer.Option(min=0, metavar="ERROR", help="Exit with 1 if the largest relative error is above this.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --html and --plot name.")] = False,
) -> None:
    """Say which layer breaks equivariance, by how much, and why. Changes nothing.

    With --fail-above, exit code 1 if the error is larger or an operation breaks the symmetry.
    """
    import relaxify
    from relaxify.output import check_target, write_whole
    from relaxify_cli.images import inspect_images
    from relaxify_cli.loading import build_model, files_of, irreps_of, load_action, load_inputs, load_weights

    _check_mode(group, images, plot)
    read = files_of(model, inputs, action, output_action, checkpoint)
    for path in (html, plot):
        if path is not None:
            check_target(path, inputs=read, force=force)
    net = build_model(model)
    if checkpoint is not None:
        load_weights(net, checkpoint)
    given = load_inputs(inputs, None if images else net)
    if group is None:
        inspect_images(net, given, periodic=periodic, as_json=as_json, fail_above=fail_above, html=html, force=force)
        return
    with waiting("inspecting"):
        report = relaxify.inspect(
            net,
            group,
            *(() if isinstance(given, dict) else given),
            keywords=given if isinstance(given, dict) else None,
            input_action=load_action(action),
            input_irreps=irreps_of(irreps),
            output_action=load_action(output_action),
            training=training,
        )
    if html is not None:
        write_whole(html, report.to_html().encode(), inputs=read, force=force)
    if plot is not None:
        from relaxify_cli.plots import save_figure

        save_figure(report.plot(), plot, inputs=read, force=force)
    if as_json:
        say(report.to_json())
    else:
        _print(report, console())
    _check(report, fail_above)


def _check_mode(group: str | None, images: bool, page: Path | None) -> None:
    if (group is None) is not images:
        raise ValueError("inspect must know what moves the inputs; give either --group, such as --group SO3, or --images.")
    if images and page is not None:
        raise ValueError(f"{page} would plot errors under a group, which --images is not; use --html or --json instead.")


def _check(report: Report, fail_above: float | None) -> None:
    if fail_above is None:
        return
    if report.fault is not None or not report.verdict.elements:
        raise typer.Exit(THRESHOLD)
    if not report.error.largest <= fail_above:
        raise ThresholdError(f"the largest relative error {report.error.largest:.1e} is above {fail_above:.1e}.")
    if not report.is_sound:
        raise typer.Exit(THRESHOLD)


def _print(report: Report, out: Console) -> None:
    out.print(f"[bold]{shown(report.model)} under {report.group}[/bold]")
    for each in report.factors or (report,):
        if report.factors:
            out.print(f"[bold]Under {each.group}[/bold]")
        for line in _verdict(each):
            out.print(line)
    out.print(_errors(report))
    out.print(_outputs(report))
    if report.layers:
        out.print(_layers(report))
    if report.diverged:
        out.print(f"Runs on x and on g x take different courses from {shown(report.diverged)} on.")
    out.print(f"{len(report.nodes)} operations were checked in {report.forward_passes} forward passes.")


def _verdict(report: Report) -> Iterator[str]:
    fault = report.fault
    if fault is None:
        yield from _without_fault(report)
        return
    yield f"[bold red]It breaks in {shown(fault.module or 'the model')}[/bold red]: {shown(fault.cause)}."
    yield f"  {shown(fault.location)}"
    yield f"  [cyan]{shown(fault.source)}[/cyan]"
    if not math.isnan(fault.amplified):
        yield f"  error of this value {fault.error:.1e}; the output's is {fault.amplified:.1e} times that"
    yield f"  {shown(report.verdict.told)}"


def _without_fault(report: Report) -> Iterator[str]:
    if report.is_sound:
        yield "[green]No operation breaks the symmetry.[/green]"
    else:
        why = ", and no single operation could be named" if report.verdict.elements else ": nothing could be measured"
        yield f"[bold red]It is not sound{why}.[/bold red]"
    yield f"  {shown(report.verdict.told)}"
    yield from (f"  undecided: {shown(each)}" for each in report.undecided)
    yield from (f"  note: {shown(f'{note.op} at {note.location}: {note.cause}')}" for note in report.notes)


def _errors(report: Report) -> Table:
    table = Table("relative error", "mean", "largest", "standard error", box=None)
    rows: list[tuple[str, Errors | None]] = [
        ("in float64", report.error),
        ("in its own precision", report.error_in_own_precision),
        ("with its terms acting", report.relaxed_error),
    ]
    for name, errors in rows:
        if errors is not None:
            table.add_row(name, *(f"{value:.1e}" for value in (errors.mean, errors.largest, errors.standard_error)))
    if report.lie:
        table.add_row(f"Lie derivatives ({report.lie_method})", " ".join(f"{value:.1e}" for value in report.lie))
    return table


def _outputs(report: Report) -> Table:
    table = Table(
        "output", "shape", "transforms as", Column("error", justify="right"), Column("response", justify="right"), box=None
    )
    for output in report.outputs:
        shape, error = str(list(output.shape)), f"{output.error.mean:.1e}"
        table.add_row(shown(output.name), shown(shape), shown(output.transforms), error, f"{output.response:.1e}")
    return table


def _layers(report: Report) -> Table:
    """Every site; what its term does, if it has one."""
    relaxed = any(layer.lie is not None for layer in report.layers)
    names = ("share", "weight_error", "drop", "fold") if relaxed else ()
    titles = {"share": "share", "weight_error": "|W-PW|/|W|", "drop": "drop takes", "fold": "fold takes"}
    table = Table(Column("layer", overflow="fold"), "in -> out", Column("error", justify="right"), box=None)
    for name in names:
        table.add_column(titles[name], justify="right")
    for layer in report.layers:
        values = [getattr(layer, name) for name in names]
        cells = ["-" if value is None else f"{value:.1e}" for value in values]
        table.add_row(shown(layer.path), shown(f"{layer.rep_in} -> {layer.rep_out}"), f"{layer.error.mean:.1e}", *cells)
    return table
