"""CR Table 2: every network on both symmetries over seeds, with and without CR's framework; saved run by run.

python -m relaxify_examples.smoke train DATA --out DIR
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from relaxify.output import write_whole
from relaxify_examples.smoke.data import Simulations, Task, windows
from relaxify_examples.smoke.generation import SYMMETRIES, Symmetry
from relaxify_examples.smoke.models import MODELS, fitting_width, own_regulariser, parameter_count
from relaxify_examples.smoke.training import Budget, Relaxing, rmse, train

# The scales of the networks' ladder are a factor of sqrt(2) apart.
GROUPS: dict[Symmetry, str] = {"rotation": "C(4)", "scale": f"Scale({2**0.5})"}


@dataclass(frozen=True)
class Row:
    """A network; `keep_relaxed` is None where it is trained as it is."""

    model: str
    keep_relaxed: bool | None = None


ROWS: dict[str, Row] = {
    **{name: Row(name) for name in MODELS},
    "Equiv+relax": Row("Equiv", keep_relaxed=False),
    "RPP+relax": Row("RPP", keep_relaxed=False),
    "RSteer+relax": Row("RSteer", keep_relaxed=True),
}


# A coefficient of each tap makes tenfold parameters, which start as if they were one: the same network otherwise.
SAME_WIDTH = {"RSteer": "Equiv"}


@dataclass(frozen=True)
class Settings:
    """What is run. `parameters` bounds a network's size: its width is the largest within, or that of SAME_WIDTH."""

    task: Task = field(default_factory=lambda: Task(frames=10, horizon=3, reach=8))
    budget: Budget = field(default_factory=Budget)
    parameters: int = 15_000
    seeds: int = 1
    symmetries: tuple[Symmetry, ...] = SYMMETRIES
    rows: tuple[str, ...] = tuple(ROWS)


FULL = Settings(
    task=Task(),
    budget=Budget(epochs=1000, settle=100, batch_size=8, learning_rate=1e-4),
    parameters=1_000_000,
    seeds=5,
)


@dataclass(frozen=True)
class Run:
    """One row, symmetry and seed. `trained_parameters` counts what was learned, with terms; `parameters` what is left."""

    symmetry: str
    row: str
    seed: int
    future: float
    domain: float
    valid: float
    width: int
    parameters: int
    trained_parameters: int
    best_epoch: int
    epochs: int
    seconds: float


def runs(data: dict[Symmetry, Simulations], settings: Settings, out: Path) -> Iterator[Run]:
    """Run what `out`/results.json does not hold yet, a seed at a time, saving after each; yields earlier runs too.

    ValueError if the file holds runs with other settings or data.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    setting = _setting(data, settings)
    done = _earlier(path, setting)
    for seed in range(settings.seeds):
        for symmetry in settings.symmetries:
            for row in settings.rows:
                key = (symmetry, row, seed)
                if key not in done:
                    done[key] = run(data[symmetry], row, seed, settings)
                    _save(path, setting, list(done.values()))
                yield done[key]


def run(data: Simulations, name: str, seed: int, settings: Settings) -> Run:
    """One row from its random start to its tests."""
    row, task = ROWS[name], settings.task
    start = time.perf_counter()
    like = SAME_WIDTH.get(row.model, row.model)
    width = fitting_width(like, data.symmetry, task.frames, data.size, settings.parameters)
    torch.manual_seed(seed)
    model = MODELS[row.model](data.symmetry, task.frames, width, data.size).to(data.velocity.device)
    relaxing = None if row.keep_relaxed is None else Relaxing(GROUPS[data.symmetry], row.keep_relaxed)
    split = (windows(data, "train", task), windows(data, "valid", task))
    trained = train(model, split, settings.budget, seed, relaxing=relaxing, own=own_regulariser(row.model))
    return Run(
        symmetry=data.symmetry,
        row=name,
        seed=seed,
        future=rmse(trained.model, windows(data, "future", task)),
        domain=rmse(trained.model, windows(data, "domain", task)),
        valid=trained.epochs[trained.best_epoch - 1].valid,
        width=width,
        parameters=parameter_count(trained.model),
        trained_parameters=parameter_count(model),
        best_epoch=trained.best_epoch,
        epochs=len(trained.epochs),
        seconds=time.perf_counter() - start,
    )


def table(results: list[Run]) -> str:
    """Markdown: root mean square errors, mean ± standard deviation over seeds, and how much was trained and is left."""
    lines = []
    for symmetry in SYMMETRIES:
        here = [run for run in results if run.symmetry == symmetry]
        if not here:
            continue
        lines += [f"**{symmetry}**, seeds: {len({run.seed for run in here})}", ""]
        lines += ["| row | parameters | while training | future | domain | minutes |", "|---|---|---|---|---|---|"]
        for row in ROWS:
            if of_row := [run for run in here if run.row == row]:
                first, minutes = of_row[0], statistics.fmean(run.seconds for run in of_row) / 60
                errors = " | ".join(_cell([getattr(run, name) for run in of_row]) for name in ("future", "domain"))
                sizes = f"{first.parameters:,} | {first.trained_parameters:,}"
                lines.append(f"| {row} | {sizes} | {errors} | {minutes:.1f} |")
        lines.append("")
    return "\n".join(lines)


def _cell(errors: list[float]) -> str:
    spread = f" ± {statistics.stdev(errors):.3f}" if len(errors) > 1 else ""
    return f"{statistics.fmean(errors):.3f}{spread}"


def _setting(data: dict[Symmetry, Simulations], settings: Settings) -> dict[str, Any]:
    """What makes runs comparable: all settings but which rows, symmetries and seeds, and the data themselves."""
    chosen = asdict(settings)
    for name in ("seeds", "symmetries", "rows"):
        del chosen[name]
    digests = {symmetry: sha256(part.velocity.cpu().numpy().tobytes()).hexdigest() for symmetry, part in data.items()}
    return {"settings": chosen, "data": digests}


def _earlier(path: Path, setting: dict[str, Any]) -> dict[tuple[str, str, int], Run]:
    if not path.exists():
        return {}
    try:
        saved = json.loads(path.read_text())
        found = [Run(**entry) for entry in saved["runs"]]
        known = {**saved["data"], **setting["data"]}
        same = saved["settings"] == setting["settings"] and known == {**setting["data"], **saved["data"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); move it away, or give another folder.") from error
    if not same:
        raise ValueError(f"{path} holds runs with other settings or data; give another folder.")
    setting["data"] = known
    return {(run.symmetry, run.row, run.seed): run for run in found}


def _save(path: Path, setting: dict[str, Any], done: list[Run]) -> None:
    environment = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    everything = {**setting, "environment": environment, "runs": [asdict(run) for run in done]}
    write_whole(path, json.dumps(everything, indent=1).encode(), force=True)
