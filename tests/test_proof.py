"""Layers of equal structure share a proof; what could make it another counts as structure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from torch import nn

from relaxify import Group, plan
from relaxify.proof import structure
from relaxify_adapters import e3nn
from relaxify_examples.models.vector_neurons import VNLinearLeakyReLU

MAKERS: dict[str, Callable[[], nn.Module]] = {
    "o3.Linear": lambda: o3.Linear("2x0e+3x1o", "2x0e+3x1o"),
    "o3.FullyConnectedTensorProduct": lambda: o3.FullyConnectedTensorProduct("2x0e+3x1o", "0e+1o", "2x0e+3x1o"),
    "Vector Neurons": lambda: VNLinearLeakyReLU(3, 4),
}


@pytest.mark.parametrize("name", MAKERS)
def test_layers_that_differ_in_their_weights_only_have_one_structure(name: str) -> None:
    assert structure(MAKERS[name]()) == structure(MAKERS[name]())


def patched(module: nn.Module) -> nn.Module:
    module.forward = lambda x: x
    return module


def with_buffer(module: nn.Module) -> nn.Module:
    module.output_mask = module.output_mask + 1
    return module


@pytest.mark.parametrize(
    "other",
    [
        o3.Linear("2x0e+3x1o", "2x0e+4x1o"),
        o3.Linear("2x0e+3x1o", "2x0e+3x1o", path_normalization="path", instructions=[(0, 0)]),
        o3.Linear("2x0e+3x1o", "2x0e+3x1o", biases=True),
        patched(MAKERS["o3.Linear"]()),
        with_buffer(MAKERS["o3.Linear"]()),
    ],
    ids=["irreps", "paths", "biases", "forward", "buffer"],
)
def test_whatever_else_differs_is_another_structure(other: nn.Module) -> None:
    assert structure(other) != structure(MAKERS["o3.Linear"]())


def test_of_many_equal_layers_one_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    proved = []
    honest = e3nn._linear_error
    monkeypatch.setattr(e3nn, "_linear_error", lambda *args: (proved.append(args), honest(*args))[1])
    model = nn.Sequential(*(o3.Linear("2x0e+3x1o", "2x0e+3x1o") for _ in range(50)), o3.Linear("2x0e+3x1o", "1o"))
    result = plan(model, "O(3)")
    assert len(result.sites) == 51
    assert len(proved) == 2


def test_a_layer_whose_forward_is_tampered_with_is_proved_by_itself() -> None:
    model = nn.Sequential(*(o3.Linear("3x1o", "3x1o") for _ in range(3)))
    model[1].forward = lambda features: torch.roll(features, 1, -1)
    result = plan(model, "O(3)")
    assert [rejected.path for rejected in result.unsound] == ["1"]


def test_a_group_that_keeps_what_it_has_computed_is_what_it_was() -> None:
    """Itself, as the part of it that acts on features."""

    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.group = Group.parse("O(3)")

    new, used = Holding(), Holding()
    assert used.group.of_features == used.group
    assert structure(new) == structure(used)
