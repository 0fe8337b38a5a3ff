"""e2cnn's convolutions are found, proved, relaxed and projected as escnn's are, under the groups that they commute with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relaxify import MovePixels, penalty, plan, project, relaxed, relaxify, set_theta, summary, testing
from relaxify.relaxation.terms.term import terms_of

pytest.importorskip("e2cnn")
from e2cnn import gspaces
from e2cnn import nn as enn

# it speaks to numpy and torch as they were in 2022
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}") for words in ("indexing with dtype", "tostring", "__array__", ".*")
]

X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SPACES: dict[str, Callable[[], Any]] = {
    "C(4)": lambda: gspaces.Rot2dOnR2(4),
    "D(4)": lambda: gspaces.FlipRot2dOnR2(4),
    "D(1)": lambda: gspaces.Flip2dOnR2(axis=0.0),
    "C(2)": lambda: gspaces.FlipRot2dOnR2(4),
}
"""Gspaces, and a group that acts on their features: the whole, or a part of it."""


class Net(nn.Module):
    """Images to two numbers each, by regular fields."""

    def __init__(self, gspace: Any) -> None:
        super().__init__()
        self.image, hidden = enn.FieldType(gspace, [gspace.trivial_repr]), enn.FieldType(gspace, 2 * [gspace.regular_repr])
        self.first, self.act = enn.R2Conv(self.image, hidden, 3, padding=1), enn.ReLU(hidden)
        self.second, self.pool = enn.R2Conv(hidden, hidden, 3, padding=1), enn.GroupPooling(hidden)
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.act(self.first(enn.GeometricTensor(x, self.image))))
        return self.head(self.pool(x).tensor.square().mean((2, 3)))


def net(group: str) -> Net:
    torch.manual_seed(0)
    model = Net(SPACES[group]())
    with torch.no_grad():
        return model.eval()


def trained(group: str) -> Net:
    model = relaxify(net(group), group, example_inputs=X)
    set_theta(model, 0.5)
    optimizer = torch.optim.Adam([p for term in terms_of(model).values() for p in term.parameters()], 0.05)
    model.train()
    for _ in range(3):
        ((model(X) - 1).square().mean() + 0.1 * penalty(model)).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return model.eval()


@pytest.mark.parametrize("group", SPACES)
def test_convolutions_are_found_and_proved(group: str) -> None:
    found = plan(net(group), group, example_inputs=X)
    assert [site.path for site in found.sites] == ["first", "second"]
    assert all(site.proof is not None and site.proof < 1e-5 for site in found.sites)
    assert found.verdict is not None
    assert found.verdict.is_sound


def test_turns_between_taps_are_proved_on_formulas_and_their_interpolation_is_told() -> None:
    gspace = gspaces.Rot2dOnR2(8)
    fields = enn.FieldType(gspace, 2 * [gspace.regular_repr])
    (site,) = plan(enn.R2Conv(fields, fields, 5, padding=2), "C(8)").sites
    assert site.proof is not None
    assert site.proof < 1e-5
    assert 0 < site.map.interpolation < 0.1


@pytest.mark.parametrize("group", ["D(4)", "SO(2)", "C(8)", "SO(3)"])
def test_a_group_that_is_no_part_of_the_gspaces_is_refused(group: str) -> None:
    found = plan(net("C(4)"), group)
    assert not found.sites
    assert "it is equivariant under" in found.rejected[0].reason
    assert f"of which {group} is no finite subgroup" in found.rejected[0].reason


def test_a_subclass_is_no_layer_of_the_librarys() -> None:
    class Mine(enn.R2Conv):  # type: ignore[misc]
        pass

    image = enn.FieldType(gspaces.Rot2dOnR2(4), [gspaces.Rot2dOnR2(4).trivial_repr])
    (rejected,) = plan(Mine(image, image, 3), "C(4)").rejected
    assert rejected.reason == "Mine is a subclass, which may compute something else"


@pytest.mark.parametrize("group", ["C(4)", "D(4)"])
def test_relaxed_and_projected_it_is_the_model_itself(group: str) -> None:
    base, model = net(group), trained(group)
    assert model.state_dict().keys() > base.state_dict().keys()
    error = {mode: _error(project(model, mode=mode), group) for mode in ("drop", "fold", "fit")}
    assert max(error.values()) < 1e-5
    with relaxed(model):
        assert _error(copy.deepcopy(model), group) > 1e-3
    torch.testing.assert_close(project(model)(X), model(X))
    fresh = net(group)
    fresh.load_state_dict(project(copy.deepcopy(model), mode="fold").state_dict(), strict=True)
    torch.testing.assert_close(fresh(X), project(model, mode="fold")(X))
    with relaxed(model):
        kept, dropped = (float((project(model, mode=mode)(X) - model(X)).norm()) for mode in ("fit", "drop"))
    assert kept != dropped
    assert all(layer.foldable is None for layer in summary(model).layers.values())


def _error(model: nn.Module, group: str) -> float:
    return testing.equivariance_error(model, group, X, input_action=MovePixels(), output_action=lambda g, y: y)


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"padding": 2, "padding_mode": "circular"}, {"dilation": 2, "padding": 2}]
)
def test_every_setting_of_a_convolution_is_proved(options: dict[str, Any]) -> None:
    gspace = gspaces.Rot2dOnR2(4)
    fields = enn.FieldType(gspace, [gspace.regular_repr, gspace.trivial_repr])
    (site,) = plan(enn.R2Conv(fields, fields, 3, bias=False, **options), "C(4)").sites
    assert site.proof is not None
    assert site.proof < 1e-5


def test_a_transposed_convolution_is_proved() -> None:
    gspace = gspaces.FlipRot2dOnR2(4)
    fields = enn.FieldType(gspace, [gspace.regular_repr])
    (site,) = plan(enn.R2ConvTransposed(fields, fields, 3, stride=2, padding=1, output_padding=1), "D(4)").sites
    assert site.proof is not None
    assert site.proof < 1e-5
