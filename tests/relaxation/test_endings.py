"""Once theta is 0 for good a term costs nothing: it neither computes nor sketches, and training is plain from there on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from networks import NETWORKS, WITH_CNN, Make, cnn_net, e3nn_net, randomise_terms, run, unchecked, vn_net
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from relaxify import RelaxConfig, Triangle, penalty, project, relaxify, set_theta
from relaxify.relaxation.distributed import with_zero_gradients
from relaxify.relaxation.terms.term import terms_of


def ended(make: Make, config: RelaxConfig = RelaxConfig()) -> tuple[nn.Module, tuple[torch.Tensor, ...], Triangle]:
    """A relaxed net whose W is anything and whose schedule is over."""
    model, group, batch = make()
    randomise_terms(relaxify(model, group, config=config))
    model(*batch)
    penalty(model)
    theta = Triangle(model, 4)
    for _ in range(2):
        theta.step()
    return model, batch, theta


# a CNN that is projected is free to become anything else
@NETWORKS
@pytest.mark.parametrize("config", [RelaxConfig(), RelaxConfig(rank=2)], ids=["dense", "rank"])
def test_training_after_the_end_is_plain_training_bit_for_bit(make: Make, config: RelaxConfig) -> None:
    model, batch, theta = ended(make, config)
    plain = project(model)
    optimizers = [torch.optim.Adam(net.parameters(), 1e-2) for net in (model, plain)]
    for step in range(3):
        for net, optimizer in zip((model, plain), optimizers, strict=True):
            torch.manual_seed(step)
            loss = (net(*batch) - 1).square().mean()
            loss = loss + penalty(model, relative_to=loss) if net is model else loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        theta.step()
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())


class Operations(TorchDispatchMode):
    """Counts the operations on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@NETWORKS
def test_a_step_after_the_end_is_a_plain_step_and_the_sum_of_a_loss_and_zero(make: Make) -> None:
    """The zero, its sum with the loss and their gradients: no more than five operations on single numbers."""
    model, batch, theta = ended(make)
    plain = project(model)
    counts = []
    for net in (model, plain):
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(2):
            with Operations() as operations:
                loss = net(*batch).square().mean()
                (loss + penalty(net) if net is model else loss).backward()
                optimizer.step()
                optimizer.zero_grad()
                if net is model:
                    theta.step()
        counts.append(operations.count)
    assert counts[1] <= counts[0] <= counts[1] + 5


@WITH_CNN
def test_terms_that_have_ended_see_nothing_and_need_no_gradient(make: Make) -> None:
    model, batch, _ = ended(make)
    before = [term.sketch.updates for term in terms_of(model).values()]
    (model(*batch).square().mean() + penalty(model)).backward()
    assert [term.sketch.updates for term in terms_of(model).values()] == before
    assert all(p.grad is None for term in terms_of(model).values() for p in term.parameters())


def test_the_penalty_of_terms_that_have_ended_is_zero_and_can_be_gone_backward_from() -> None:
    model, _, _ = ended(vn_net)
    value = penalty(model)
    value.backward()
    assert value.item() == 0


@pytest.mark.parametrize("revive", [lambda model: set_theta(model, 0.5), lambda model: Triangle(model, 4, until=1).step()])
def test_a_theta_that_is_set_again_brings_the_terms_back(revive: object) -> None:
    model, batch, _ = ended(e3nn_net)
    plain = project(model)
    revive(model)
    assert not torch.equal(run(model, batch), run(plain, batch))
    assert penalty(model) > 0


def test_a_checkpoint_of_before_the_end_brings_the_terms_back() -> None:
    model, group, batch = e3nn_net()
    randomise_terms(relaxify(model, group))
    saved, expected = copy.deepcopy(model.state_dict()), model(*batch)
    for _ in range(2):
        theta = Triangle(model, 1)
        theta.step()
    assert not torch.equal(model(*batch), expected)
    model.load_state_dict(saved)
    assert torch.equal(model(*batch), expected)


@pytest.mark.filterwarnings("ignore")
def test_compiled_models_are_compiled_once_more_only_when_terms_return() -> None:
    with unchecked():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model, group, batch = e3nn_net()
        randomise_terms(relaxify(model, group))
        theta, compiled = Triangle(model, 4), torch.compile(model, backend="eager", fullgraph=True)
        for _ in range(4):
            compiled(*batch)
            penalty(model)
            theta.step()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
        torch.testing.assert_close(compiled(*batch), project(model)(*batch))
        torch._dynamo.reset()
        assert torch.equal(compiled(*batch), project(model)(*batch))
        set_theta(model, 0.5)
        assert torch.equal(compiled(*batch), model(*batch))
        assert not torch.equal(compiled(*batch), project(model)(*batch))
        torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "find_unused_parameters"),
    [(e3nn_net, False), (cnn_net, False), (e3nn_net, True), (vn_net, True), (cnn_net, True)],
)
def test_data_parallel_training_goes_on_after_the_end(make: Make, find_unused_parameters: bool) -> None:
    """Which waits for a gradient of every parameter, and for no more than one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model, group, batch = make()
        relaxify(model, group)
        twin, theta = copy.deepcopy(model), Triangle(model, 4)
        wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=find_unused_parameters)
        for net, call in ((model, wrapped), (twin, twin)):
            optimizer, theta = torch.optim.SGD(net.parameters(), 1e-2), Triangle(net, 4)
            for step in range(5):
                torch.manual_seed(step)
                loss = call(*batch).square().mean()
                extra = 0 if find_unused_parameters else penalty(call)
                (loss + extra).backward()
                optimizer.step()
                optimizer.zero_grad()
                theta.step()
        assert all(term.finished for term in terms_of(model).values())
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
    finally:
        dist.destroy_process_group()


def test_zero_gradients_are_of_the_parameters_own_shape_and_kind() -> None:
    x = torch.randn(3, requires_grad=True)
    weights = [nn.Parameter(torch.full((2, 2), float("nan"))), nn.Parameter(torch.ones(5, dtype=torch.float64))]
    output = with_zero_gradients(x * 2, *weights)
    assert torch.equal(output, 2 * x)
    output.sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0))
    for weight in weights:
        assert torch.equal(weight.grad, torch.zeros_like(weight))
