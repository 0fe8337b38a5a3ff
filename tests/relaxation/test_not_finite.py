"""A step with NaN is survived: what is watched leaves it out, and what is written is finite or refused in one sentence."""

from __future__ import annotations

import copy
import math
import threading

import pytest
import torch
from e3nn import o3
from networks import randomise_terms
from relaxed_states import assert_same
from torch import Tensor, nn

from relaxify import (
    ACE,
    RECM,
    RelaxConfig,
    inspect,
    penalty,
    plan,
    project,
    relaxify,
    set_theta,
    summary,
    thetas,
)
from relaxify.relaxation import sketch
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.terms.term import terms_of


def product() -> nn.Module:
    model = relaxify(o3.FullyConnectedTensorProduct("2x0e+2x1o", "1x0e", "2x0e+2x1o"), "O(3)").train()
    randomise_terms(model)
    return model


def linear() -> nn.Module:
    model = relaxify(nn.ModuleDict({"layer": o3.Linear("2x0e+2x1o", "2x0e+2x1o")}), "O(3)")
    randomise_terms(model)
    return model


def convolution() -> nn.Module:
    model = relaxify(nn.Sequential(nn.Conv2d(1, 2, 3)), "C(4)")
    randomise_terms(model)
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_scalar_attribute_that_is_not_finite_is_left_out(value: float) -> None:
    model, x, attribute = product(), torch.randn(8, 8), torch.full((8, 1), 0.7)
    model(x, attribute)
    before = copy.deepcopy(model.relaxation.attribute_range)
    attribute[3] = value
    model(x, attribute)
    model(x, torch.full((8, 1), value))
    assert torch.equal(model.relaxation.attribute_range, before)
    assert all(p.isfinite().all() for p in project(model, mode="fold").parameters())


@pytest.mark.parametrize("value", [math.nan, 1e-38, 3e38, 0.0])
def test_a_model_can_be_saved_whatever_its_scalar_attribute_was(value: float) -> None:
    model = product()
    model(torch.randn(8, 8), torch.full((8, 1), value))
    resumed = product()
    resumed.load_state_dict(model.state_dict())
    assert_same(resumed.state_dict(), model.state_dict())
    (layer,) = summary(model).layers.values()
    assert layer.foldable is not None


@pytest.mark.parametrize("make", [linear, product, convolution])
@pytest.mark.parametrize("inplace", [False, True])
def test_what_would_be_folded_is_finite_or_refused(make: object, inplace: bool) -> None:
    """NaN in W, and in the layer's own weights; the model is what it was."""
    for name in ("relaxation", ""):
        model = make()
        if "product" in make.__name__:
            model(torch.randn(8, 8), torch.ones(8, 1))
        for path, parameter in model.named_parameters():
            if ("relaxation" in path) == bool(name) and "bias" not in path:
                parameter.data.view(-1)[0] = math.nan
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=r"NaN or infinite values.*(mode='drop'|restore an earlier)") as error:
            project(model, mode="fold", inplace=inplace)
        assert "\n" not in str(error.value)
        assert_same(model.state_dict(), before)
        assert len(terms_of(model)) == 1


def test_nothing_is_fitted_to_inputs_that_were_not_finite() -> None:
    model = linear()
    model.layer(torch.full((9, 8), math.nan))
    with pytest.raises(ValueError, match=r"inputs of 'layer' last seen in training had NaN .* mode='fold'"):
        project(model, mode="fit")
    project(model, mode="fold")


def test_dropping_keeps_what_is_not_finite_with_a_word() -> None:
    model = linear()
    model.layer.weight.data[0] = math.nan
    with pytest.warns(PitfallWarning, match="'layer.weight' of the model had NaN .* restore an earlier checkpoint"):
        clean = project(model)
    assert torch.equal(clean.layer.weight, model.layer.weight) is False
    assert torch.equal(clean.layer.weight.nan_to_num(), model.layer.weight.nan_to_num())


def test_a_kernel_that_is_not_finite_has_no_symmetric_part() -> None:
    model = convolution()
    model[0].weight.data[0, 0, 0, 0] = math.inf
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"'0\.weight' of the projected model would have NaN"):
        project(model, inplace=True)
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize("kind", [ACE, RECM])
def test_controllers_that_learn_leave_a_step_with_nan_out(kind: type[ACE | RECM]) -> None:
    model = linear()
    model.layer.relaxation.weight.data.mul_(0.01)
    theta = kind(model, 100, **({"every": 1} if kind is RECM else {}))
    for value in (1.0, math.nan, 1.0):
        loss = model.layer(torch.full((9, 8), value)).square().mean() + penalty(model)
        loss.backward()
        model.zero_grad()
        before = thetas(model)
        theta.step()
        assert (thetas(model) == pytest.approx(before)) == math.isnan(value)
    assert all(map(math.isfinite, thetas(model).values()))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_theta_is_finite(value: float) -> None:
    model = linear()
    with pytest.raises(ValueError, match="theta is a finite number"):
        set_theta(model, value)
    assert thetas(model) == {"layer": 0.5}


def test_rows_that_no_penalty_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They become a sample of as many as were held, over all that were seen; and reading it starts anew, exactly."""
    monkeypatch.setattr(sketch, "MOST_ENTRIES", 40 * 8)
    config = RelaxConfig(rows=None, reduction="norm")
    model = relaxify(nn.ModuleDict({"layer": o3.Linear("2x0e+2x1o", "2x0e+2x1o")}), "O(3)", config=config)
    randomise_terms(model)
    kept = model.layer.relaxation.sketch
    for step in range(50):
        model.layer(torch.full((9, 8), float(step)))
        assert kept.rows is not None
        assert kept.rows.numel() <= 40 * 8
        assert kept.is_sample == (step >= 4)
    assert kept.seen == 450
    assert len(kept.rows[:, 0].unique()) > 20
    sampled = penalty(model)
    assert sampled.isfinite()
    model.layer(x := torch.randn(9, 8))
    assert torch.equal(kept.rows, x)
    # a single pass is kept whole
    penalty(model)
    model.layer(torch.randn(60, 8))
    assert len(kept.rows) == 60


class Watching(nn.Module):
    """Asks in every pass, in another thread, what new tensors would be there."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.seen = nn.Linear(1, 4, bias=False), []

    def forward(self, x: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: self.seen.append((torch.get_default_dtype(), torch.zeros(1).dtype)))
        thread.start()
        thread.join()
        SEEN.update(self.seen)
        return self.mix(x.unsqueeze(-1)) * torch.ones(1)


SEEN: set[tuple[torch.dtype, torch.dtype]] = set()


def test_other_threads_never_see_another_default_dtype() -> None:
    SEEN.clear()
    x = torch.randn(12, 3)
    plan(Watching(), "SO(3)", example_inputs=[x])
    relaxify(Watching(), "SO(3)", example_inputs=[x])
    inspect(Watching(), "SO(3)", x)
    assert {(torch.float32, torch.float32)} == SEEN
