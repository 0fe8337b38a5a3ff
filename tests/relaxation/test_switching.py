"""When a term acts: in train() and not in eval(), unless told otherwise; and never at the cost of the random stream."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
from networks import NETWORKS, WITH_CNN, Make, VNNet, e3nn_net, randomise_terms, run, train, vn_net
from torch import Tensor, nn

from relaxify import RelaxConfig, penalty, project, projected, relaxed, relaxify, set_theta
from relaxify.relaxation.terms.term import terms_of


def acts(model: nn.Module, batch: tuple[Tensor, ...]) -> bool:
    """Whether the terms change the output now; either all of them act or none does."""
    active = {term.active for term in terms_of(model).values()}
    before = {name: value.clone() for name, value in model.named_buffers()}
    with torch.no_grad():
        changed = not torch.equal(run(model, batch), run(project(model), batch))
        for name, value in model.named_buffers():
            value.copy_(before[name])
    assert active == {changed}
    return changed


def relaxed_net(make: Make, **arguments: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    model, group, batch = make()
    randomise_terms(relaxify(model, group, **arguments))
    return model, batch


@WITH_CNN
def test_terms_act_in_training_and_not_in_evaluation(make: Make) -> None:
    model, batch = relaxed_net(make)
    assert acts(model.train(), batch)
    assert not acts(model.eval(), batch)
    assert acts(model.train(), batch)


@WITH_CNN
def test_terms_that_are_kept_act_always(make: Make) -> None:
    model, batch = relaxed_net(make, keep_relaxed=True)
    assert acts(model.train(), batch)
    assert acts(model.eval(), batch)
    with projected(model):
        assert not acts(model, batch)


def test_a_model_relaxed_in_evaluation_mode_stays_in_it() -> None:
    model = relaxify(VNNet().eval(), "SO(3)")
    assert not any(module.training for module in model.modules())


@WITH_CNN
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_contexts_override_nest_and_restore(make: Make, training: bool) -> None:
    model, batch = relaxed_net(make)
    model.train(training)
    with relaxed(model):
        assert acts(model, batch)
        with projected(model):
            assert not acts(model, batch)
            with relaxed(model):
                assert acts(model, batch)
            assert not acts(model, batch)
        assert acts(model, batch)
    assert acts(model, batch) == training


@pytest.mark.parametrize("context", [relaxed, projected])
def test_contexts_restore_after_an_error(context: Any) -> None:
    model, batch = relaxed_net(e3nn_net)
    with pytest.raises(ZeroDivisionError), projected(model), context(model):
        raise ZeroDivisionError
    assert acts(model, batch)


def test_contexts_override_what_train_and_eval_say_inside() -> None:
    model, batch = relaxed_net(e3nn_net)
    with relaxed(model):
        assert acts(model.eval(), batch)
    with projected(model):
        assert acts(model.train(), batch) is False
    assert acts(model, batch)


def test_contexts_are_of_one_model() -> None:
    model, batch = relaxed_net(e3nn_net)
    other = copy.deepcopy(model)
    with projected(model):
        assert acts(other, batch)


def test_the_relaxed_model_in_evaluation_is_the_projected_one_bit_for_bit() -> None:
    model, batch = relaxed_net(vn_net)
    clean = project(model).eval()
    assert torch.equal(model.eval()(*batch), clean(*batch))


@pytest.mark.parametrize("context", [projected, lambda model: ExitStack()])
def test_only_relaxed_training_passes_are_sketched(context: Any) -> None:
    """Neither evaluation, relaxed or not, nor a training pass of the projected model feeds the penalty."""
    model, batch = relaxed_net(e3nn_net)
    terms = terms_of(model).values()

    def seen(mode: bool, manager: AbstractContextManager[None]) -> bool:
        before = [term.sketch.seen for term in terms]
        with manager:
            model.train(mode)(*batch)
        return [term.sketch.seen for term in terms] != before

    assert seen(True, context(model)) == (context is not projected)
    assert not seen(False, context(model))
    assert not seen(False, relaxed(model))


@NETWORKS
def test_theta_scales_every_term(make: Make) -> None:
    """A layer's output, f(x) + theta W x, is affine in theta."""
    model, _ = relaxed_net(make)
    layer = model.get_submodule(next(iter(terms_of(model))))
    x = torch.randn(4, 3, 3) if make is vn_net else torch.randn(4, 13)
    outputs = []
    for theta in (0.0, 0.3, 0.6):
        set_theta(model, theta)
        assert all(float(term.theta) == pytest.approx(theta) for term in terms_of(model).values())
        outputs.append(layer(x))
    torch.testing.assert_close(outputs[2] - outputs[0], 2 * (outputs[1] - outputs[0]))
    assert not torch.equal(outputs[0], outputs[1])


def test_theta_is_set_in_place() -> None:
    """A compiled or captured graph sees the new value."""
    model, _ = relaxed_net(e3nn_net)
    thetas = [term.theta for term in terms_of(model).values()]
    set_theta(model, 0.25)
    assert [float(theta) for theta in thetas] == [0.25] * 3
    assert all(term.theta is theta for term, theta in zip(terms_of(model).values(), thetas, strict=True))


def test_at_theta_zero_the_training_pass_is_that_of_the_base_model_bit_for_bit() -> None:
    for make in (e3nn_net, vn_net):
        model, batch = relaxed_net(make)
        set_theta(model, 0.0)
        assert torch.equal(run(model, batch), run(project(model), batch))


@WITH_CNN
@pytest.mark.parametrize("config", [RelaxConfig(rows=2), RelaxConfig(rows=2, rank=2), RelaxConfig(rows=None)])
def test_relaxing_draws_no_random_numbers(make: Make, config: RelaxConfig) -> None:
    """Neither the surgery, nor the relaxed forward pass, nor the penalty: dropout and shuffling go on as without them."""
    model, group, batch = make()
    base = copy.deepcopy(model)
    state = torch.get_rng_state()
    relaxify(model, group, config=config)
    assert torch.equal(torch.get_rng_state(), state)
    after = []
    for net in (base, model):
        torch.manual_seed(1)
        for _ in range(3):
            net(*batch)
        after.append(torch.get_rng_state())
    penalty(model)
    assert torch.equal(torch.get_rng_state(), after[0])
    assert torch.equal(*after)


def test_dropout_masks_are_those_of_the_base_model() -> None:
    masks = []
    model, batch = relaxed_net(vn_net)
    for net in (model, project(model)):
        net.dropout.register_forward_hook(lambda module, args, output: masks.append(output == 0))
        run(net, batch)
    assert masks[0].any()
    assert torch.equal(*masks)


def test_low_rank_terms_start_the_same_whatever_the_random_state() -> None:
    """And differently in every layer."""
    downs = []
    for seed in (1, 2):
        torch.manual_seed(0)
        model, group, _ = vn_net()
        torch.manual_seed(seed)
        terms = terms_of(relaxify(model, group, config=RelaxConfig(rank=2)))
        downs.append([term.down.detach() for term in terms.values()])
    assert all(torch.equal(a, b) for a, b in zip(*downs, strict=True))
    assert not torch.equal(downs[0][0], downs[0][1])


def test_low_rank_terms_can_leave_zero() -> None:
    model, group, batch = e3nn_net()
    train(relaxify(model, group, config=RelaxConfig(rank=2)), batch, steps=2)
    assert all(term.up.any() for term in terms_of(model).values())
