"""`relaxify demo`: train a model plainly and relaxed, project, convert and check it, on the charged N-body benchmark."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from relaxify_cli.errors import ThresholdError, shown
from relaxify_cli.reporting import console

# Lines of progress for each seed where the terminal cannot redraw them.
LINES_PER_SEED = 10

# Far above rounding in float64, far below what a relaxed model shows.
LARGEST_ERROR = 1e-10

EXAMPLE = "relaxify demo --epochs 100 --seeds 3 --out results"


def demo(
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training set, for both models.")] = 25,
    train_size: Annotated[int, typer.Option(min=1, max=10_000, help="Training trajectories; the paper's 3000.")] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Paired runs: seeds 0, 1, ...")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Keep checkpoints, results.json and curves.png here.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the results in DIR.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads to compute with.")] = 1,
    width: Annotated[int, typer.Option(min=1, help="Hidden channels of each degree; 32 in the paper's network.")] = 16,
    layers: Annotated[int, typer.Option(min=1, help="Rounds of message passing; 4 in the paper's network.")] = 3,
    learning_rate: Annotated[float, typer.Option(min=0, help="Adam's, at the start; it falls to 0 as a cosine.")] = 1e-2,
) -> None:
    """Train a SEGNN plainly and relaxed on N-body data, project it, convert its checkpoint, and compare.

    The defaults take a minute or two and show that all of it works; a gain they do not show. The paper's scale is
    --epochs 1000 --train-size 3000 --seeds 5 --width 32 --layers 4.
    """
    experiment = load_experiment()
    import torch

    torch.set_num_threads(threads)
    settings = experiment.Settings(
        epochs=epochs, train_size=train_size, seeds=seeds, width=width, num_layers=layers, learning_rate=learning_rate
    )
    report = console()
    result = _follow(experiment.run(settings, out, force=force), report)
    _show(result, report)
    if out is not None:
        report.print(f"Checkpoints, results.json and curves.png are in {shown(str(out))}.", soft_wrap=True)
    _check(result)
    report.print("Converted checkpoint: loads with strict=True, equals project(model) bit for bit.")


def _check(result: Any) -> None:
    """ThresholdError unless every projected model came back from its checkpoint as it was, and equivariant."""
    if not all(run.converted_equals_projected for run in result.seeds):
        raise ThresholdError("the converted checkpoint differs from project(model), which is a fault of relaxify.")
    worst = max(run.equivariance_error_projected for run in result.seeds)
    if not worst < LARGEST_ERROR:
        raise ThresholdError(f"the projected model's equivariance error is {worst:.1e}, which is a fault of relaxify.")


def load_experiment() -> Any:
    """The module relaxify_examples.nbody.experiment. ValueError, with what to install, if e3nn is missing."""
    if importlib.util.find_spec("e3nn") is None:
        raise ValueError("e3nn is not installed, and the demo's model is built on it; pip install 'relaxify[e3nn]'.")
    return importlib.import_module("relaxify_examples.nbody.experiment")


def _follow(events: Generator[Any, None, Any], console: Console) -> Any:
    """Show every event as it comes, and return what the experiment returns."""
    if not console.is_terminal:
        return _drain(events, lambda event: _print_line(event, console))
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )
    task, figures = bar.add_task("", total=None), Text()

    def draw(event: Any) -> None:
        if hasattr(event, "text"):
            console.print(event.text, style="dim", markup=False, highlight=False)
            return
        bar.update(task, description=f"seed {event.seed}", total=event.steps, completed=event.step)
        figures.plain = _figures(event)

    with Live(Group(bar, figures), console=console, transient=True, refresh_per_second=8):
        return _drain(events, draw)


def _drain(events: Generator[Any, None, Any], show: Callable[[Any], None]) -> Any:
    while True:
        try:
            show(next(events))
        except StopIteration as end:
            return end.value


def _print_line(event: Any, console: Console) -> None:
    if hasattr(event, "text"):
        console.print(event.text, markup=False, highlight=False)
    elif event.step % max(1, event.steps // LINES_PER_SEED) == 0 or event.step == event.steps:
        console.print(f"{event.step / event.steps:4.0%}  {_figures(event)}", highlight=False)


def _figures(event: Any) -> str:
    return (
        f"loss {event.plain_loss:.4f} plain, {event.relaxed_loss:.4f} relaxed  "
        f"theta {event.theta:.2f}  penalty {event.penalty:.4f}  share {event.share:.1%}"
    )


def _show(result: Any, console: Console) -> None:
    settings = result.settings
    console.print()
    console.print(_table(result))
    console.print()
    notes = (
        f"{settings.train_size:,} training and {settings.test_size:,} test trajectories, {settings.epochs} epochs.",
        f"Going straight on, x + v t, has test MSE {result.linear_mse:.5f}.",
        "Step time: relaxed over plain, median over pairs of steps taken in turn.",
        "Equivariance error: |f(gx) - g f(x)| over the predicted displacement, rms over",
        "random g in O(3) with translations, in float64; relaxed: at theta = 1.",
    )
    for note in notes:
        console.print(note, style="dim", highlight=False)


def _table(result: Any) -> Table:
    """One column a model: trained plainly, relaxed as it was at theta = 1, and what the relaxed one was projected to."""
    table = Table("", box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("plain", "relaxed (theta 1)", "relaxed + projected"):
        table.add_column(name, justify="right")
    for run in result.seeds:
        name = "test MSE" if len(result.seeds) == 1 else f"test MSE, seed {run.seed}"
        table.add_row(name, f"{run.test_mse_plain:.5f}", "", f"{run.test_mse_projected:.5f}")
    if len(result.seeds) > 1:
        table.add_row("test MSE, mean", _mean(result, "test_mse_plain"), "", _mean(result, "test_mse_projected"))
    counts = (result.parameters_plain, result.parameters_relaxed, result.parameters_projected)
    table.add_row("parameters", *(f"{count:,}" for count in counts))
    ratio = statistics.median(run.step_time_ratio for run in result.seeds)
    table.add_row("training step time", "1", f"{ratio:.2f}", "")
    errors = (
        max(getattr(run, f"equivariance_error_{which}") for run in result.seeds)
        for which in ("plain", "relaxed", "projected")
    )
    table.add_row("equivariance error", *(f"{error:.1e}" for error in errors))
    return table


def _mean(result: Any, name: str) -> str:
    values = [getattr(run, name) for run in result.seeds]
    return f"{statistics.fmean(values):.5f} ± {statistics.stdev(values):.5f}"
