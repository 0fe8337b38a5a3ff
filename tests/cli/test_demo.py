"""`relaxify demo` from the command line: the whole line on a budget of seconds, and how it shows, saves and refuses."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relaxify_cli import demo as module
from relaxify_cli.main import run


@pytest.fixture(autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The experiment with training replaced by made-up figures; `seeds` holds what it measures."""
    real = module.load_experiment()
    fine = real.SeedResult(
        seed=0,
        test_mse_plain=0.25,
        test_mse_projected=0.125,
        step_time_ratio=1.5,
        equivariance_error_plain=1e-15,
        equivariance_error_relaxed=1e-1,
        equivariance_error_projected=1e-15,
        converted_equals_projected=True,
        epochs=(),
    )
    fake = SimpleNamespace(Settings=real.Settings, seeds=[fine])

    def events(settings: Any, out: Path | None, *, force: bool) -> Iterator[Any]:
        for measured in fake.seeds:
            yield real.Stage(f"Seed {measured.seed}: [training]")
            for step in range(1, 1201):
                yield real.Step(measured.seed, step, 1200, 0.5 / step, 0.4 / step, 0.03, step / 1200, 0.125)
        return real.Result(settings, 1234, 5678, 1234, 0.1, tuple(fake.seeds), {})

    fake.run = events
    monkeypatch.setattr(module, "load_experiment", lambda: fake)
    return fake


def test_one_command_trains_converts_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = module.load_experiment()
    monkeypatch.setattr(experiment, "Settings", functools.partial(experiment.Settings, validation_size=20, test_size=50))
    budget = ["--epochs", "1", "--train-size", "50", "--width", "2", "--layers", "1"]
    assert run(["demo", *budget, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    (measured,) = results["seeds"]
    rows = {line[:18].strip(): line[18:].split() for line in shown.splitlines()}
    assert rows["test MSE"] == [f"{measured['test_mse_plain']:.5f}", f"{measured['test_mse_projected']:.5f}"]
    counts = [results[f"parameters_{which}"] for which in ("plain", "relaxed", "projected")]
    assert rows["parameters"] == [f"{count:,}" for count in counts]
    assert len(rows["equivariance error"]) == 3
    assert "equals project(model) bit for bit" in shown
    assert str(tmp_path) in shown.replace("\n", "")


@pytest.mark.usefixtures("experiment")
def test_output_that_is_piped_is_plain_and_narrow(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "Seed 0: [training]" in shown
    progress = [line for line in shown.splitlines() if "theta" in line and "%" in line]
    assert len(progress) == module.LINES_PER_SEED
    assert progress[4] == " 50%  loss 0.0008 plain, 0.0007 relaxed  theta 0.50  penalty 0.0300  share 12.5%"


@pytest.mark.usefixtures("experiment")
def test_a_terminal_gets_a_live_bar_that_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(["demo"]) == 0
    shown = capsys.readouterr().out
    assert "1200/1200" in shown
    assert "theta 1.00" in shown
    last_frame, _, remains = shown.rpartition("\x1b[2K")
    assert "theta 1.00" in last_frame
    assert "0.12500" in remains
    assert "1200/1200" not in remains


def test_several_seeds_get_a_row_each_and_their_mean(
    experiment: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment.seeds.append(dataclasses.replace(experiment.seeds[0], seed=1, test_mse_plain=0.35, step_time_ratio=1.7))
    assert run(["demo"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["test", "MSE,", "seed", "1", "0.35000", "0.12500"] in lines
    assert ["test", "MSE,", "mean", "0.30000", "±", "0.07071", "0.12500", "±", "0.00000"] in lines
    assert ["training", "step", "time", "1", "1.60"] in lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"converted_equals_projected": False}, "differs from project"),
        ({"equivariance_error_projected": 1e-3}, "is 1.0e-03"),
    ],
)
def test_a_check_that_fails_is_a_failure(
    change: dict[str, Any], message: str, experiment: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment.seeds[:] = [dataclasses.replace(experiment.seeds[0], **change)]
    assert run(["demo"]) == 1
    assert message in capsys.readouterr().err


def test_earlier_results_are_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text("{}")
    assert run(["demo", "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "overwrite them with --force" in captured.err
    assert captured.out == ""


def test_missing_e3nn_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "e3nn" else find_spec(name, *a))
    assert run(["demo"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "e3nn is not installed" in error
    assert "pip install 'relaxify[e3nn]'" in error
