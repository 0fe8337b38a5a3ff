"""Controllers that learn theta: the optima of toys that have known ones, their gradients, and resuming bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist
from files import through_file
from networks import WITH_CNN, Batch, Make, cnn_net, e3nn_net, randomise_terms, unchecked, vn_net
from torch import Tensor, nn

from relaxify import (
    ACE,
    RECM,
    RPP,
    Constant,
    Controller,
    LearningController,
    RelaxConfig,
    Triangle,
    penalty,
    project,
    relaxify,
    set_theta,
    thetas,
)
from relaxify.intertwiners import project_to_intertwiners
from relaxify.relaxation.terms.term import terms_of
from relaxify_examples.models.vector_neurons import VNLinear

LEARNING = {
    "ACE": lambda model: ACE(model, 40, primal_rate=0.05, dual_rate=0.05),
    "ACE, partial": lambda model: ACE(model, 40, form="partial", until=None),
    "RECM": lambda model: RECM(model, 40, every=2),
    "RPP": lambda model: RPP(model, 1e-2, 1e-5),
}
CONTROLLERS = pytest.mark.parametrize("make_controller", LEARNING.values(), ids=list(LEARNING))


class Toy:
    """A linear layer on two vectors, white inputs, and a linear target, equivariant or not: least squares, so convex."""

    def __init__(self, *, symmetric: bool, rest: float = 1.0) -> None:
        """`rest` is a factor of what the target has beside its symmetric part."""
        torch.manual_seed(0)
        self.layer = relaxify(VNLinear(2, 2).double(), "SO(3)", config=RelaxConfig(rows=None))
        self.term = next(iter(terms_of(self.layer).values()))
        self.x = torch.linalg.qr(torch.randn(64, 6, dtype=torch.float64))[0] * 8
        target = torch.randn(6, 6, dtype=torch.float64) / 6**0.5
        part = project_to_intertwiners(target, self.term.map.rep_in, self.term.map.rep_out)
        self.target, self.optimum = part if symmetric else part + rest * (target - part), part

    def loss(self) -> Tensor:
        # one sample a row, its two vectors side by side as the layer holds them
        x = self.x.unflatten(1, (3, 2)).mT.unsqueeze(-1)
        y = self.layer(x).squeeze(-1).mT.flatten(1)
        return (y - self.x @ self.target.mT).square().sum(1).mean() / 2

    def train(self, controller: Controller, steps: int, *, weight: float = 0.0) -> None:
        optimizer = torch.optim.Adam(self.layer.parameters(), 1e-2)
        for _ in range(steps):
            loss = self.loss()
            extra = controller.loss_term() if isinstance(controller, LearningController) else weight * penalty(self.layer)
            (loss + extra).backward()
            optimizer.step()
            optimizer.zero_grad()
            controller.step()

    @property
    def own(self) -> Tensor:
        """The layer's own map."""
        return torch.kron(torch.eye(3), self.layer.map_to_feat.weight.detach())

    def distance(self) -> float:
        """Of the layer's own map from the best that it can be."""
        return float((self.own - self.optimum).norm() / self.optimum.norm())

    @property
    def theta(self) -> float:
        return float(self.term.theta)


CONSTRAINING = {
    "ACE": lambda model: ACE(model, 600, primal_rate=0.02, dual_rate=0.02, until=None),
    "RECM": lambda model: RECM(model, 600, every=10, rate=0.2, until=None),
}


@pytest.mark.parametrize("make_controller", CONSTRAINING.values(), ids=list(CONSTRAINING))
def test_a_symmetric_target_is_learned_by_the_layer_alone(make_controller: Callable[[nn.Module], Controller]) -> None:
    toy = Toy(symmetric=True)
    toy.train(make_controller(toy.layer), 600, weight=1.0)
    assert abs(toy.theta) < 1e-2
    assert toy.distance() < 0.01


def test_of_another_target_the_strict_constraint_leaves_the_best_equivariant_map() -> None:
    toy = Toy(symmetric=False)
    toy.train(ACE(toy.layer, 1000, primal_rate=0.02, dual_rate=0.02, until=None), 1000)
    assert abs(toy.theta) < 1e-2
    assert toy.distance() < 0.01


@pytest.mark.parametrize("rest", [0.05, 0.1, 1.0])
def test_of_another_target_recm_comes_to_the_gap(rest: float) -> None:
    """theta (W - P_H W) is what the target has beside its symmetric part, and theta its size beside the layer's own map."""
    toy = Toy(symmetric=False, rest=rest)
    toy.train(RECM(toy.layer, 600, every=10, rate=0.2, until=None), 600)
    gap = float((toy.target - toy.optimum).norm() / toy.own.norm())
    assert (gap < 0.6) == (rest < 1), "the last is to be bounded by 1"
    assert toy.theta == pytest.approx(min(gap, 1.0), rel=0.05)


@pytest.mark.parametrize("slack_cost", [0.5, 2.0])
def test_the_partial_constraint_comes_to_where_slack_costs_what_it_gives(slack_cost: float) -> None:
    """With W held, J(theta) = a/2 (theta - 1)^2 + const, and u = |theta| costs rho/2 u^2: theta = a / (a + rho)."""
    toy = Toy(symmetric=False)
    with torch.no_grad():
        toy.layer.map_to_feat.weight.copy_(toy.optimum[:2, :2])
        toy.term.weight.copy_(toy.target - toy.optimum)
    a = float(toy.term.weight.detach().square().sum())
    theta = ACE(toy.layer, 1500, form="partial", slack_cost=slack_cost, until=None, normalise=False, primal_rate=0.02)
    for _ in range(1500):
        toy.loss().backward()
        theta.step()
    assert toy.theta == pytest.approx(a / (a + slack_cost), rel=1e-2)
    assert theta.slack["map_to_feat"] == pytest.approx(toy.theta, rel=1e-2)


@pytest.mark.parametrize(("damping", "bound"), [(0.0, (0.5, 1.3)), (2.0, (0.1, 0.14)), (4.0, (0.0, 0.06))])
def test_damping_ends_the_ringing(damping: float, bound: tuple[float, float]) -> None:
    """How far theta swings to the other side, where the loss does not depend on it."""
    toy = Toy(symmetric=True)
    theta = ACE(toy.layer, 3000, primal_rate=0.02, dual_rate=0.02, damping=damping, until=None)
    seen = []
    for _ in range(3000):
        theta.step()
        seen.append(toy.theta)
    assert bound[0] <= -min(seen) <= bound[1]


def test_theta_is_zero_at_the_end_and_the_remainder_is_told() -> None:
    toy = Toy(symmetric=False)
    theta = ACE(toy.layer, 40)
    toy.train(theta, 19)
    before = toy.theta
    assert before != 0
    assert theta.remainder == {}
    toy.train(theta, 1)
    assert toy.theta == 0
    assert theta.remainder["map_to_feat"] == pytest.approx(before, abs=0.1)
    project(toy.layer, max_theta=0)


@WITH_CNN
@pytest.mark.parametrize("config", [RelaxConfig(), RelaxConfig(rank=2)], ids=["dense", "rank"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_the_gradient_by_theta_is_that_of_the_loss_alone(make: Make, config: RelaxConfig, pieces: int) -> None:
    """<W, dJ/dW> / theta without a second backward, also in micro-batches, and whatever the penalty adds to dW."""
    torch.manual_seed(0)
    model, group, batch = make()
    randomise_terms(relaxify(model.double(), group, config=config))
    batch = tuple(x.double() for x in batch)
    theta = ACE(model, 10)
    set_theta(model, 0.7)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    loss = (model(*batch) - 1).square().mean()
    weights = {path: term.weight if config.rank is None else term.up for path, term in terms_of(model).items()}
    gradients = torch.autograd.grad(loss, weights.values(), retain_graph=True, allow_unused=True)
    for _ in range(pieces):
        (loss / pieces).backward(retain_graph=True)
    penalty(model).backward()
    found = theta._gradients()
    for (path, weight), gradient in zip(weights.items(), gradients, strict=True):
        expected = 0.0 if gradient is None else float((weight * gradient).sum().detach()) / 0.7
        assert found[path] == pytest.approx(expected, rel=4e-6, abs=1e-12)
    theta.step()
    assert set(theta._gradients().values()) == {0.0}


def test_weights_are_bounded_without_a_change_of_the_function() -> None:
    model, group, batch = vn_net()
    randomise_terms(relaxify(model.eval().double(), group, keep_relaxed=True))
    theta, batch = ACE(model, 10, primal_rate=1e-9, dual_rate=1e-9), tuple(x.double() for x in batch)
    before = model(*batch)
    theta.step()
    torch.testing.assert_close(model(*batch), before, rtol=1e-6, atol=1e-6)
    for term in terms_of(model).values():
        assert float(term.weight.detach().norm()) == pytest.approx(term.map.rep_out.dim**0.5)


def test_residual_pathway_priors_are_ridge_regression() -> None:
    """The optimum of |(w_e (x) 1 + W) - A|^2 / 2 + b |W|^2 + e |w_e|^2: the symmetric part is shared as the priors say."""
    toy, b, e = Toy(symmetric=False), 0.05, 0.01
    rpp = RPP(toy.layer, basic_wd=b, equiv_wd=e)
    toy.train(rpp, 1500)
    own = toy.layer.map_to_feat.weight.detach()
    # dW = 0: S - A + 2 b W = 0 with S = w_e (x) 1 + W; dw_e = 0: 3 (S - A)_H + 2 e w_e = 0, the trace over the components
    w = toy.term.weight.detach()
    total = torch.kron(torch.eye(3, dtype=torch.float64), own) + w
    torch.testing.assert_close(total - toy.target + 2 * b * w, torch.zeros_like(w), atol=1e-3, rtol=0)
    rest = (total - toy.target).unflatten(0, (3, 2)).unflatten(2, (3, 2)).diagonal(dim1=0, dim2=2).sum(-1)
    torch.testing.assert_close(rest + 2 * e * own, torch.zeros_like(own), atol=1e-3, rtol=0)
    symmetric = project_to_intertwiners(w, toy.term.map.rep_in, toy.term.map.rep_out)
    # each carries what is cheap for it: 2 b W_H = 2 e w_e / 3
    torch.testing.assert_close(symmetric[:2, :2], own * e / (3 * b), atol=1e-3, rtol=0)


def start(make: Make, make_controller: Callable[[nn.Module], Controller]) -> tuple[nn.Module, Any, Controller, Batch]:
    torch.manual_seed(0)
    model, group, batch = make()
    relaxify(model, group)
    return model, torch.optim.Adam(model.parameters(), 1e-2), make_controller(model), batch


def go_on(model: nn.Module, optimizer: torch.optim.Optimizer, theta: Controller, batch: Batch, steps: int) -> None:
    for _ in range(steps):
        loss = (model(*batch) - 1).square().mean()
        loss = loss + penalty(model, relative_to=loss)
        if isinstance(theta, LearningController):
            loss = loss + theta.loss_term()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        theta.step()


@CONTROLLERS
@pytest.mark.parametrize("make", [e3nn_net, cnn_net])
@pytest.mark.parametrize("cut", [6, 21])
def test_resumed_training_is_uninterrupted_training_bit_for_bit(
    make: Make, make_controller: Callable[[nn.Module], Controller], cut: int
) -> None:
    """Before theta is over, and after."""
    whole = start(make, make_controller)
    torch.manual_seed(5)
    go_on(*whole, steps=cut + 3)
    first = start(make, make_controller)
    torch.manual_seed(5)
    go_on(*first, steps=cut)
    saved = through_file({name: part.state_dict() for name, part in zip("moc", first, strict=False)})
    rng = torch.get_rng_state()
    again = start(make, make_controller)
    for name, part in zip("moc", again, strict=False):
        part.load_state_dict(saved[name])
    torch.set_rng_state(rng)
    go_on(*again, steps=3)
    assert again[2].state_dict() == whole[2].state_dict()
    for key, value in whole[0].state_dict().items():
        assert torch.equal(again[0].state_dict()[key], value), key


@pytest.mark.filterwarnings("ignore")
def test_in_data_parallel_training_the_gradient_is_the_mean_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes, of which the other has gradients of 5."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model, group, batch = e3nn_net()
        randomise_terms(relaxify(model, group))
        wrapped = nn.parallel.DistributedDataParallel(model)
        theta = ACE(wrapped, 10)
        wrapped(*batch).square().mean().backward()
        own = {path: float(term.nudge.grad) for path, term in terms_of(wrapped).items()}
        monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor, group: tensor.add_(5.0))
        monkeypatch.setattr("torch.distributed.get_world_size", lambda group: 2)
        assert theta._gradients() == pytest.approx({path: (value + 5) / 2 for path, value in own.items()}, rel=1e-6)
    finally:
        dist.destroy_process_group()


def test_a_gradient_that_is_not_finite_is_left_out_and_a_scale_divided_by() -> None:
    class Scaler:
        def get_scale(self) -> float:
            return 8.0

    with unchecked():
        model, group, _ = e3nn_net()
        relaxify(model, group)
        theta = ACE(model, 10, scaler=Scaler(), damping=0.0)
    for term, gradient in zip(terms_of(model).values(), (float("nan"), float("inf"), 8.0), strict=True):
        term.nudge.grad = torch.tensor(gradient)
    theta.step()
    assert list(thetas(model).values()) == pytest.approx([1.0, 1.0, 0.9])


class Alternating:
    """A controller of one's own: theta is 1 in the early layers in even steps, and 0 elsewhere."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.steps = model, 0

    def step(self) -> None:
        self.steps += 1
        set_theta(self.model, {"*": 0.0, "first": float(self.steps % 2 == 0)})

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def test_a_controller_of_ones_own() -> None:
    model, group, _ = e3nn_net()
    theta = Alternating(relaxify(model, group))
    assert isinstance(theta, Controller)
    assert not isinstance(theta, LearningController)
    theta.step()
    assert thetas(model) == {"first": 0.0, "product": 0.0, "last": 0.0}
    theta.step()
    assert thetas(model) == {"first": 1.0, "product": 0.0, "last": 0.0}


def test_all_controllers_are_controllers() -> None:
    model, group, _ = e3nn_net()
    relaxify(model, group)
    made = [make(model) for make in LEARNING.values()]
    assert all(isinstance(controller, Controller) for controller in [*made, Triangle(model, 10), Constant(model)])
    assert [isinstance(controller, LearningController) for controller in made] == [False, False, False, True]


def test_theta_is_set_by_patterns_of_which_the_last_one_counts() -> None:
    model, group, _ = e3nn_net()
    relaxify(model, group)
    set_theta(model, {"*": 0.25, "re:.*st": 0.5, "last": 0.75})
    assert thetas(model) == {"first": 0.5, "product": 0.25, "last": 0.75}
    set_theta(model, {"product": 1.0})
    assert thetas(model) == {"first": 0.5, "product": 1.0, "last": 0.75}
    before = copy.deepcopy(thetas(model))
    for wanted, words in (({"nobody": 1.0}, "'nobody' matches none"), ({"first": float("nan")}, "finite")):
        with pytest.raises(ValueError, match=words):
            set_theta(model, wanted)
    assert thetas(model) == before


@pytest.mark.parametrize(
    ("make_controller", "words"),
    [
        (lambda model: ACE(model, 10, primal_rate=0), "primal_rate=0"),
        (lambda model: ACE(model, 10, dual_rate=float("nan")), "dual_rate=nan"),
        (lambda model: ACE(model, 10, slack_cost=-1), "slack_cost=-1"),
        (lambda model: ACE(model, 10, damping=-1), "damping=-1"),
        (lambda model: ACE(model, 10, form="loose"), "'strict' or 'partial'"),
        (lambda model: ACE(model, 0), "total_steps=0"),
        (lambda model: RECM(model, 10, until=2), "until=2"),
        (lambda model: RECM(model, 10, rate=0), "rate=0"),
        (lambda model: RECM(model, 10, every=0), "every=0"),
        (lambda model: RPP(model, -1, 0), "basic_wd=-1"),
        (lambda model: RPP(model, 1, float("inf")), "equiv_wd=inf"),
    ],
)
def test_bad_input_says_what_to_do(make_controller: Callable[[nn.Module], Controller], words: str) -> None:
    model, group, _ = e3nn_net()
    relaxify(model, group)
    with unchecked(), pytest.raises(ValueError, match=words):
        make_controller(model)


@CONTROLLERS
def test_a_model_that_is_not_relaxed_or_a_state_of_something_else(
    make_controller: Callable[[nn.Module], Controller],
) -> None:
    with pytest.raises(RuntimeError, match="no relaxation terms"):
        make_controller(nn.Linear(2, 2))
    model, group, _ = e3nn_net()
    controller = make_controller(relaxify(model, group))
    with pytest.raises(ValueError, match="belongs to the schedule 'Triangle'"):
        controller.load_state_dict(Triangle(model, 10).state_dict())
