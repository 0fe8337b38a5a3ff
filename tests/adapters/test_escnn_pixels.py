"""Pixels turn as escnn turns them, and its exact networks of vector fields are sound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from escnn_layers import enn, space
from torch import Tensor, nn

from relaxify import MovePixels, inspect, plan, relaxify

GROUPS = ["C(4)", "D(4)"]
WIND = MovePixels({"input.0": 1})


def scalars_and_vectors(name: str) -> tuple[Any, Any]:
    """Field types of one scalar, and of one vector: what the plane itself carries."""
    plane = space(name)
    return enn.FieldType(plane, [plane.trivial_repr]), enn.FieldType(plane, [plane.basespace_action])


class Flow(nn.Module):
    """Vector fields to vector fields."""

    def __init__(self, name: str) -> None:
        super().__init__()
        _, self.field = scalars_and_vectors(name)
        hidden = enn.FieldType(space(name), 4 * [space(name).regular_repr])
        first, last = (enn.R2Conv(*types, 3, padding=1) for types in ((self.field, hidden), (hidden, self.field)))
        self.net = enn.SequentialModule(first, enn.ReLU(hidden), last)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(enn.GeometricTensor(x, self.field)).tensor
        return out


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("size", [6, 7])
def test_fields_move_as_escnn_moves_them(name: str, size: int) -> None:
    for kind, action in zip(scalars_and_vectors(name), (MovePixels(), WIND), strict=True):
        x = torch.randn(2, kind.size, size, size)
        for element in kind.fibergroup.elements:
            g = torch.as_tensor(kind.gspace.basespace_action(element), dtype=torch.float64)
            expected = enn.GeometricTensor(x, kind).transform(element).tensor
            torch.testing.assert_close(action(g, (x,))[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", GROUPS)
def test_a_network_of_vector_fields_is_sound_and_relaxed(name: str) -> None:
    torch.manual_seed(0)
    net, x = Flow(name).eval(), torch.randn(3, 2, 7, 7)
    report = inspect(net, name, x, input_action=WIND)
    assert report.is_sound
    assert [output.transforms for output in report.outputs] == ["vector on axis -3 on pixels that move"]
    assert not plan(net, name, example_inputs=(x,), input_action=WIND).unsound
    relaxify(net, name, example_inputs=(x,), input_action=WIND)
    assert net.net[2].relaxation is not None
