"""Figures of reports, with matplotlib, which is imported when one is asked for: no state of pyplot is touched.

Errors stand on a logarithmic scale. Of many layers the largest are drawn, as many as can be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure  # noqa: PLC0414 - for those that name what they return
    from numpy.typing import NDArray

Heats = Mapping[str, tuple[Mapping[str, float], Sequence[float]]]
"""{layer: ({irrep: error}, errors at group elements)}."""

FLOOR = 1e-17
MOST_ROWS, MOST_MATRICES = 60, 6
LOW, HIGH = "#3b7dd8", "#c8322b"


def errors_of(model: str, group: str, errors: Mapping[str, float], heats: Heats) -> Figure:
    """Bars of the error of every layer, and beside them, where terms were measured, what it is by irrep and element."""
    shown = _largest(errors)
    measured = {path: heat for path, heat in heats.items() if path in shown}
    figure = figure_of(rows=len(shown), width=12 if measured else 7)
    panels = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    _bars(panels[0], shown, f"relative equivariance error under {group}{_left_out(shown, errors)}")
    panels[0].set_title(model)
    if measured:
        _heatmap(panels[1], list(shown), measured)
    return figure


def parameters_of(title: str, own: Mapping[str, int], added: Mapping[str, int]) -> Figure:
    """Bars of the parameters that the term of every site adds, and a mark at those that the layer has."""
    shown = _largest(added)
    figure = figure_of(rows=len(shown), width=7)
    axes = figure.subplots()
    _bars(axes, shown, f"parameters{_left_out(shown, added)}", floor=1.0)
    axes.plot([own[name] for name in shown], range(len(shown)), "|", color="black", markersize=9)
    axes.legend(["the layer has", "its term adds"], fontsize=7)
    axes.set_title(title)
    return figure


def shares_of(panels: Mapping[str, Mapping[str, float]]) -> Figure:
    """A panel of bars for each quantity, of the terms that are largest in the first one."""
    first = next(iter(panels.values()))
    shown = _largest(first)
    figure = figure_of(rows=len(shown), width=9)
    for axes, (label, values) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        _bars(axes, {path: values[path] for path in shown}, f"{label}{_left_out(shown, first)}", floor=0.0)
    return figure


def spectrum_of(title: str, values: Sequence[float], generators: Sequence[NDArray[np.float64]]) -> Figure:
    """How strongly each direction is broken, those of the generators in blue, and the generators as images."""
    matrices = generators[:MOST_MATRICES]
    figure = figure_of(rows=12, width=4 + 2.2 * max(1, len(matrices)))
    panels = figure.subplots(1, 1 + len(matrices), squeeze=False)[0]
    colours = [LOW if index < len(generators) else HIGH for index in range(len(values))]
    panels[0].bar(range(1, 1 + len(values)), [max(value, FLOOR) for value in values], color=colours)
    panels[0].set_yscale("log")
    panels[0].set(title=title, xlabel="direction (blue: kept)", ylabel="how much it is broken")
    for number, (axes, matrix) in enumerate(zip(panels[1:], matrices, strict=True)):
        largest = float(np.abs(matrix).max()) or 1.0
        axes.imshow(matrix, cmap="RdBu", vmin=-largest, vmax=largest)
        axes.set(title=f"L_{number + 1}", xticks=[], yticks=[])
    return figure


def figure_of(rows: int, width: float) -> Figure:
    """An empty figure, high enough for so many rows. ImportError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'relaxify[plot]'") from error
    return Figure(figsize=(width, 1.4 + 0.22 * max(rows, 4)), layout="constrained")


def _largest(values: Mapping[str, float]) -> dict[str, float]:
    """In their order; of too many, the largest, and those that are no number."""
    order = sorted(values, key=lambda name: -(math.inf if math.isnan(values[name]) else values[name]))
    chosen = set(order[:MOST_ROWS])
    return {name: value for name, value in values.items() if name in chosen}


def _left_out(shown: Mapping[str, float], every: Mapping[str, float]) -> str:
    return "" if len(shown) == len(every) else f" (the {len(shown)} largest of {len(every):,})"


def _bars(axes: Axes, values: Mapping[str, float], label: str, floor: float = FLOOR) -> None:
    axes.barh(range(len(values)), [max(value, floor) - floor for value in values.values()], left=floor, color=LOW)
    axes.set_yticks(range(len(values)), list(values), fontsize=7)
    # as rows of an image stand, so that those beside it are level
    axes.set_ylim(max(len(values), 1) - 0.5, -0.5)
    axes.set_xlabel(label)
    if floor:
        axes.set_xscale("log")
        axes.set_xlim(floor, 3 * max([1.0, *values.values()]))


def _heatmap(axes: Axes, rows: Sequence[str], heats: Heats) -> None:
    """Rows are those of the bars; columns the irreps of outputs, then group elements, the nearest to 1 first."""
    irreps = list(dict.fromkeys(name for by_irrep, _ in heats.values() for name in by_irrep))
    elements = max(len(errors) for _, errors in heats.values())
    table = np.full((len(rows), len(irreps) + elements), np.nan)
    for row, (by_irrep, errors) in ((rows.index(path), heat) for path, heat in heats.items()):
        table[row] = [*(by_irrep.get(irrep, np.nan) for irrep in irreps), *errors]
    image = axes.imshow(np.log10(np.maximum(table, 1e-4)), cmap="Reds", vmin=-4, vmax=0, aspect="auto")
    names = [*irreps, *(f"g{number + 1}" for number in range(elements))]
    axes.set_xticks(range(len(names)), names, fontsize=7, rotation=90)
    axes.set_yticks([])
    axes.axvline(len(irreps) - 0.5, color="black", linewidth=0.8)
    axes.set_title("error of the term: by irrep | by group element, nearest to 1 first", fontsize=9)
    axes.figure.colorbar(image, ax=axes, label="log10 of the error", fraction=0.05)
