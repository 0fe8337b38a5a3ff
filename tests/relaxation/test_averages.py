"""Averages of weights that a loop makes by hand of a copy have the theta of the model; other copies have their own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from networks import e3nn_net
from torch import nn
from torch_ema import ExponentialMovingAverage

from relaxify import Cosine, Triangle, penalty, project, relaxify, set_theta, thetas
from relaxify.record import Record
from relaxify.relaxation.controllers.schedules import Schedule


def by_data(average: nn.Module, model: nn.Module) -> None:
    for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
        ours.data.mul_(0.9).add_(theirs.data, alpha=0.1)


@torch.no_grad()
def by_lerp(average: nn.Module, model: nn.Module) -> None:
    for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
        ours.lerp_(theirs, 0.1)


def with_buffers(average: nn.Module, model: nn.Module) -> None:
    by_data(average, model)
    for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
        ours.data.mul_(0.9).add_(theirs.data, alpha=0.1)


@torch.no_grad()
def of_the_state(average: nn.Module, model: nn.Module) -> None:
    for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if ours.is_floating_point():
            ours.copy_(0.9 * ours + 0.1 * theirs)


@torch.no_grad()
def of_all_of_the_state(average: nn.Module, model: nn.Module) -> None:
    """As timm's ModelEma does it, without a look at what the entries are."""
    for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        ours.copy_(0.9 * ours + 0.1 * theirs)


BY_HAND = pytest.mark.parametrize("update", [by_data, by_lerp, with_buffers, of_the_state, of_all_of_the_state])


def start(schedule: type[Schedule]) -> tuple[nn.Module, Callable[[int], None]]:
    model, group, batch = e3nn_net()
    relaxify(model, group)
    optimizer, theta = torch.optim.Adam(model.parameters(), 1e-2), schedule(model, 16)
    theta.attach(optimizer)

    def go_on(steps: int, after: Callable[[], None] = lambda: None) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (model(*batch).square().mean() + penalty(model)).backward()
            optimizer.step()
            after()

    return model, go_on


@BY_HAND
@pytest.mark.parametrize("schedule", [Cosine, Triangle])
def test_an_average_by_hand(schedule: type[Schedule], update: Callable[[nn.Module, nn.Module], None]) -> None:
    """In the middle of the training, saved and resumed there, and after the last step."""
    model, go_on = start(schedule)
    go_on(3)
    average = copy.deepcopy(model)
    go_on(2, lambda: update(average, model))
    assert thetas(average) == thetas(model) != dict.fromkeys(thetas(model), 0.0)
    resumed = copy.deepcopy(model)
    resumed.load_state_dict(average.state_dict())
    assert thetas(resumed) == thetas(model)
    for net in (average, resumed):
        twin = model if net is average else resumed
        assert thetas(twin) == thetas(model)
    go_on(3, lambda: (update(average, model), update(resumed, model)))
    for net in (average, resumed):
        project(net, max_theta=0)
        folded, dropped = project(net, mode="fold").state_dict(), project(net).state_dict()
        assert all(torch.equal(folded[key], value) for key, value in dropped.items())
        assert float(net.state_dict()["first.relaxation.theta"]) == 0


def test_an_average_that_is_put_into_the_model() -> None:
    model, go_on = start(Cosine)
    average = ExponentialMovingAverage(model.parameters(), 0.9)
    go_on(4, average.update)
    with average.average_parameters():
        assert thetas(model)["first"] == 0.5
        assert thetas(copy.deepcopy(model)) == thetas(model)
    go_on(4, average.update)
    average.copy_to()
    project(model, max_theta=0)


def test_other_copies_keep_the_theta_that_they_have() -> None:
    """One that is kept as it was, one that was loaded, one that is trained itself, and one whose theta is set."""
    model, go_on = start(Cosine)
    go_on(4)
    kept, loaded, forked, own = (copy.deepcopy(model) for _ in range(4))
    loaded.load_state_dict(model.state_dict())
    set_theta(own, 0.25)
    by_data(own, e3nn_relaxed())
    forked(*e3nn_net()[2]).square().mean().backward()
    by_data(forked, e3nn_relaxed())
    go_on(4)
    assert set(thetas(model).values()) == {0.0}
    for net, theta in ((kept, 0.5), (loaded, 0.5), (forked, 0.5), (own, 0.25)):
        assert list(thetas(net).values()) == pytest.approx([theta] * 3)


def e3nn_relaxed() -> nn.Module:
    model, group, _ = e3nn_net()
    relaxify(model, group)
    for parameter in model.parameters():
        parameter.data.normal_()
    return model


def test_without_the_model_an_average_has_what_it_had() -> None:
    model, go_on = start(Cosine)
    go_on(4)
    average = copy.deepcopy(model)
    by_data(average, e3nn_relaxed())
    del model, go_on
    with pytest.raises(ValueError, match="set_theta"):
        project(average, max_theta=0)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_entries_of_a_state_have_the_same_shapes_at_every_step(scaled: bool) -> None:
    """So that what copies one state into another goes on after the tenth step, and once an attribute was seen to vary."""
    layer = o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x0e", "2x1o") if scaled else o3.Linear("2x0e+2x1o", "2x1o")
    model = relaxify(layer, "O(3)").train()
    records, text = {}, model.state_dict()["relaxation._extra_state"]
    for attribute in (0.7, 0.123456789, -1e-3):
        for _ in range(12):
            model(torch.randn(4, 8), *[torch.full((4, 1), attribute)] * scaled)
        record = model.state_dict()["relaxation._extra_state"]
        records[attribute] = Record.decode(record)
        assert record.shape == text.shape
    assert len(set(map(str, records.values()))) == 3
