"""Inputs of atomistic models move as their names say, where the shapes alone do not tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from relaxify import Group, inspect, plan
from relaxify.verdicts.action_errors import ActionError
from relaxify.verdicts.actions import told
from relaxify.verdicts.default_action import default_action

torch.manual_seed(0)
G = Group.parse("O(3)")
R = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]


def three_atoms() -> dict[str, Tensor]:
    """As many atoms as dimensions, edges and charges: no size tells one axis from another."""
    names = {
        "positions": (3, 3),
        "cell": (3, 3),
        "shifts": (3, 3),
        "unit_shifts": (3, 3),
        "charges": (3,),
        "stress": (1, 3, 3),
    }
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in names.items()}


def test_each_moves_as_what_it_is() -> None:
    inputs = three_atoms()
    moved = default_action(G, inputs)(R, inputs)
    for name in ("positions", "cell", "shifts"):
        torch.testing.assert_close(moved[name], inputs[name] @ R.mT)
    torch.testing.assert_close(moved["stress"], R @ inputs["stress"] @ R.mT)
    for name in ("unit_shifts", "charges"):
        assert moved[name] is inputs[name]


@pytest.mark.parametrize("group", ["E(3)", "SE(3)", "T(3)"])
def test_positions_alone_are_translated(group: str) -> None:
    inputs, g = three_atoms(), torch.eye(4, dtype=torch.float64)
    g[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    moved = default_action(Group.parse(group), inputs)(g, inputs)
    torch.testing.assert_close(moved["positions"], inputs["positions"] + g[:3, 3])
    for name in inputs.keys() - {"positions"}:
        torch.testing.assert_close(moved[name], inputs[name])


@pytest.mark.parametrize("name", ["pos", "positions", "_positions"])
def test_dictionaries_and_data_objects(name: str) -> None:
    inputs = three_atoms()
    given: tuple[Any, ...] = ({name: inputs["positions"], "_cell": inputs["cell"]},)
    assert told(default_action(G, given), G) == {f"0.{name}": "vectors on axis 1", "0._cell": "vectors on axis 1"}


def test_data_objects() -> None:
    inputs = three_atoms()
    data = (Data(pos=inputs["positions"], cell=inputs["cell"][None], charges=inputs["charges"]),)
    assert told(default_action(G, data), G) == {"0.pos": "vectors on axis 1", "0.cell": "vectors on axis 2"}


def test_other_names_are_asked_for() -> None:
    with pytest.raises(
        ActionError, match=r"input\.0\.frame .* is ambiguous; pass input_action=.*, input_irreps that say what it carries"
    ):
        default_action(G, ({"frame": torch.randn(3, 3)},))


@pytest.mark.parametrize("group", ["S(3)", "C(3)", "SO(2)", "SU(2)"])
def test_a_name_says_nothing_of_other_groups(group: str) -> None:
    parsed = Group.parse(group)
    inputs = ({"pos": torch.randn(7, parsed.dim), "cell": torch.randn(parsed.dim, 5)},)
    axes = {"0.pos": "vectors on axis 1", "0.cell": "vectors on axis 0"}
    assert told(default_action(parsed, inputs), parsed) == axes


class Periodic(nn.Module):
    """Energies of atoms by the nearest images of their neighbours, in the cell's own coordinates or in the frame's."""

    def __init__(self, in_cell: bool) -> None:
        super().__init__()
        self.in_cell, self.net = in_cell, nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, data: dict[str, Tensor]) -> Tensor:
        d, cell = data["positions"][:, None] - data["positions"], data["cell"]
        if self.in_cell:
            d = d - torch.round(d @ torch.linalg.inv(cell)) @ cell
        else:
            d = d - torch.round(d / cell.diagonal()) * cell.diagonal()
        return self.net((-d.square().sum(-1, keepdim=True)).exp()).sum((0, 1))


def test_a_periodic_model_is_judged_without_an_action() -> None:
    torch.manual_seed(0)
    inputs = {"positions": torch.randn(6, 3), "cell": 3 * torch.eye(3) + 0.3 * torch.randn(3, 3)}
    assert inspect(Periodic(in_cell=True), "SO(3)", inputs).is_sound
    assert not inspect(Periodic(in_cell=False), "SO(3)", inputs).is_sound


def test_a_plan_says_how_inputs_move() -> None:
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.Linear(4, 1, bias=False))
    found = plan(model, "SO(3)", example_inputs=torch.randn(9, 3, 1))
    assert found.moved == {"0": "vectors on axis 1"}
    assert "input 0: vectors on axis 1" in str(found)
    assert found.to_dict()["moved"] == {"0": "vectors on axis 1"}
    assert plan(model, "SO(3)").moved == {}
