"""Training on smoke with a budget of seconds: rollouts, the choice of the epoch, the relaxed rows, and runs that go on."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from relaxify import projected, summary
from relaxify_examples.smoke import experiment, training
from relaxify_examples.smoke.__main__ import main
from relaxify_examples.smoke.data import Simulations, Task, Windows, windows
from relaxify_examples.smoke.experiment import FULL, GROUPS, ROWS, Run, Settings, runs, table
from relaxify_examples.smoke.generation import SYMMETRIES, Symmetry
from relaxify_examples.smoke.models import MODELS, Conv, parameter_count
from relaxify_examples.smoke.training import Budget, Relaxing, Trained, rmse, rollout, stops, train

TASK = Task(frames=2, horizon=2, reach=3)
BUDGET = Budget(epochs=2, settle=100)
TINY = Settings(task=TASK, budget=BUDGET, parameters=600, rows=("Conv",))


def waves(simulations: int = 4, time: int = 24, size: int = 8) -> Tensor:
    """Velocities of waves that wander over the box, each simulation at its own speed: they can be predicted."""
    t = torch.arange(time)[:, None, None]
    x = torch.arange(size) * 2 * math.pi / size
    phases = [x[:, None] + 2 * x - (0.2 + 0.073 * i) * t + 0.9 * i for i in range(simulations)]
    return torch.stack([torch.stack([phase.sin(), phase.cos()], 1) for phase in phases])


@pytest.fixture(scope="module")
def data() -> Simulations:
    return Simulations("rotation", waves())


def split(data: Simulations) -> tuple[Windows, Windows]:
    return windows(data, "train", TASK), windows(data, "valid", TASK)


class Truth(nn.Module):
    """Knows the simulations by heart: finds the last frame that it is shown, and returns the one after it."""

    def __init__(self, data: Simulations) -> None:
        super().__init__()
        self.frames = data.velocity

    def forward(self, seen: Tensor) -> Tensor:
        distances = (self.frames[None] - seen[:, None, None, -2:]).square().flatten(3).sum(-1)
        best = distances[:, :, :-1].flatten(1).argmin(1)
        return self.frames[:, 1:].flatten(0, 1)[best]


class Still(nn.Module):
    """Predicts that nothing moves."""

    def forward(self, seen: Tensor) -> Tensor:
        return seen[:, -2:]


@pytest.mark.parametrize("name", ["train", "valid", "future", "domain"])
def test_a_model_that_copies_the_truth_has_no_error(name: str, data: Simulations) -> None:
    part = windows(data, name, TASK)  # type: ignore[arg-type]
    assert rmse(Truth(data), part, batch_size=5) == 0
    assert rmse(Still(), part) > 0.1


def test_the_error_is_the_root_of_the_mean_over_everything(data: Simulations) -> None:
    part = windows(data, "future", TASK)
    x, y = part.batch(torch.arange(len(part)))
    expected = (y - x[:, None, -2:]).square().mean().sqrt()
    assert rmse(Still(), part, batch_size=3) == pytest.approx(float(expected), rel=1e-5)


def test_errors_are_measured_in_eval_mode_and_the_mode_is_put_back(data: Simulations) -> None:
    class Mode(Still):
        def forward(self, seen: Tensor) -> Tensor:
            return super().forward(seen) + (100.0 if self.training else 0.0)

    model, part = Mode().train(), windows(data, "valid", TASK)
    assert rmse(model, part) == rmse(Still(), part)
    assert model.training


def test_a_rollout_feeds_predictions_back() -> None:
    shown: list[Tensor] = []

    def model(seen: Tensor) -> Tensor:
        shown.append(seen)
        return seen[:, :2] + seen[:, -2:]

    # frames 1, 2 -> 3, 5, 8: each is the sum of the two before it
    seen = torch.tensor([1.0, 1.0, 2.0, 2.0]).reshape(1, 4, 1, 1)
    assert rollout(model, seen, 3)[0, :, 0, 0, 0].tolist() == [3, 5, 8]
    assert [part[0, ::2, 0, 0].tolist() for part in shown] == [[1, 2], [2, 3], [3, 5]]


def test_training_lowers_the_loss(data: Simulations) -> None:
    trained = train(Conv(2, 8), split(data), replace(BUDGET, epochs=15, batch_size=2, learning_rate=1e-2, decay=0.0), seed=0)
    first, last = trained.epochs[0], trained.epochs[-1]
    assert last.train < 0.4 * first.train
    assert last.valid < 0.6 * first.valid
    assert rmse(trained.model, windows(data, "future", TASK)) < rmse(Still(), windows(data, "future", TASK))


def test_the_best_epoch_in_validation_is_what_is_kept(data: Simulations, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, seen = iter([3.0, 1.0, 2.0]), []

    def score(model: nn.Module, part: Windows, batch_size: int = 32) -> float:
        assert part is valid
        seen.append([p.detach().clone() for p in model.parameters()])
        return next(scores)

    (of_training, valid) = split(data)
    monkeypatch.setattr(training, "rmse", score)
    trained = train(Conv(2, 4), (of_training, valid), replace(BUDGET, epochs=3), seed=0)
    assert trained.best_epoch == 2
    assert all(torch.equal(p, q) for p, q in zip(trained.model.parameters(), seen[1], strict=True))


def test_early_stopping_compares_five_epochs_with_five() -> None:
    falling = [float(10 - i) for i in range(10)]
    assert not stops(falling, 10)
    assert stops([*falling, 9, 9, 9, 9, 9], 10)
    assert not stops([1.0] * 9, 0)
    assert stops([1.0] * 10, 10)
    assert not stops([1.0] * 99, 100)


def test_training_stops_early_unless_relaxed(data: Simulations, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("escnn.nn")
    monkeypatch.setattr(training, "rmse", lambda *_: 1.0)
    budget = Budget(epochs=12, settle=10, batch_size=64)
    assert len(train(Conv(2, 2), split(data), budget, 0).epochs) == 10
    model = MODELS["Equiv"]("rotation", 2, 1, 8)
    relaxed = train(model, split(data), budget, 0, relaxing=Relaxing("C(4)", keep_relaxed=False))
    assert len(relaxed.epochs) == 12
    # one step an epoch
    assert [epoch.theta for epoch in relaxed.epochs] == pytest.approx([i / 6 for i in (1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0)])


def relaxed_row(name: str, symmetry: Symmetry, data: Simulations) -> tuple[nn.Module, Trained]:
    pytest.importorskip("escnn.nn")
    row = ROWS[name]
    assert row.keep_relaxed is not None
    model = MODELS[row.model](symmetry, 2, 1, 8)
    budget = replace(BUDGET, epochs=3, batch_size=32)
    return model, train(model, split(data), budget, 0, relaxing=Relaxing(GROUPS[symmetry], row.keep_relaxed))


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("name", ["Equiv+relax", "RPP+relax"])
def test_a_projected_row_is_of_its_own_class_and_size(name: str, symmetry: Symmetry, data: Simulations) -> None:
    model, trained = relaxed_row(name, symmetry, data)
    plain = MODELS[ROWS[name].model](symmetry, 2, 1, 8)
    assert list(trained.model.state_dict()) == list(plain.state_dict())
    assert parameter_count(trained.model) == parameter_count(plain) < parameter_count(model)
    x = torch.randn(1, 4, 8, 8)
    with projected(model):
        assert torch.equal(trained.model(x), model(x))


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_the_relaxed_steerable_row_stays_relaxed(symmetry: Symmetry, data: Simulations) -> None:
    model, trained = relaxed_row("RSteer+relax", symmetry, data)
    assert trained.model is model
    thetas = [layer.theta for layer in summary(model).layers.values()]
    # theta is what it was in the epoch that was best, and not the last one
    assert thetas == pytest.approx([trained.epochs[trained.best_epoch - 1].theta] * 5)


def test_runs_repeat_and_seeds_differ(data: Simulations, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Tensor] = []

    def noted(model: nn.Module, *arguments: Any, **options: Any) -> Trained:
        starts.append(next(model.parameters()).detach().clone())
        return train(model, *arguments, **options)

    monkeypatch.setattr(experiment, "train", noted)
    first, again, other = (experiment.run(data, "Conv", seed, TINY) for seed in (0, 0, 1))
    assert replace(first, seconds=0) == replace(again, seconds=0)
    assert first.future != other.future
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_the_seed_orders_the_windows(data: Simulations) -> None:
    def losses(seed: int) -> float:
        torch.manual_seed(0)
        return train(Conv(2, 2), split(data), BUDGET, seed).epochs[0].train

    assert losses(0) == losses(0) != losses(1)


def test_results_are_kept_and_gone_on_with(data: Simulations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    original = experiment.run

    def run(data: Simulations, name: str, seed: int, settings: Settings) -> Run:
        asked.append((name, seed))
        return original(data, name, seed, settings)

    monkeypatch.setattr(experiment, "run", run)
    settings = replace(TINY, symmetries=("rotation",), rows=("MLP", "Conv"), seeds=2)
    of = {"rotation": data}
    next(runs(of, settings, tmp_path))  # type: ignore[arg-type]
    assert asked == [("MLP", 0)]
    everything = list(runs(of, settings, tmp_path))  # type: ignore[arg-type]
    assert asked == [("MLP", 0), ("Conv", 0), ("MLP", 1), ("Conv", 1)]
    assert list(runs(of, settings, tmp_path)) == everything  # type: ignore[arg-type]
    assert len(asked) == 4
    saved = json.loads((tmp_path / "results.json").read_text())
    assert [Run(**entry) for entry in saved["runs"]] == everything
    text = table(everything)
    assert "| row | parameters |" in text
    assert text.count(" ± ") == 4


def test_results_of_another_experiment_are_left_alone(data: Simulations, tmp_path: Path) -> None:
    settings = replace(TINY, symmetries=("rotation",))
    list(runs({"rotation": data}, settings, tmp_path))
    before = (tmp_path / "results.json").read_text()
    others = [
        (data, replace(settings, parameters=700)),
        (Simulations("rotation", data.velocity + 1), settings),
    ]
    for of, changed in others:
        with pytest.raises(ValueError, match="other settings or data"):
            list(runs({"rotation": of}, changed, tmp_path))
    assert (tmp_path / "results.json").read_text() == before
    # another symmetry's data are no contradiction
    both = {"rotation": data, "scale": Simulations("scale", data.velocity)}
    assert len(list(runs(both, replace(settings, symmetries=SYMMETRIES), tmp_path))) == 2
    (tmp_path / "results.json").write_text("cut")
    with pytest.raises(ValueError, match="cannot be read"):
        list(runs({"rotation": data}, settings, tmp_path))


def test_divergence_is_an_error(data: Simulations) -> None:
    with pytest.raises(ValueError, match="training diverged"):
        train(Conv(2, 4), split(data), replace(BUDGET, learning_rate=1e30), seed=0)


def test_the_published_settings() -> None:
    assert FULL.task == Task(frames=10, horizon=6, reach=20)
    assert (FULL.budget.epochs, FULL.budget.learning_rate_decay, FULL.seeds) == (1000, 0.95, 5)
    with pytest.raises(ValueError, match="trains nothing"):
        Budget(epochs=0)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data" / "rotation"
    folder.mkdir(parents=True)
    for index, velocity in enumerate(waves(simulations=3, time=40)):
        safetensors.torch.save_file({"velocity": velocity}, folder / f"rotation-{index:02d}.safetensors")

    arguments = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--rows", "Conv", "--epochs", "1"]
    command = [sys.executable, "-m", "relaxify_examples.smoke", *arguments, "--symmetries", "rotation"]
    done = subprocess.run([*command, "--parameters", "1500"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| Conv | " in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]
    assert main([*arguments, "--symmetries", "scale"]) == 2
    assert "has neither scale-" in capsys.readouterr().err
