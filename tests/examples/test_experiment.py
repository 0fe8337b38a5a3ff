"""The N-body experiment on a budget of seconds: paired, honest about its measurements, and saved as it says."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from relaxify import penalty, project, relaxify, set_theta
from relaxify_examples.models.segnn import SEGNN
from relaxify_examples.nbody import experiment, training
from relaxify_examples.nbody.evaluate import equivariance_error, mean_square_error, parameter_count, tensors
from relaxify_examples.nbody.experiment import Result, Settings, Stage, convert, identical, run
from relaxify_examples.nbody.simulate import ChargedParticles, simulate
from relaxify_examples.nbody.training import Budget, Pair, Step, train_pair

TINY = Settings(epochs=4, train_size=40, validation_size=10, test_size=20, batch_size=20, width=4, num_layers=1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, ...]:
    return tensors(simulate(ChargedParticles(), "train", 40))


def finish(events: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value


def trained(data: tuple[Tensor, ...], epochs: int = 2, seed: int = 0, **changes: Any) -> tuple[list[Step], Pair]:
    torch.manual_seed(0)
    budget = dataclasses.replace(Budget(epochs, batch_size=20, learning_rate=1e-2), **changes)
    return finish(train_pair(SEGNN(4, 1), data, data, budget, seed))


def test_the_whole_line(tmp_path: Path) -> None:
    """One run, and everything it leaves behind."""
    events, result = finish(run(TINY, tmp_path))
    (measured,) = result.seeds
    assert isinstance(result, Result)
    assert [event.step for event in events if isinstance(event, Step)] == list(range(1, 9))
    assert any(isinstance(event, Stage) for event in events)

    plain, projected = SEGNN(4, 1), SEGNN(4, 1)
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / "seed0-plain.safetensors"), strict=True)
    projected.load_state_dict(safetensors.torch.load_file(tmp_path / "seed0-projected.safetensors"), strict=True)
    test = tensors(simulate(ChargedParticles(), "test", 20))
    assert measured.test_mse_plain == mean_square_error(plain, test)
    assert measured.test_mse_projected == mean_square_error(projected, test)
    assert measured.converted_equals_projected

    assert result.parameters_plain == result.parameters_projected == parameter_count(plain) < result.parameters_relaxed
    assert measured.equivariance_error_plain < 1e-12
    assert measured.equivariance_error_projected < 1e-12
    assert measured.equivariance_error_relaxed > 1e-4
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(dataclasses.asdict(result)))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_earlier_results_are_kept(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("precious")
    with pytest.raises(ValueError, match="holds the results of an earlier run"):
        next(run(TINY, tmp_path))
    assert (tmp_path / "results.json").read_text() == "precious"
    next(run(TINY, tmp_path, force=True))


def test_without_matplotlib_all_but_the_picture_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "find_spec", lambda _: None)
    monkeypatch.setattr(experiment, "convert", lambda source, target: target.write_bytes(_converted(source)))
    events, _ = finish(run(TINY, tmp_path))
    assert any("pip install 'relaxify[plot]'" in event.text for event in events if isinstance(event, Stage))
    assert (tmp_path / "results.json").exists()
    assert not (tmp_path / "curves.png").exists()


def test_a_checkpoint_with_terms_left_in_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "convert", lambda source, target: target.write_bytes(source.read_bytes()))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        finish(run(TINY, tmp_path))


def _converted(source: Path) -> bytes:
    state = safetensors.torch.load_file(source)
    return safetensors.torch.save({key: value for key, value in state.items() if ".relaxation." not in key})


def test_a_failed_conversion_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"relaxify convert ended with code 2: relaxify: .*missing\.safetensors"):
        convert(tmp_path / "missing.safetensors", tmp_path / "out.safetensors")


def test_both_models_get_the_same_start_and_data(data: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a term that cannot move, relaxed training is plain training: nothing else differs between the two."""
    batches: list[Tensor] = []
    original = training.Trainer.step

    def step(self: training.Trainer, batch: tuple[Tensor, ...]) -> tuple[float, float, float]:
        if self.theta is not None:
            set_theta(self.model, 0.0)
        batches.append(batch[0])
        return original(self, batch)

    monkeypatch.setattr(training.Trainer, "step", step)
    steps, pair = trained(data)
    assert all(torch.equal(a, b) for a, b in zip(batches[::2], batches[1::2], strict=True))
    assert [s.plain_loss for s in steps] == [s.relaxed_loss for s in steps]
    assert identical(pair.plain, project(pair.relaxed), data)


def test_theta_is_a_triangle_and_is_zero_in_the_second_half(data: tuple[Tensor, ...]) -> None:
    steps, pair = trained(data, epochs=4)
    assert [s.theta for s in steps] == [0, 0.5, 1, 0.5, 0, 0, 0, 0]
    assert [layer.theta for layer in training.summary(pair.relaxed).layers.values()] == [0, 0]
    assert steps[0].penalty == 0 < steps[3].penalty
    assert {s.penalty for s in steps[4:]} == {0}


def test_runs_repeat_and_seeds_differ(data: tuple[Tensor, ...]) -> None:
    (first, _), (again, _), (other, _) = trained(data), trained(data), trained(data, seed=1)
    assert first == again
    assert [s.plain_loss for s in other] != [s.plain_loss for s in first]


def test_training_reduces_the_loss(data: tuple[Tensor, ...]) -> None:
    _, pair = trained(data, epochs=10)
    first, last = pair.epochs[0], pair.epochs[-1]
    assert last.plain_loss < 0.5 * first.plain_loss
    assert last.relaxed_loss < 0.5 * first.relaxed_loss
    assert last.projected_validation < 0.5 * first.projected_validation


def test_the_penalty_keeps_the_terms_small(data: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def norms(factor: float) -> float:
        monkeypatch.setattr(training, "penalty", lambda model, relative_to: factor * penalty(model))
        _, pair = trained(data, epochs=8)
        return sum(layer.norm for layer in training.summary(pair.relaxed).layers.values())

    free, held = norms(0.0), norms(1.0)
    assert held < 0.5 * free


def test_only_update_nets_are_relaxed(data: tuple[Tensor, ...]) -> None:
    _, pair = trained(data, epochs=1)
    paths = training.summary(pair.relaxed).layers
    assert len(paths) == 2
    assert all(path.startswith("layers.0.update_") for path in paths)


def test_divergence_is_an_error(data: tuple[Tensor, ...]) -> None:
    with pytest.raises(ValueError, match="training diverged"):
        trained(data, epochs=3, learning_rate=1e30)


def test_the_equivariance_error_sees_a_broken_model(data: tuple[Tensor, ...]) -> None:
    model = SEGNN(4, 1)
    assert equivariance_error(model, data) < 1e-13
    broken = relaxify(copy.deepcopy(model), "O(3)")
    for name, parameter in broken.named_parameters():
        if name.endswith("relaxation.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
    set_theta(broken, 1.0)
    assert equivariance_error(broken, data) > 1e-2
    assert equivariance_error(broken.eval(), data) < 1e-13


def test_errors_are_measured_in_eval_mode_whatever_the_batch(data: tuple[Tensor, ...]) -> None:
    class Mode(torch.nn.Module):
        def forward(self, x: Tensor, v: Tensor, q: Tensor) -> Tensor:
            return x + (1.0 if self.training else 0.0)

    model, x = Mode().train(), data[0]
    assert mean_square_error(model, (x, x, x, x + 2)) == pytest.approx(4)
    assert model.training


def test_identical_looks_at_keys_values_and_outputs(data: tuple[Tensor, ...]) -> None:
    model = SEGNN(4, 1)
    assert identical(model, copy.deepcopy(model), data)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head_1.linear.bias[0] = math.nextafter(float(other.head_1.linear.bias[0]), 9) + 1e-6
    assert not identical(model, other, data)
    assert not identical(model, relaxify(copy.deepcopy(model), "O(3)"), data)
