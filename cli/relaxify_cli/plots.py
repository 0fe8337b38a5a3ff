"""What terms do over training (as CR fig. 3), as a figure, and figures as files."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relaxify.figures import figure_of

PANELS = {
    "theta": "theta",
    "share": "|theta W x| / |f(x)|",
    "error": "equivariance error",
    "loss": "loss",
    "penalty": "penalty",
    "equivariant": "|P W| / |W|",
    "norm": "|W|",
}
"""What of a log is drawn, from top to bottom, and how its axis is named."""
BY_DEFAULT = ("theta", "share", "error", "loss", "penalty")
WHOLE = {("loss", "relaxed"), ("loss", "projected"), ("error", "relaxed")}
"""What is of the model as a whole, and of no layer."""
LOGARITHMIC = {"error", "loss", "penalty"}
Lines = dict[str, dict[int, float]]
"""{line: {step: value}}."""


def history(log: Path, quantity: str | None = None) -> Any:
    """What a Monitor wrote to a CSV file, over the steps, as a figure (as CR fig. 3b): a panel for each quantity.

    Without `quantity` those are theta, the share, the error, the loss and the penalty, as far as the log has them.
    """
    lines = _read(log)
    names = [name for name in BY_DEFAULT if name in lines] if quantity is None else [quantity]
    if not names or names[0] not in lines:
        raise ValueError(f"{log} has no {quantity or 'theta'!r}; plot one of the quantities that its Monitor wrote.")
    figure = figure_of(rows=12 if len(names) == 1 else 9 * len(names), width=7)
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        _draw(axes, name, lines[name])
    panels[-1].set_xlabel("step")
    figure.align_ylabels()
    return figure


def _draw(axes: Any, name: str, lines: Lines) -> None:
    # dots too, or what was written once would not be seen
    for layer, points in lines.items():
        axes.plot(*zip(*sorted(points.items()), strict=True), label=layer, linewidth=1, marker=".", markersize=3)
    axes.set_ylabel(PANELS.get(name, name))
    values = [value for points in lines.values() for value in points.values()]
    if name in LOGARITHMIC and min(values) > 0:
        axes.set_yscale("log")
    if len(lines) <= 12 and (len(lines) > 1 or name not in LOGARITHMIC):
        axes.legend(fontsize=7, ncols=2 if len(lines) > 4 else 1)


def _read(log: Path) -> dict[str, Lines]:
    """{quantity: {layer: {step: value}}}. What a run wrote again after it was resumed takes the place of what it had."""
    if not log.is_file():
        raise ValueError(f"there is no file {log}; give the path of the CSV file that a Monitor wrote.")
    found: defaultdict[str, Lines] = defaultdict(lambda: defaultdict(dict))
    try:
        with log.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != ["step", "layer", "quantity", "value"]:
                raise ValueError("other columns")
            for row in rows:
                # of the loss and the error, with the terms and without
                is_whole = (row["layer"], row["quantity"]) in WHOLE
                name, line = ("layer", "quantity") if is_whole else ("quantity", "layer")
                found[row[name]][row[line]][int(row["step"])] = float(row["value"])
    # a row that is cut short lacks values, which are None then
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{log} is not a log of a Monitor (step, layer, quantity, value); give the CSV file that it wrote."
        ) from error
    return dict(found)


def save_figure(figure: Any, path: Path, *, inputs: Sequence[Path], force: bool, dpi: int = 150) -> None:
    """Write a figure in the format that the suffix says, whole or not at all, and never over an input."""
    from relaxify.output import write_whole

    content, form = io.BytesIO(), path.suffix.removeprefix(".").lower() or "png"
    if form not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path} has the suffix {path.suffix!r}, which tells no format of pictures; use .png or .svg.")
    figure.savefig(content, dpi=dpi, format=form)
    write_whole(path, content.getvalue(), inputs=inputs, force=force)
