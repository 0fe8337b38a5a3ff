"""The N-body experiment of CR sec. 4.2, from data to checkpoints: plain and relaxed training compared on paired seeds.

There is no model selection: what is measured is the model after the last step, where theta is 0, on the test set, once.
"""

import contextlib
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import e3nn
import safetensors.torch
import torch
from torch import Tensor, nn

from relaxify import project
from relaxify.output import write_whole
from relaxify_examples.models.segnn import SEGNN
from relaxify_examples.nbody.evaluate import Batch, equivariance_error, mean_square_error, parameter_count, predict, tensors
from relaxify_examples.nbody.simulate import ChargedParticles, Split, load
from relaxify_examples.nbody.training import Budget, Epoch, Pair, Step, train_pair

RESULTS = "results.json"
CHECKPOINT = re.compile(r"seed\d+-(plain|relaxed|projected)\.safetensors")


@dataclass(frozen=True)
class Settings:
    """What is run. The defaults take about a minute on one core; the paper's network is `width=32, num_layers=4`."""

    epochs: int = 25
    train_size: int = 1000
    validation_size: int = 500
    test_size: int = 2000
    seeds: int = 1
    batch_size: int = 50
    learning_rate: float = 1e-2
    width: int = 16
    num_layers: int = 3


@dataclass(frozen=True)
class Stage:
    """The experiment begins something that takes a while and has no steps to count."""

    text: str


@dataclass(frozen=True)
class SeedResult:
    """One pair of trainings. Equivariance errors are relative and in float64; `relaxed` is taken at theta = 1."""

    seed: int
    test_mse_plain: float
    test_mse_projected: float
    step_time_ratio: float
    equivariance_error_plain: float
    equivariance_error_relaxed: float
    equivariance_error_projected: float
    converted_equals_projected: bool
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True)
class Result:
    """Everything measured; `linear_mse` is the test error of positions + velocities * time, for scale."""

    settings: Settings
    parameters_plain: int
    parameters_relaxed: int
    parameters_projected: int
    linear_mse: float
    seeds: tuple[SeedResult, ...]
    environment: dict[str, str]


def run(settings: Settings, out: Path | None = None, *, force: bool = False) -> Generator[Stage | Step, None, Result]:
    """Run the experiment, yielding its progress; what the generator returns is the result.

    With `out`, the checkpoints of every seed, `results.json` and `curves.png` stay there, written anew after each seed.
    ValueError, before anything is computed, if `out` holds results already and `force` is not given.
    """
    with _folder(out, force) as folder:
        sizes = f"{settings.train_size:,} train, {settings.validation_size:,} validation, {settings.test_size:,} test"
        yield Stage(f"Simulating {sizes} trajectories, unless cached")
        data = _load(settings)
        seeds: list[SeedResult] = []
        for seed in range(settings.seeds):
            pair, measured = yield from _run_seed(settings, seed, data, folder)
            seeds.append(measured)
            result = _result(settings, pair, data["test"], seeds)
            if out is not None:
                _write(folder / RESULTS, json.dumps(asdict(result), indent=2))
                yield from _draw(result, folder)
    return result


def _load(settings: Settings) -> dict[Split, Batch]:
    sizes: dict[Split, int] = {"train": settings.train_size, "valid": settings.validation_size, "test": settings.test_size}
    return {split: tensors(load(ChargedParticles(), split, size)) for split, size in sizes.items()}


def _run_seed(
    settings: Settings, seed: int, data: dict[Split, Batch], folder: Path
) -> Generator[Stage | Step, None, tuple[Pair, SeedResult]]:
    budget = Budget(settings.epochs, settings.batch_size, settings.learning_rate)
    yield Stage(f"Seed {seed}: training plainly and relaxed, step by step in turn")
    pair = yield from train_pair(_model(settings, seed), data["train"], data["valid"], budget, seed)
    yield Stage(f"Seed {seed}: saving, converting, reloading and testing")
    checkpoints = {name: folder / f"seed{seed}-{name}.safetensors" for name in ("plain", "relaxed", "projected")}
    for name, model in (("plain", pair.plain), ("relaxed", pair.relaxed)):
        write_whole(checkpoints[name], safetensors.torch.save(model.state_dict()), force=True)
    convert(checkpoints["relaxed"], checkpoints["projected"])
    # A seed that no run has: what the reloaded model knows it has from the file.
    reloaded = _model(settings, seed=settings.seeds)
    reloaded.load_state_dict(safetensors.torch.load_file(checkpoints["projected"]), strict=True)
    return pair, SeedResult(
        seed=seed,
        test_mse_plain=mean_square_error(pair.plain, data["test"]),
        test_mse_projected=mean_square_error(reloaded, data["test"]),
        step_time_ratio=pair.step_time_ratio,
        equivariance_error_plain=equivariance_error(pair.plain.eval(), data["valid"]),
        equivariance_error_relaxed=pair.peak_equivariance_error,
        equivariance_error_projected=equivariance_error(reloaded.eval(), data["valid"]),
        converted_equals_projected=identical(reloaded, project(pair.relaxed), data["test"]),
        epochs=pair.epochs,
    )


def _model(settings: Settings, seed: int) -> SEGNN:
    torch.manual_seed(seed)
    return SEGNN(settings.width, settings.num_layers)


def convert(source: Path, target: Path) -> None:
    """`relaxify convert`, in a process that knows nothing of the model. RuntimeError with its words if it fails."""
    command = [sys.executable, "-m", "relaxify_cli", "convert", str(source), "-o", str(target), "--force"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        raise RuntimeError(f"relaxify convert ended with code {outcome.returncode}: {outcome.stderr.strip()}")


def identical(a: nn.Module, b: nn.Module, data: Batch) -> bool:
    """Whether two models have the same state_dict keys, and equal values and outputs to the last bit."""
    states: tuple[dict[str, Tensor], ...] = (a.state_dict(), b.state_dict())
    same = list(states[0]) == list(states[1]) and all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    return same and torch.equal(predict(a, data), predict(b, data))


def _result(settings: Settings, pair: Pair, test: Batch, seeds: list[SeedResult]) -> Result:
    x, v, _, y = test
    return Result(
        settings=settings,
        parameters_plain=parameter_count(pair.plain),
        parameters_relaxed=parameter_count(pair.relaxed),
        parameters_projected=parameter_count(project(pair.relaxed)),
        linear_mse=float((x + v * ChargedParticles().horizon - y).square().mean()),
        seeds=tuple(seeds),
        environment={
            "relaxify": version("relaxify"),
            "torch": torch.__version__,
            "e3nn": e3nn.__version__,
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
        },
    )


@contextlib.contextmanager
def _folder(out: Path | None, force: bool) -> Iterator[Path]:
    """`out`, made if need be, or a temporary folder."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="relaxify-") as temporary:
            yield Path(temporary)
        return
    if not force and any(path.name in (RESULTS, "curves.png") or CHECKPOINT.fullmatch(path.name) for path in _files(out)):
        raise ValueError(
            f"{out} holds the results of an earlier run; choose another folder, or overwrite them with --force."
        )
    out.mkdir(parents=True, exist_ok=True)
    yield out


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _write(path: Path, text: str) -> None:
    write_whole(path, text.encode(), force=True)


def _draw(result: Result, folder: Path) -> Iterator[Stage]:
    if find_spec("matplotlib") is None:
        yield Stage("curves.png is not drawn, for matplotlib is not installed: pip install 'relaxify[plot]'")
        return
    from relaxify_examples.nbody.curves import draw

    draw(result, folder / "curves.png")
