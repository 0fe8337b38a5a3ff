"""A training that is saved and resumed is the training that was not, to the last bit, in all settings.

Steps with NaN are among them, which a GradScaler or the loop leaves out: controllers go on all the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from files import through_file
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import unchecked
from relaxed_states import bits
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from relaxify import ACE, RECM, RPP, Constant, Cosine, RelaxConfig, Triangle, penalty, relaxify
from relaxify_examples.models.vector_neurons import VNLinear

STEPS, NAN_STEPS = 8, (1, 4, 6)
CONTROLLERS: dict[str, Callable[..., Any]] = {
    "constant": lambda model, refold_every, scaler: Constant(model, STEPS, refold_every=refold_every),
    "triangle": lambda model, refold_every, scaler: Triangle(model, STEPS, until=0.7, refold_every=refold_every),
    "cosine": lambda model, refold_every, scaler: Cosine(model, STEPS, until=1, refold_every=refold_every),
    "ace": lambda model, refold_every, scaler: ACE(model, STEPS, until=0.7, scaler=scaler),
    "ace in part": lambda model, refold_every, scaler: ACE(model, STEPS, form="partial", scaler=scaler),
    "recm": lambda model, refold_every, scaler: RECM(model, STEPS, every=2, until=0.7),
    "rpp": lambda model, refold_every, scaler: RPP(model, 1e-2, 1e-5),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 1e-2, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, 1e-2, amsgrad=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 1e-2),
}
AVERAGES: dict[str, Callable[[nn.Module], AveragedModel] | None] = {
    "none": None,
    "swa": AveragedModel,
    "ema": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
}


class Vectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.second = VNLinear(2, 3), nn.Dropout(0.3), VNLinear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        v = self.first(x)
        return self.second(v * self.drop(v.norm(dim=2, keepdim=True)))


def images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 3, bias=False))


MODELS = {"vectors": (Vectors, "SO(3)", (2, 2, 3, 5)), "images": (images, "C(4)", (2, 2, 5, 5))}


@dataclass
class Run:
    """All that is saved of a training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    theta: Any
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    shape: tuple[int, ...]

    def step(self, number: int) -> None:
        x = torch.randn(self.shape)
        if number in NAN_STEPS:
            x[0] = torch.nan
        loss = (self.model(x) - 1).square().mean()
        loss = loss + penalty(self.model, relative_to=loss)
        if hasattr(self.theta, "loss_term"):
            loss = loss + self.theta.loss_term()
        self.scaler.scale(loss).backward()
        if self.scaler.is_enabled() or loss.isfinite():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.theta.step()

    def parts(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("model", "optimizer", "theta", "scaler", "average")}
        return {name: part for name, part in named.items() if part is not None}

    def state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts().items()} | {"stream": torch.get_rng_state()}

    def load(self, state: dict[str, Any]) -> None:
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["stream"])


def begun(
    model: str, controller: str, config: RelaxConfig, optimizer: str, average: str, scaled: bool, refold_every: int | None
) -> Run:
    make, group, shape = MODELS[model]
    torch.manual_seed(0)
    net = relaxify(make(), group, config=config)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2, enabled=scaled)
    theta = CONTROLLERS[controller](net, refold_every, scaler if scaled else None)
    averaged = AVERAGES[average]
    return Run(
        net, OPTIMIZERS[optimizer](net.parameters()), theta, scaler, None if averaged is None else averaged(net), shape
    )


def same(a: Any, b: Any) -> bool:
    """To the last bit, NaN included."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


CONFIGS = st.builds(
    RelaxConfig,
    reduction=st.sampled_from(["rms", "norm", "weights", "projection"]),
    rows=st.sampled_from([None, 4]),
    rank=st.sampled_from([None, 2]),
    share=st.sampled_from([None, 0.05]),
    init=st.sampled_from(["zeros", "normal"]),
)


@given(
    model=st.sampled_from(sorted(MODELS)),
    controller=st.sampled_from(sorted(CONTROLLERS)),
    config=CONFIGS,
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    average=st.sampled_from(sorted(AVERAGES)),
    scaled=st.booleans(),
    refold_every=st.sampled_from([None, 1, 3]),
    saved_at=st.integers(0, STEPS),
)
@settings(max_examples=25)
def test_resumed_training_is_uninterrupted_training(saved_at: int, **setting: Any) -> None:
    # the test run's own checks of types take most of the time of small steps
    with unchecked():
        assert_resumed(saved_at, **setting)


def assert_resumed(saved_at: int, **setting: Any) -> None:
    whole, first = begun(**setting), begun(**setting)
    torch.manual_seed(5)
    for number in range(STEPS):
        whole.step(number)
    expected = copy.deepcopy(whole.state())
    torch.manual_seed(5)
    for number in range(saved_at):
        first.step(number)
    saved = through_file(first.state())
    again = begun(**setting)
    again.load(saved)
    assert same(again.state(), saved)
    for number in range(saved_at, STEPS):
        again.step(number)
    assert same(again.state(), expected)


@given(controller=st.sampled_from(["constant", "triangle", "cosine"]), scaled=st.booleans())
@settings(max_examples=6)
def test_theta_goes_on_over_steps_that_are_left_out(controller: str, scaled: bool) -> None:
    """It depends on the number of calls alone; and the weights stay as they were."""
    run = begun("vectors", controller, RelaxConfig(), "sgd", "none", scaled, None)
    for number in range(STEPS):
        before = copy.deepcopy(dict(run.model.named_parameters()))
        run.step(number)
        calls = number + 1
        assert run.theta.theta == (run.theta.value(calls) if calls < run.theta.end else 0)
        assert same(before, dict(run.model.named_parameters())) == (number in NAN_STEPS)
