"""`relaxify inspect --images`: local equivariance errors of a model of images, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn

from relaxify_cli.errors import ThresholdError, shown
from relaxify_cli.progress import waiting
from relaxify_cli.reporting import console, say

if TYPE_CHECKING:
    from relaxify.inspection.images import ImageReport, TransformationReport


def inspect_images(
    model: nn.Module,
    given: Any,
    *,
    periodic: bool,
    as_json: bool,
    fail_above: float | None,
    html: Path | None = None,
    force: bool = False,
) -> None:
    """Print the report; ThresholdError if |L f| / |f| of some transformation is above the bound."""
    from relaxify.inspection.images import local_equivariance_error
    from relaxify.output import write_whole

    images = list(given.values() if isinstance(given, dict) else given)
    if len(images) != 1 or not isinstance(images[0], Tensor):
        raise ValueError(f"--images takes one tensor of images, and the inputs are {len(images)} things; pass one tensor.")
    with waiting("inspecting"):
        report = local_equivariance_error(model, images[0], derivative="spectral" if periodic else "central")
    if html is not None:
        write_whole(html, report.to_html().encode(), force=force)
    if as_json:
        say(report.to_json())
    else:
        _print(report, console())
    worst = max(each.relative for each in report.transformations)
    if fail_above is not None and not worst <= fail_above:
        raise ThresholdError(f"the largest local equivariance error, |L f| / |f| = {worst:.1e}, is above {fail_above:.1e}.")


def _print(report: ImageReport, out: Console) -> None:
    out.print(f"[bold]{shown(report.model)} on images {shown(str(list(report.images)))}[/bold]")
    out.print(_errors(report.transformations))
    out.print(_steps(report.transformations))
    exact = "exact" if report.exact else f"estimated along {report.probes} random directions"
    out.print(f"{report.forward_passes} passes, {report.method}; the layers' parts are {exact}.")


def _errors(transformations: Sequence[TransformationReport]) -> Table:
    sizes = [error.size for error in transformations[0].finite]
    columns = ["LEE", "± ", "|L f|/|f|", "interior", *(f"t = {size:g}" for size in sizes)]
    table = Table("transformation", *(Column(name, justify="right") for name in columns), box=None)
    for each in transformations:
        values = [each.lee, each.standard_error, each.relative, each.interior, *(error.error for error in each.finite)]
        table.add_row(each.name, *map(_number, values))
    return table


def _steps(transformations: Sequence[TransformationReport]) -> Table:
    """What each layer adds to the LEE of the whole, in the order in which they run."""
    table = Table(Column("layer", overflow="fold"), "op", box=None)
    for each in transformations:
        table.add_column(each.name, justify="right")
    for of_layer in zip(*(each.steps for each in transformations), strict=True):
        first = of_layer[0]
        table.add_row(shown(first.path or "(the model)"), shown(first.op), *(_number(step.lee) for step in of_layer))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
