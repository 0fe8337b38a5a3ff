"""curves.png: how both trainings went, and what the relaxation did meanwhile."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from relaxify.output import write_whole

if TYPE_CHECKING:
    from relaxify_examples.nbody.experiment import Result


def draw(result: Result, path: Path) -> None:
    """Errors of both models over epochs; below them the relaxed share with theta, and the penalty. One line a seed."""
    # Without pyplot: no window system, and no global state left behind.
    figure = Figure(figsize=(7, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    errors, shares, penalties = figure.subplots(3, 1, sharex=True, height_ratios=[4, 2, 1.5])
    thetas = shares.twinx()
    _lines(errors, result, "plain_validation", "plain, validation", color="tab:blue")
    _lines(errors, result, "projected_validation", "relaxed, validation (equivariant part)", color="tab:orange")
    _lines(errors, result, "plain_loss", "plain, training", color="tab:blue", linestyle=":")
    _lines(errors, result, "relaxed_loss", "relaxed, training (with its terms)", color="tab:orange", linestyle=":")
    _lines(shares, result, "share", "share", color="tab:green")
    _lines(thetas, result, "theta", "theta", color="black", linestyle="--")
    _lines(penalties, result, "penalty", "penalty", color="tab:red")
    errors.legend(frameon=False)
    errors.set(yscale="log", ylabel="mean square error")
    shares.set_ylabel("relaxed share\n|theta W x| / |f(x)|", color="tab:green")
    shares.set_ylim(bottom=0)
    shares.yaxis.set_major_formatter(PercentFormatter(1))
    thetas.set(ylabel="theta (dashed)", ylim=(0, None))
    penalties.set_ylabel("penalty", color="tab:red")
    penalties.set(xlabel="epoch", ylim=(0, None))
    figure.suptitle(_title(result), fontsize="medium")
    content = io.BytesIO()
    figure.savefig(content, dpi=150)
    write_whole(path, content.getvalue(), force=True)


def _lines(axes: Axes, result: Result, field: str, label: str, *, color: str, linestyle: str = "-") -> None:
    for run in result.seeds:
        values = [getattr(epoch, field) for epoch in run.epochs]
        axes.plot(
            range(1, len(values) + 1),
            values,
            color=color,
            linestyle=linestyle,
            marker="." if len(values) == 1 else None,
            alpha=1 if len(result.seeds) == 1 else 0.5,
            label=label if run is result.seeds[0] else None,
        )


def _title(result: Result) -> str:
    settings, seeds = result.settings, len(result.seeds)
    return (
        f"Charged N-body: {settings.train_size:,} trajectories, {settings.epochs} epochs, "
        f"{seeds} seed{'s' if seeds > 1 else ''}"
    )
