"""What spoils a relaxed training without an error is said, once, with its fix; and weight averages do not average theta."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from networks import WITH_CNN, Make, e3nn_net, randomise_terms, vn_net
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from relaxify import Cosine, Triangle, penalty, project, relaxify, set_theta
from relaxify.inspection.monitor import Monitor
from relaxify.relaxation.pitfalls import PATIENCE, PitfallWarning
from relaxify.relaxation.terms.term import terms_of

AVERAGES = {
    "ema of lists": {"multi_avg_fn": get_ema_multi_avg_fn(0.9)},
    "swa of lists": {"multi_avg_fn": get_swa_multi_avg_fn()},
    "ema": {"avg_fn": get_ema_avg_fn(0.9)},
    "default": {},
}


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("average", AVERAGES.values(), ids=list(AVERAGES))
def test_an_average_of_weights_has_the_theta_of_the_model(average: dict[str, Callable], use_buffers: bool) -> None:
    """Not an average of what theta was; and everything else is averaged as ever."""
    model, group, batch = e3nn_net()
    relaxify(model, group)
    averaged = AveragedModel(model, use_buffers=use_buffers, **average)
    optimizer, theta = torch.optim.Adam(model.parameters(), 1e-2), Cosine(model, 10)
    for _ in range(6):
        (model(*batch).square().mean() + penalty(model)).backward()
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(model)
        thetas = [[float(term.theta) for term in terms_of(net).values()] for net in (model, averaged)]
        assert thetas[0] == thetas[1] == pytest.approx([theta.theta] * 3)
        theta.step()
    weights = [model.first.weight, averaged.module.first.weight]
    assert not torch.equal(*weights)
    project(averaged.module, max_theta=0)


def test_other_copies_have_a_theta_of_their_own() -> None:
    model, group, _ = e3nn_net()
    twin = copy.deepcopy(relaxify(model, group))
    set_theta(model, 0.5)
    assert all(float(term.theta) == 0 for term in terms_of(twin).values())


def test_an_average_is_saved_and_loaded_like_a_model() -> None:
    model, group, _ = e3nn_net()
    averaged = AveragedModel(relaxify(model, group), use_buffers=True)
    set_theta(model, 0.5)
    state = averaged.state_dict()
    assert float(state["module.first.relaxation.theta"]) == 0.5
    fresh = AveragedModel(relaxify(e3nn_net()[0], group), use_buffers=True)
    fresh.load_state_dict(state)
    assert float(fresh.module.first.relaxation.theta) == 0.5


def train(
    model: nn.Module, batch: tuple[torch.Tensor, ...], steps: int, optimizer: torch.optim.Optimizer, *others: object
) -> None:
    for _ in range(steps):
        (model(*batch).square().mean() + penalty(model)).backward()
        optimizer.step()
        optimizer.zero_grad()
        for other in others:
            other.step()


def said(record: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in record if issubclass(warning.category, PitfallWarning)]


def with_schedule(model: nn.Module, optimizer: torch.optim.Optimizer, **options: float) -> object:
    return Triangle(model, 100, optimizer=optimizer, **options)


def with_monitor(model: nn.Module, optimizer: torch.optim.Optimizer, **options: float) -> object:
    theta, monitor = Triangle(model, 100, **options), Monitor(model, print, every=1000, optimizer=optimizer)
    monitor._sink = lambda step, values: None

    class Both:
        def step(self) -> None:
            theta.step()
            monitor.step()

    return Both()


WAYS = pytest.mark.parametrize("way", [with_schedule, with_monitor])


@WAYS
@WITH_CNN
def test_an_optimizer_that_was_made_before_the_terms(make: Make, way: Callable) -> None:
    model, group, batch = make()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    relaxify(model, group)
    with pytest.warns(PitfallWarning) as record:
        train(model, batch, 5, optimizer, way(model, optimizer))
    (sentence,) = said(record)
    assert "the optimizer holds no weights of" in sentence
    assert "make the optimizer after relaxify" in sentence


@WAYS
@WITH_CNN
def test_a_model_of_which_nothing_learns_but_the_terms(make: Make, way: Callable) -> None:
    """Of a part that is frozen nothing is said, nor of terms that are."""
    for frozen in ("all", "a part", "terms"):
        model, group, batch = make()
        own = list(model.parameters())
        relaxify(model, group)
        terms = [p for term in terms_of(model).values() for p in term.parameters()]
        for parameter in {"all": own, "a part": own[1:], "terms": terms}[frozen]:
            parameter.requires_grad_(False)
        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            train(model, batch, 5, optimizer, way(model, optimizer))
        assert len(said(record)) == (frozen == "all")
        assert all("weights of the model are frozen" in sentence for sentence in said(record))


@WAYS
def test_terms_that_act_when_the_learning_rate_is_over(way: Callable) -> None:
    """With until=1 beside a cosine to 0; by default theta is over in time."""
    for until, count in ((1, 1), (0.5, 0)):
        model, group, batch = vn_net()
        randomise_terms(relaxify(model, group))
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            train(model, batch, 99, optimizer, way(model, optimizer, until=until), rate)
        assert len(said(record)) == count
        assert all("of its peak" in sentence and "until=0.5" in sentence for sentence in said(record))


def test_a_theta_that_never_moved() -> None:
    """Which projecting tells, and a monitor while there is time."""
    model, group, batch = e3nn_net()
    relaxify(model, group)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    monitor = Monitor(model, lambda step, values: None, every=PATIENCE)
    train(model, batch, PATIENCE - 1, optimizer, monitor)
    project(model)
    with pytest.warns(PitfallWarning, match=r"theta was 0 in every training pass .* call its step"):
        train(model, batch, 2, optimizer, monitor)
    with pytest.warns(PitfallWarning, match="theta was 0 in every"):
        project(model)
    set_theta(model, 0.5)
    train(model, batch, 1, optimizer)
    set_theta(model, 0.0)
    project(model)


def test_dropping_terms_that_still_act() -> None:
    model, group, batch = e3nn_net()
    randomise_terms(relaxify(model, group))
    model(*batch)
    with pytest.warns(PitfallWarning, match=r"'first', 'product', 'last' still act.* mode='fold'"):
        project(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        project(model, mode="fold")
        set_theta(model, 0.0)
        project(model)


@pytest.mark.parametrize("mode", ["fold", "fit"])
def test_folding_when_nothing_of_the_terms_is_left_in_the_function(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    model, group, batch = e3nn_net()
    randomise_terms(relaxify(model, group))
    model(*batch)
    set_theta(model, 0.0)
    folded, dropped = project(model, mode=mode).state_dict(), project(model).state_dict()
    assert all(torch.equal(folded[key], value) for key, value in dropped.items())
    assert f"mode={mode!r} is 'drop' here" in caplog.text
