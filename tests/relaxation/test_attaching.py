"""A controller that optimizers step: once for each step of the loop, whoever leaves it out, and as a loop by hand would."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from networks import Make, cnn_net, e3nn_net, unchecked, vn_net
from torch import nn

from relaxify import ACE, RECM, RPP, Cosine, Triangle, penalty, relaxify, thetas
from relaxify.relaxation.controllers.attaching import Attachable
from relaxify.relaxation.pitfalls import PitfallWarning

CONTROLLERS: dict[str, Callable[[nn.Module], Attachable]] = {
    "Triangle": lambda model: Triangle(model, 8, refold_every=2),
    "ACE": lambda model: ACE(model, 8),
    "RECM": lambda model: RECM(model, 8, every=1),
    "RPP": lambda model: RPP(model, 1e-3, 1e-3),
}


def small_net() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return relaxify(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3)), "C(4)"), torch.randn(4, 2, 7, 7)


def losses(
    model: nn.Module, batch: tuple[torch.Tensor, ...], optimizer: torch.optim.Optimizer, after: Callable
) -> list[float]:
    found = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = (model(*batch) - 1).square().mean() + penalty(model)
        loss.backward()
        optimizer.step()
        after()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(
    ("make", "controller"),
    [(vn_net, "Triangle"), (cnn_net, "Triangle"), (e3nn_net, "ACE"), (vn_net, "RECM"), (cnn_net, "RPP")],
)
def test_it_is_the_loop_by_hand_bit_for_bit(make: Make, controller: str) -> None:
    torch.manual_seed(3)
    model, group, batch = make()
    twin = copy.deepcopy(relaxify(model, group))
    optimizers = [torch.optim.Adam(net.parameters(), 1e-2) for net in (model, twin)]
    by_hand, attached = CONTROLLERS[controller](model), CONTROLLERS[controller](twin)
    attached.attach(optimizers[1])
    found = []
    for net, optimizer, after in zip((model, twin), optimizers, (by_hand.step, list), strict=True):
        torch.manual_seed(5)
        found.append(losses(net, batch, optimizer, after))
    assert found[0] == found[1]
    assert by_hand.state_dict() == attached.state_dict()


def with_overflows(kind: str, overflows: set[int], *, given: bool, steps: int = 8) -> tuple[int, list[float]]:
    """The steps counted, and theta after each step of a loop whose loss overflows in some; from a scale that is too high."""
    model, x = small_net()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, fused=kind == "fused")
    scaler, theta = torch.amp.GradScaler("cpu", init_scale=2.0**10), Cosine(model, steps, until=1)
    theta.attach(optimizer, **({"scaler": scaler} if given else {}))
    seen = []
    for step in range(steps):
        optimizer.zero_grad()
        scaler.scale(model(x).square().mean() * (float("inf") if step in overflows else 1.0)).backward()
        if kind == "unscaled":
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        seen.append(thetas(model)["0"])
    return theta.steps, seen


@pytest.mark.parametrize("kind", ["plain", "unscaled", "fused"])
@pytest.mark.parametrize("overflows", [set(), {0, 1}, {2, 5}, {0, 3, 7}, {1, 2, 3, 4, 5, 6, 7}], ids=str)
def test_steps_that_a_scaler_leaves_out_count(kind: str, overflows: set[int]) -> None:
    expected = with_overflows(kind, set(), given=True)
    assert expected[0] == 8
    assert expected[1][-1] == 0
    assert with_overflows(kind, overflows, given=True) == expected
    steps, seen = with_overflows(kind, overflows, given=False)
    first = min(set(range(8)) - overflows)
    assert steps == 8
    # what is skipped before the scaler is known is made up for at the first step that is not
    assert seen[first:] == expected[1][first:]


def test_of_several_optimizers_each_has_to_step() -> None:
    model, _ = small_net()
    first, second = torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.SGD(model[1].parameters(), 0.1)
    theta = Triangle(model, 8)
    theta.attach(first, second)
    for _ in range(5):
        first.step()
    assert theta.steps == 0
    second.step()
    assert theta.steps == 1
    second.step()
    first.step()
    assert theta.steps == 2


def test_two_optimizers_and_a_scaler_that_leaves_one_out() -> None:
    model, x = small_net()
    optimizers = [torch.optim.SGD(layer.parameters(), 1e-3) for layer in model]
    theta, scaler = Triangle(model, 8), torch.amp.GradScaler("cpu", init_scale=4.0)
    theta.attach(*optimizers, scaler=scaler)
    for step in range(6):
        scaler.scale(model(x).square().mean()).backward()
        if step % 2:
            model[1].weight.grad.fill_(float("nan"))
        for optimizer in optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()
    assert theta.steps == 6


def test_a_loop_that_steps_it_as_well_is_told() -> None:
    model, _ = small_net()
    optimizer, theta = torch.optim.SGD(model.parameters(), 0.1), Triangle(model, 8)
    with theta.attach(optimizer):
        with pytest.raises(RuntimeError, match=r"Triangle is attached .* leave out the call of step\(\)"):
            theta.step()
        with pytest.raises(RuntimeError, match="attached already"):
            theta.attach(optimizer)
        optimizer.step()
    theta.step()
    optimizer.step()
    assert theta.steps == 2


def test_what_is_attached_is_taken_off() -> None:
    model, _ = small_net()
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu")
    before = dict(vars(scaler))
    handle = Triangle(model, 8).attach(optimizer, scaler=scaler)
    assert len(optimizer._optimizer_step_post_hooks) == 2
    handle.remove()
    handle.remove()
    assert not optimizer._optimizer_step_post_hooks
    assert vars(scaler) == before


def test_optimizers_without_hooks_are_refused() -> None:
    theta = Triangle(small_net()[0], 8)
    with pytest.raises(ValueError, match="no optimizer"):
        theta.attach()
    with unchecked(), pytest.raises(ValueError, match="a object has no hooks"):
        theta.attach(object())  # type: ignore[arg-type]
    assert theta._attachment is None
    theta.step()


def test_copies_are_stepped_by_no_optimizer() -> None:
    model, _ = small_net()
    optimizer, theta = torch.optim.SGD(model.parameters(), 0.1), Triangle(model, 8)
    theta.attach(optimizer)
    twin = copy.deepcopy(theta)
    optimizer.step()
    twin.step()
    twin.step()
    assert (theta.steps, twin.steps) == (1, 2)


def test_a_controller_with_a_step_of_its_own_is_stepped_by_that() -> None:
    calls = []

    class Loud(Triangle):
        def step(self) -> None:
            calls.append(self.steps)
            super().step()

    model, _ = small_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    Loud(model, 8).attach(optimizer)
    optimizer.step()
    optimizer.step()
    assert calls == [0, 1]


def test_the_whole_state_of_a_training_is_resumed_with_it() -> None:
    def start() -> tuple[nn.Module, torch.Tensor, torch.optim.Optimizer, Triangle]:
        model, x = small_net()
        return model, x, torch.optim.Adam(model.parameters(), 1e-2), Triangle(model, 12)

    def go_on(model: nn.Module, x: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(4):
            optimizer.zero_grad()
            (model(x).square().mean() + penalty(model)).backward()
            optimizer.step()

    model, x, optimizer, theta = start()
    theta.attach(optimizer)
    torch.manual_seed(1)
    go_on(model, x, optimizer)
    saved = copy.deepcopy([part.state_dict() for part in (model, optimizer, theta)])
    random_state = torch.get_rng_state()
    go_on(model, x, optimizer)
    again, x, optimizer, theta = start()
    theta.attach(optimizer)
    for part, state in zip((again, optimizer, theta), saved, strict=True):
        part.load_state_dict(state)
    torch.set_rng_state(random_state)
    go_on(again, x, optimizer)
    assert theta.steps == 8
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_terms_that_the_optimizer_does_not_hold_are_told() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for make in (lambda net: Triangle(net, 8), lambda net: RPP(net, 1e-3, 1e-3)):
        relaxed = relaxify(copy.deepcopy(model), "C(4)")
        with make(relaxed).attach(optimizer), pytest.warns(PitfallWarning, match=r"holds no weights of '0'.* add_terms"):
            optimizer.step()


@pytest.mark.parametrize("make", [lambda net: Triangle(net, 4), lambda net: ACE(net, 4), lambda net: RECM(net, 4)])
def test_steps_past_the_total_are_told_once(make: Callable[[nn.Module], Attachable]) -> None:
    theta = make(small_net()[0])
    for _ in range(4):
        theta.step()
    with pytest.warns(PitfallWarning, match=r"step 5 of a training that was to have 4 .* 0 since step 2 "):
        theta.step()
    theta.step()


def test_what_has_no_end_is_never_past_it() -> None:
    model, _ = small_net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for theta in (RPP(model, 1e-3, 1e-3), ACE(model, 2, until=None), RECM(model, 2, until=None)):
            for _ in range(4):
                theta.step()
