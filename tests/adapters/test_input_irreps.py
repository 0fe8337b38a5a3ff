"""Features that the user names by irreps: e3nn's in e3nn's own basis, relaxify's, and escnn's field types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from e3nn import o3
from escnn_layers import enn, space
from torch import Tensor, nn

from relaxify import Group, inspect, irreps, plan, relaxify
from relaxify.testing import assert_equivariant
from relaxify.verdicts.actions import action_on

SPEC = "3x0e+2x0o+2x1o+1e+2x2e+3o+4e"


class Message(nn.Module):
    """A linear map of irreps times a function of the inner product of a vector with the position; and a bias."""

    def __init__(self, spec: str = "8x0e+8x1o", bias: float = 0.0) -> None:
        super().__init__()
        self.linear, self.bias = o3.Linear(spec, spec), bias

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        return self.linear(x) * (1 + (x[:, -3:] * pos).sum(-1, keepdim=True)) + self.bias


def inputs(spec: str = "8x0e+8x1o") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, o3.Irreps(spec).dim, generator=generator), torch.randn(12, 3, generator=generator)


@pytest.fixture
def double() -> Iterator[None]:
    """e3nn keeps its own matrices in the default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("make", [str, o3.Irreps])
@pytest.mark.usefixtures("double")
def test_irreps_are_e3nns_in_its_own_basis(make: Callable[[str], Any]) -> None:
    x, pos = inputs(SPEC)
    action = action_on(Message(SPEC), "O(3)", (x, pos), input_irreps={"x": make(SPEC)})
    assert action is not None
    axes = torch.eye(3, dtype=torch.float64)
    half_turns = 2 * axes[:, :, None] * axes[:, None] - axes
    for g in [*o3.rand_matrix(8, dtype=torch.float64), *-o3.rand_matrix(2, dtype=torch.float64), *half_turns, -axes]:
        moved, turned = action(g, (x, pos))
        torch.testing.assert_close(moved, x @ o3.Irreps(SPEC).D_from_matrix(g).mT, atol=1e-12, rtol=0)
        torch.testing.assert_close(turned, pos @ g.mT)


@pytest.mark.parametrize("group", ["SO(3)", "O(3)"])
def test_models_of_features_are_judged(group: str) -> None:
    named = {"input_irreps": {"x": "8x0e+8x1o"}}
    assert inspect(Message(), group, *inputs(), **named).is_sound
    assert_equivariant(Message(), group, *inputs(), **named)
    by_name = dict(zip(("x", "pos"), inputs(), strict=True))
    assert inspect(Message(), group, keywords=by_name, **named).is_sound
    found = plan(Message(), group, example_inputs=inputs(), **named)
    assert [site.path for site in found.sites] == ["linear"]
    assert not found.unsound
    assert relaxify(Message(), group, example_inputs=inputs(), **named).linear.relaxation is not None
    assert not inspect(Message(bias=1.0), group, *inputs(), **named).is_sound
    assert plan(Message(bias=1.0), group, example_inputs=inputs(), **named).unsound


def test_other_irreps_than_the_features_have_are_told_from_them() -> None:
    assert not inspect(Message(), "O(3)", *inputs(), input_irreps={"x": "8x0e+8x1e"}).is_sound


def test_relaxifys_own_representations_and_other_groups() -> None:
    x, pos = inputs("2x0e+2x1o")
    own = action_on(Message("2x0e+2x1o"), "O(3)", (x, pos), input_irreps={"x": irreps("O(3)", "2x0e+2x1o")})
    assert own is not None
    g = o3.rand_matrix()
    # relaxify's real harmonics of degree 1 are y, z, x
    y, z, x_ = own(g, (x, pos))[0][:, 2:5].unbind(-1)
    before = x[:, 2:5].roll(1, -1)
    torch.testing.assert_close(torch.stack([x_, y, z], -1), before @ g.mT, atol=1e-5, rtol=0)

    class Turning(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.square().sum(-1, keepdim=True)

    quarter = Group.parse("C(8)").finite[0]
    moved = action_on(Turning(), "C(8)", (torch.ones(1, 5),), input_irreps={"x": "0e+1+2"})
    assert moved is not None
    double_angle = quarter @ quarter
    expected = torch.block_diag(torch.eye(1), quarter, double_angle) @ torch.ones(5).double()
    torch.testing.assert_close(moved(quarter, (torch.ones(1, 5),))[0][0], expected.float())


def test_field_types_of_escnn_say_what_channels_carry() -> None:
    torch.manual_seed(0)
    plane = space("D(4)")
    kind = enn.FieldType(plane, [plane.trivial_repr, plane.irrep(1, 1), plane.regular_repr])

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = enn.R2Conv(kind, kind, 3, padding=1, bias=False)

        def forward(self, field: Tensor) -> Tensor:
            out: Tensor = self.layer(enn.GeometricTensor(field, kind)).tensor
            return out

    x = torch.randn(3, kind.size, 5, 5)
    action = action_on(Field(), "D(4)", (x,), input_irreps={"field": kind})
    assert action is not None
    for element in kind.fibergroup.elements:
        g = torch.as_tensor(plane.basespace_action(element), dtype=torch.float64)
        expected = enn.GeometricTensor(x, kind).transform(element).tensor
        torch.testing.assert_close(action(g, (x,))[0], expected, atol=1e-5, rtol=0)
    assert inspect(Field().eval(), "D(4)", x, input_irreps={"field": kind}).is_sound


def test_what_is_not_named_may_still_be_ambiguous() -> None:
    x, _ = inputs()
    with pytest.raises(ValueError, match=r"input.1 has shape \(3, 3\): which axis of size 3 .* is ambiguous"):
        inspect(Message(), "O(3)", x[:3], torch.randn(3, 3), input_irreps={"x": "8x0e+8x1o"})
    with pytest.raises(ValueError, match="pass the one or the other"):
        inspect(Message(), "O(3)", *inputs(), input_irreps={"x": "8x0e+8x1o"}, input_action=lambda g, values: values)
