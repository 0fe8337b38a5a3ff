"""A model that breaks once parameters that are exactly 0 or 1 have moved is not sound, and the parameters are named."""

from __future__ import annotations

import pytest
import torch
from measuring.models import Mix, points
from torch import Tensor, nn
from torch.nn.utils import prune

from relaxify.verdicts.measuring import measure
from relaxify.verdicts.verdict import Reason, Status

X = points()


class Zeros(nn.Module):
    """Sound as it is: one bias is zero, and one affine weight is one."""

    def __init__(self, *, bias: bool, affine: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 4, bias=bias), nn.Linear(4, 4, bias=False)
        self.scale = nn.Parameter(torch.ones(3, 1), requires_grad=affine)
        self.gate = nn.Linear(4, 4)
        for parameter in (self.first.bias, self.gate.bias):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        v = self.second(self.first(x.unsqueeze(-1)))
        return v * self.scale * self.gate(v.norm(dim=1, keepdim=True)).sigmoid()


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"bias": True, "affine": False}, ("first.bias",)),
        ({"bias": False, "affine": True}, ("scale",)),
        ({"bias": True, "affine": True}, ("first.bias", "scale")),
    ],
)
def test_what_breaks_in_training_is_latent_and_named(options, parameters) -> None:
    verdict = measure(Zeros(**options), "SO(3)", (X,))
    assert (verdict.status, verdict.reason) == (Status.LATENT, Reason.TRAINED)
    assert set(verdict.parameters) == set(parameters)
    assert verdict.error.largest < 1e-12 < 1e-3 < verdict.generic.largest


def test_a_bias_that_keeps_inner_products_is_latent_too() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(1, 4)
            nn.init.zeros_(self.up.bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.up((x - x.mean(0)).unsqueeze(-1))

    verdict = measure(Centred(), "SO(3)", (X,))
    assert (verdict.status, verdict.parameters) == (Status.LATENT, ("up.bias",))


class Branch(nn.Module):
    """Vectors scaled by layer norms of their lengths, and a branch that starts at zero and has a constant in it."""

    def __init__(self, constant: float = 0.0) -> None:
        super().__init__()
        self.up, self.norms = nn.Linear(1, 4, bias=False), nn.Sequential(*(nn.LayerNorm(4) for _ in range(3)))
        self.mix, self.out = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        nn.init.constant_(self.mix.bias, constant)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        v = self.up(x.unsqueeze(-1))
        return v * self.norms(v.norm(dim=1)).unsqueeze(1) + self.out(self.mix(v))


def test_of_parameters_that_break_only_together_these_are_named_and_no_others() -> None:
    verdict = measure(Branch(), "SO(3)", (X,))
    assert (verdict.status, set(verdict.parameters)) == (Status.LATENT, {"mix.bias", "out.weight"})


def test_an_error_close_to_the_tolerance_is_traced_to_its_parameter() -> None:
    verdict = measure(Branch(constant=1.1e-6).double(), "SO(3)", (X.double(),))
    assert verdict.tolerance < verdict.generic.largest < 10 * verdict.tolerance
    assert (verdict.status, verdict.parameters) == (Status.LATENT, ("out.weight",))


def test_an_error_that_only_comes_to_lie_beyond_the_tolerance_is_none_of_training() -> None:
    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale**-10 + 5e-7

    verdict = measure(Offset().double(), "SO(3)", (X.double(),))
    assert verdict.error.largest < verdict.tolerance < verdict.generic.largest < 10 * verdict.error.largest
    assert verdict.is_sound


def test_frozen_parameters_and_biases_of_invariants_break_nothing() -> None:
    verdict = measure(Zeros(bias=False, affine=False), "SO(3)", (X,))
    assert (verdict.status, verdict.parameters) == (Status.SOUND, ())


def test_an_output_that_is_zero_until_trained_is_judged_in_general_position() -> None:
    sound, broken = Mix(), Mix(then=torch.relu)
    for model in (sound, broken):
        nn.init.zeros_(model.mix.weight)
    assert measure(sound, "SO(3)", (X,)).is_sound
    assert measure(broken, "SO(3)", (X,)).status is Status.LATENT


def test_pruned_weights_stay_zero() -> None:
    model = nn.Sequential(nn.Unflatten(-1, (3, 1)), nn.Linear(1, 4, bias=False))
    prune.custom_from_mask(model[1], "weight", torch.tensor([[1.0], [0.0], [1.0], [1.0]]))
    assert measure(model, "SO(3)", (X,)).is_sound


def test_rows_of_padding_stay_zero() -> None:
    class Types(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(3, 1, padding_idx=0)

        def forward(self, x: Tensor, kind: Tensor) -> Tensor:
            # vectors of what is padding are kept out by the zero alone
            return x * self.embedding(kind) + self.embedding(torch.zeros_like(kind))

    kind = torch.arange(20) % 3

    def act(g: Tensor, inputs):
        return inputs[0] @ g.mT, inputs[1]

    assert measure(Types(), "SO(3)", (X, kind), input_action=act).is_sound
