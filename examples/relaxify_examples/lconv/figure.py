"""The figure of LC sec. 4: test accuracies of all models, a panel a variant, one point a seed, over a bar at their mean."""

import io
import statistics
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relaxify.output import write_whole
from relaxify_examples.lconv.data import VARIANTS
from relaxify_examples.lconv.experiment import Run
from relaxify_examples.lconv.models import MODELS


def draw(results: list[Run], path: Path) -> None:
    """One row of panels for each dataset and depth."""
    rows = sorted({(run.dataset, run.layers) for run in results})
    variants = [variant for variant in VARIANTS if any(run.variant == variant for run in results)]
    figure = Figure(figsize=(4 * len(variants), 3 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(variants), sharey="row", squeeze=False)
    for row, (dataset, layers) in zip(panels, rows, strict=True):
        for axes, variant in zip(row, variants, strict=True):
            here = [run for run in results if (run.dataset, run.layers, run.variant) == (dataset, layers, variant)]
            names = [name for name in MODELS if any(run.model == name for run in here)]
            for position, name in enumerate(names):
                values = [run.accuracy for run in here if run.model == name]
                axes.bar(position, statistics.fmean(values), color=f"C{position}", alpha=0.5)
                axes.plot([position] * len(values), values, ".", color="black", markersize=3)
            axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize="small")
            lowest = min(run.accuracy for run in results if (run.dataset, run.layers) == (dataset, layers))
            axes.set_ylim(max(0, lowest - 0.1), 1)
            axes.set_title(f"{dataset}, {layers} layer{'s' if layers > 1 else ''}: {variant}", fontsize="small")
        row[0].set_ylabel("test accuracy")
    content = io.BytesIO()
    figure.savefig(content, dpi=150)
    write_whole(path, content.getvalue(), force=True)
