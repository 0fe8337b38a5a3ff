"""Figures of a report: the error of each module's output, and what terms do over training (as CR fig. 3)."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relaxify.inspection import Report

FLOOR = 1e-17


def errors_by_layer(report: Report) -> Any:
    """Bars of the error of every site (of its own term), or of every module's value if there is no site, as a figure."""
    if report.layers:
        bars = [(layer.path, layer.error.mean) for layer in report.layers]
    else:
        bars = [(module.path or "(the model)", module.error) for module in report.modules]
    figure, axes = _figure(height=1.2 + 0.22 * len(bars))
    names, values = zip(*bars, strict=True) if bars else ((), ())
    axes.barh(range(len(names)), [max(value, FLOOR) for value in values], left=FLOOR, color="#3b7dd8")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(FLOOR, max(10.0, *values) if values else 10.0)
    axes.set_xlabel(f"relative equivariance error under {report.group}")
    axes.set_title(report.model)
    return figure


def history(log: Path, quantity: str = "share") -> Any:
    """One line for each layer of a quantity that a Monitor wrote to a CSV file, over the steps, as a figure."""
    lines: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    if not log.is_file():
        raise ValueError(f"there is no file {log}; give the path of the CSV file that a Monitor wrote.")
    try:
        with log.open(newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != ["step", "layer", "quantity", "value"]:
                raise ValueError("other columns")
            for row in rows:
                if row["quantity"] == quantity:
                    lines[row["layer"]].append((int(row["step"]), float(row["value"])))
    # a row that is cut short lacks values, which are None then
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{log} is not a log of a Monitor (step, layer, quantity, value); give the CSV file that it wrote."
        ) from error
    if not lines:
        raise ValueError(f"{log} has no {quantity!r}; plot one of the quantities that its Monitor wrote.")
    figure, axes = _figure(height=4)
    for layer, points in lines.items():
        axes.plot(*zip(*points, strict=True), label=layer, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel({"share": "|theta W x| / |f(x)|", "equivariant": "|P W| / |W|", "norm": "|W|"}.get(quantity, quantity))
    if len(lines) <= 12:
        axes.legend(fontsize=7)
    return figure


def save_figure(figure: Any, path: Path, *, inputs: Sequence[Path], force: bool, dpi: int = 150) -> None:
    """Write a figure in the format that the suffix says, whole or not at all, and never over an input."""
    from relaxify.output import write_whole

    content, form = io.BytesIO(), path.suffix.removeprefix(".").lower() or "png"
    if form not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path} has the suffix {path.suffix!r}, which tells no format of pictures; use .png or .svg.")
    figure.savefig(content, dpi=dpi, format=form)
    write_whole(path, content.getvalue(), inputs=inputs, force=force)


def _figure(height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'relaxify[plot]'") from error
    figure = Figure(figsize=(7, height), layout="constrained")
    return figure, figure.subplots()
