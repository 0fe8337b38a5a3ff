"""curves.png: how both trainings went, and what the relaxation did meanwhile."""

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from nbody.experiment import Result


def draw(result: "Result", path: Path) -> None:
    """Validation error and training loss of both models over epochs; below, theta, relaxed share and penalty."""
    figure = Figure(figsize=(7, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    errors, relaxation = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    penalties = relaxation.twinx()
    for run in result.seeds:
        first = run is result.seeds[0]
        epochs = range(1, len(run.epochs) + 1)
        for axes, name, color, style, label in (
            (errors, "plain_validation", "tab:blue", "-", "plain, validation"),
            (errors, "projected_validation", "tab:orange", "-", "relaxed, validation (equivariant part)"),
            (errors, "plain_loss", "tab:blue", ":", "plain, training"),
            (errors, "relaxed_loss", "tab:orange", ":", "relaxed, training (with its terms)"),
            (relaxation, "theta", "black", "--", "theta"),
            (relaxation, "share", "tab:green", "-", "relaxed share |theta W x| / |f(x)|"),
            (penalties, "penalty", "tab:red", "-", "penalty"),
        ):
            values = [getattr(epoch, name) for epoch in run.epochs]
            axes.plot(epochs, values, style, color=color, alpha=0.9 if len(result.seeds) == 1 else 0.6, label=label if first else None)
    errors.set(yscale="log", ylabel="mean square error")
    relaxation.set(xlabel="epoch", ylabel="theta and share", ylim=(0, None))
    penalties.set(ylabel="penalty", ylim=(0, None))
    errors.legend(frameon=False)
    handles = [*relaxation.get_lines(), *penalties.get_lines()]
    shown = [line for line in handles if not line.get_label().startswith("_")]
    relaxation.legend(shown, [line.get_label() for line in shown], frameon=False)
    settings = result.settings
    figure.suptitle(
        f"Charged N-body: {settings.train_size:,} trajectories, {settings.epochs} epochs, "
        f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}",
        fontsize="medium",
    )
    figure.savefig(path, dpi=150)
