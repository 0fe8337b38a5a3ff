"""Five models of users' own, each through the whole line: plan, train, resume, project, convert, load, compare."""

from __future__ import annotations

from pathlib import Path

import own_models
import pytest
import torch
from files import through_file
from torch import Tensor, nn

from relaxify import Triangle, penalty, project, relaxify, summary
from relaxify_cli.main import run

STEPS = 4
MODELS = {
    own_models.GatedPoints: ("O(3)", own_models.positions),
    own_models.VectorNeurons: ("SO(3)", own_models.clouds),
    own_models.EightTurns: ("C(8)", own_models.images),
    own_models.Painn: ("O(3)", own_models.positions),
    own_models.Cnn: ("C(4)", own_models.images),
}

# without example inputs: pixels turn onto pixels by quarters only
BY_LAYERS = {own_models.EightTurns}
# their kernels are made of weights by code that a checkpoint does not have
FOLDED_WITH_CODE = {own_models.EightTurns, own_models.Cnn}


class Training:
    """A relaxed model with its optimizer and schedule, whose theta is far from 0 where these tests leave it."""

    def __init__(self, make: type[nn.Module], group: str, x: Tensor) -> None:
        torch.manual_seed(0)
        self.model = relaxify(make(), group, example_inputs=None if make in BY_LAYERS else [x])
        self.theta = Triangle(self.model, 6 * STEPS)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-2)
        self.x, self.target = x, torch.ones(())

    def steps(self, seed: int) -> None:
        torch.manual_seed(seed)
        for _ in range(STEPS):
            loss = (self.model(self.x) - self.target).square().mean()
            (loss + penalty(self.model, relative_to=loss)).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.theta.step()

    @property
    def parts(self) -> dict[str, object]:
        return {"model": self.model, "optimizer": self.optimizer, "theta": self.theta}


def resumed(training: Training, again: Training) -> Training:
    for name, part in again.parts.items():
        part.load_state_dict(through_file(training.parts[name].state_dict()))  # type: ignore[attr-defined]
    return again


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_model_goes_the_whole_line(make: type[nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if make is own_models.EightTurns:
        pytest.importorskip("escnn")
    group, inputs = MODELS[make]
    x = inputs()
    given = [] if make in BY_LAYERS else ["--inputs", f"own_models:{inputs.__name__}"]
    assert run(["plan", f"own_models:{make.__name__}", "--group", group, *given]) == 0
    training = Training(make, group, x)
    training.steps(seed=1)
    again = resumed(training, Training(make, group, x))
    for each in (training, again):
        each.steps(seed=2)
    state = training.model.state_dict()
    assert all(torch.equal(value, again.model.state_dict()[key]) for key, value in state.items())
    terms = summary(again.model)
    assert not terms.dead
    assert all(layer.theta > 0 and layer.norm > 0 for layer in terms.layers.values())

    source = tmp_path / "relaxed.pt"
    torch.save(again.model.state_dict(), source)
    for mode, tolerance in (("drop", 0.0),) if make in FOLDED_WITH_CODE else (("drop", 0.0), ("fold", 1e-5)):
        plain, target = make(), tmp_path / f"{mode}.pt"
        assert run(["convert", str(source), "-o", str(target), "--mode", mode]) == 0, capsys.readouterr().err
        plain.load_state_dict(torch.load(target, weights_only=True), strict=True)
        clean = project(again.model, mode=mode)
        assert type(clean) is make
        assert list(clean.state_dict()) == list(plain.state_dict())
        torch.testing.assert_close(plain.eval()(x), clean.eval()(x), rtol=tolerance, atol=tolerance)
