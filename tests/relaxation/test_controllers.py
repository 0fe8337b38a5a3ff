"""Schedules of theta: their formulas, their ends, and resuming as if nothing had happened."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from files import through_file
from hypothesis import given
from hypothesis import strategies as st
from networks import Batch, Make, cnn_net, e3nn_net, randomise_terms, train, unchecked, vn_net
from torch import nn

from relaxify import (
    ACE,
    RECM,
    Constant,
    Controller,
    Cosine,
    RelaxConfig,
    Triangle,
    penalty,
    project,
    relaxify,
    set_theta,
    summary,
)
from relaxify.relaxation.controllers.schedules import Schedule
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.terms.term import terms_of

SCHEDULES = pytest.mark.parametrize("schedule", [Constant, Triangle, Cosine])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return relaxify(vn_net()[0], "SO(3)")


def values(controller: Schedule, steps: int) -> list[float]:
    """theta at each of the next steps, as the terms have it."""
    seen = []
    for _ in range(steps):
        (theta,) = {float(term.theta) for term in terms_of(controller.model).values()}
        assert theta == pytest.approx(controller.theta, rel=1e-6, abs=1e-6)
        seen.append(controller.theta)
        controller.step()
    return seen


@given(st.integers(1, 60), st.floats(-2, 2))
def test_triangle_is_the_papers_formula(model: nn.Module, n: int, peak: float) -> None:
    """theta_i = 2i/N for i < N/2 and 2 - 2i/N for i >= N/2 (CR sec. 3.2), times the peak; odd and even N."""
    exact = [Fraction(2 * i, n) if 2 * i < n else 2 - Fraction(2 * i, n) for i in range(n)]
    controller = Triangle(model, n, peak=peak, until=1)
    assert values(controller, n) == pytest.approx([peak * float(theta) for theta in exact])
    assert controller.theta == 0


@given(st.integers(1, 60))
def test_cosine_goes_down_half_a_period(model: nn.Module, n: int) -> None:
    cosine = Cosine(model, n, until=1)
    assert values(cosine, n) == pytest.approx([math.cos(math.pi * i / (2 * n)) ** 2 for i in range(n)])


@given(st.integers(1, 60), st.floats(0.01, 1))
@pytest.mark.parametrize(
    ("schedule", "formula"),
    [(Triangle, lambda part: min(2 * part, 2 - 2 * part)), (Cosine, lambda part: math.cos(math.pi * part / 2) ** 2)],
)
def test_a_schedule_until_a_fraction_is_the_whole_one_in_less_time(
    model: nn.Module, schedule: type[Schedule], formula: Callable[[float], float], n: int, until: float
) -> None:
    """theta at step i of N is the formula at i / (until * N), and 0 from until * N on."""
    expected = [formula(i / (until * n)) if i < until * n else 0.0 for i in range(n)]
    assert values(schedule(model, n, until=until), n) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", [Triangle, Cosine])
def test_by_default_theta_is_zero_in_the_second_half_of_the_training(model: nn.Module, schedule: type[Schedule]) -> None:
    thetas = values(schedule(model, 20), 20)
    assert all(thetas[1:10])
    assert thetas[10:] == [0.0] * 10


def test_constant_stays(model: nn.Module) -> None:
    assert values(Constant(model, peak=0.25), 5) == [0.25] * 5


def test_constant_falls_where_it_is_told_to(model: nn.Module) -> None:
    assert values(Constant(model, 8, peak=0.25, until=0.25), 4) == [0.25, 0.25, 0, 0]


@pytest.mark.parametrize("schedule", [Triangle, Cosine])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 64, 99])
@pytest.mark.parametrize("until", [0.3, 0.5, 1])
def test_annealed_schedules_end_at_exactly_zero_and_stay_there(
    model: nn.Module, schedule: type[Schedule], n: int, until: float
) -> None:
    controller = schedule(model, n, until=until)
    values(controller, n)
    assert values(controller, 2 * n) == [0.0] * 2 * n
    assert all(float(term.theta) == 0 for term in terms_of(model).values())
    project(model, max_theta=0)


def test_triangle_starts_at_zero_and_rises_to_its_peak_in_the_middle(model: nn.Module) -> None:
    thetas = values(Triangle(model, 10, peak=0.8, until=1), 10)
    assert thetas[0] == 0
    assert max(thetas) == thetas[5] == 0.8


@SCHEDULES
def test_making_a_schedule_sets_theta_at_once(model: nn.Module, schedule: type[Schedule]) -> None:
    Constant(model, peak=0.3)
    controller = schedule(model, 10)
    assert {float(term.theta) for term in terms_of(model).values()} == {controller.theta}


def start(
    make: Make, schedule: type[Schedule], config: RelaxConfig
) -> tuple[nn.Module, torch.optim.Optimizer, Schedule, Batch]:
    torch.manual_seed(0)
    model, group, batch = make()
    relaxify(model, group, config=config)
    return model, torch.optim.Adam(model.parameters(), 1e-2), schedule(model, 8), batch


def go_on(model: nn.Module, optimizer: torch.optim.Optimizer, theta: Schedule, batch: Batch, steps: int) -> None:
    for _ in range(steps):
        loss = (model(*batch) - 1).square().mean() + penalty(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        theta.step()


EXACT, RANK, SAMPLED = RelaxConfig(rows=None), RelaxConfig(rank=2), RelaxConfig(rows=4)


# every two of network, schedule and config meet
@pytest.mark.parametrize(
    ("make", "schedule", "config"),
    [
        (e3nn_net, Constant, EXACT), (e3nn_net, Triangle, RANK), (e3nn_net, Cosine, SAMPLED),
        (vn_net, Constant, RANK), (vn_net, Triangle, SAMPLED), (vn_net, Cosine, EXACT),
        (cnn_net, Constant, SAMPLED), (cnn_net, Triangle, EXACT), (cnn_net, Cosine, RANK),
    ],
)  # fmt: skip
def test_resumed_training_is_uninterrupted_training_bit_for_bit(
    make: Make, schedule: type[Schedule], config: RelaxConfig
) -> None:
    """After saving and loading model, optimiser, controller and torch's random state in the middle."""
    model, *rest = whole = start(make, schedule, config)
    torch.manual_seed(5)
    go_on(*whole, steps=6)
    expected = {key: value.clone() for key, value in model.state_dict().items()}

    first = start(make, schedule, config)
    torch.manual_seed(5)
    go_on(*first, steps=3)
    saved = through_file({name: part.state_dict() for name, part in zip("moc", first, strict=False)})
    rng = torch.get_rng_state()

    again = start(make, schedule, config)
    for name, part in zip("moc", again, strict=False):
        part.load_state_dict(saved[name])
    torch.set_rng_state(rng)
    go_on(*again, steps=3)
    assert again[2].theta == rest[1].theta
    for key, value in expected.items():
        assert torch.equal(again[0].state_dict()[key], value), key


def test_the_state_of_a_schedule_is_plain_data(model: nn.Module) -> None:
    with unchecked():
        theta = Triangle(model, np.int64(10), peak=np.float32(0.5), until=np.float32(0.25))
    values(theta, 3)
    state = theta.state_dict()
    assert state == {"schedule": "Triangle", "steps": 3, "total_steps": 10, "peak": 0.5, "until": 0.25}
    assert {type(value) for value in state.values()} == {str, int, float}


@pytest.mark.parametrize(("schedule", "until"), [(Triangle, 1.0), (Cosine, 1.0), (Constant, None)])
def test_a_state_of_before_schedules_ended_early_goes_on_to_the_last_step(
    model: nn.Module, schedule: type[Schedule], until: float | None
) -> None:
    theta = schedule(model, 10)
    theta.load_state_dict({"schedule": schedule.__name__, "steps": 6, "total_steps": 10, "peak": 1.0})
    assert theta.span.until == until
    assert theta.theta == schedule(model, 10, until=until).value(6)


def test_loading_a_state_sets_theta_at_once() -> None:
    model, group, _ = e3nn_net()
    relaxify(model, group)
    saved = Triangle(model, 10, peak=0.5, until=1)
    values(saved, 3)
    theta = Triangle(model, 99)
    with pytest.warns(PitfallWarning, match=r"made with total_steps=99, .* with total_steps=10, until=1.0, peak=0.5;"):
        theta.load_state_dict(saved.state_dict())
    assert (theta.span.total_steps, theta.theta) == (10, pytest.approx(0.3))
    assert [float(term.theta) for term in terms_of(model).values()] == pytest.approx([0.3] * 3)


@pytest.mark.parametrize("make", [Triangle, ACE, RECM])
def test_a_controller_that_goes_on_by_another_length_than_it_was_made_with_says_so(
    model: nn.Module, make: Callable[[nn.Module, int], Controller]
) -> None:
    """And loads, in silence, a state with the length that it was made with."""
    saved = make(model, 10).state_dict()
    again, longer = make(model, 10), make(model, 20)
    again.load_state_dict(saved)
    with pytest.warns(PitfallWarning, match=r"was made with total_steps=20, .* load \{\*\*state, 'total_steps': 20\}"):
        longer.load_state_dict(saved)
    assert longer.state_dict() == saved
    longer = make(model, 20)
    longer.load_state_dict({**saved, "total_steps": 20})
    assert longer.state_dict() == {**saved, "total_steps": 20}


@pytest.mark.parametrize(
    ("state", "parts"),
    [
        (
            {"schedule": "Cosine", "steps": 3, "total_steps": 5, "peak": 1.0},
            ["schedule 'Cosine', not 'Triangle'", "resume with the controller that saved it"],
        ),
        ({}, ["None, not 'Triangle'"]),
        ({"schedule": "Triangle", "steps": 3}, ["no peak, total_steps", "what state_dict() returned"]),
    ],
)
def test_the_state_of_something_else_is_refused(model: nn.Module, state: dict[str, Any], parts: list[str]) -> None:
    theta = Triangle(model, 10)
    values(theta, 4)
    before = theta.state_dict()
    with pytest.raises(ValueError, match=r".") as error:
        theta.load_state_dict(state)
    assert all(part in str(error.value) for part in parts)
    assert theta.state_dict() == before


def test_theta_that_moved_is_what_training_sees() -> None:
    """The same W at theta = 0 and after one step of the schedule gives different outputs."""
    model, group, batch = e3nn_net()
    train(relaxify(model, group), batch)
    theta = Triangle(model, 4)
    before = model(*batch)
    theta.step()
    assert not torch.allclose(model(*batch), before)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_negative_theta_is_that_of_the_opposite_weights(sign: int) -> None:
    """In the output, the share and what folds."""
    model, group, batch = e3nn_net()
    randomise_terms(relaxify(model, group))
    twin = copy.deepcopy(model)
    for term in terms_of(twin).values():
        term.weight.data.neg_()
    set_theta(model, sign * 0.5)
    set_theta(twin, -sign * 0.5)
    torch.testing.assert_close(model(*batch), twin(*batch))
    penalty(model), penalty(twin)
    shares = [[layer.share for layer in summary(net).layers.values()] for net in (model, twin)]
    assert shares[0] == pytest.approx(shares[1])
    folded = [project(net, mode="fold")(*batch) for net in (model, twin)]
    torch.testing.assert_close(*folded)
