"""Groups that move points: E(n), SE(n) and Aff(n) as matrices, and models on positions under them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from relaxify import Group, Representation, inspect, irreps, penalty, plan, project, relaxify, set_theta
from relaxify.algebras import closure_residual
from relaxify.elements import element_of

LINEAR = {"E": "O", "SE": "SO", "Aff": "GL"}


@settings(max_examples=20)
@given(st.sampled_from(sorted(LINEAR)), st.integers(2, 4), st.integers(0, 99))
def test_elements_move_points_and_turn_vectors(kind: str, n: int, seed: int) -> None:
    group, generator = Group.parse(f"{kind}({n})"), torch.Generator().manual_seed(seed)
    assert group.linear_part == Group.parse(f"{LINEAR[kind]}({n})") == group.of_features
    assert closure_residual(group.generators) < 1e-12
    points, vectors = Representation.defining(group), Representation.vectors(group)
    g, h = group.random(generator), group.random(generator)
    torch.testing.assert_close(points.rho(g)[:n, :n], vectors.rho(g))
    torch.testing.assert_close(points.rho(g)[n], torch.eye(n + 1, dtype=torch.float64)[n])
    assert float(points.rho(g)[:n, n].norm()) > 1e-3
    if kind != "Aff":
        r = vectors.rho(h)
        torch.testing.assert_close(r @ r.mT, torch.eye(n, dtype=r.dtype))


@pytest.mark.parametrize("name", ["SE(2)", "E(2)", "SE(3)", "E(3)"])
def test_an_element_is_found_from_its_matrix(name: str) -> None:
    group, generator = Group.parse(name), torch.Generator().manual_seed(0)
    points, vectors = Representation.defining(group), Representation.vectors(group)
    for _ in range(6):
        g = group.random(generator)
        found = element_of(group, points.rho(g))
        torch.testing.assert_close(points.rho(found), points.rho(g))
        torch.testing.assert_close(vectors.rho(found), vectors.rho(g))


def test_a_representation_of_the_linear_part_is_one_of_the_group() -> None:
    group, own = Group.parse("E(3)"), irreps("O(3)", "2x0e+1x1o+1x2e")
    over = own.over(group)
    g = group.random(torch.Generator().manual_seed(1))
    linear = element_of(group.linear_part, Representation.vectors(group).rho(g))
    torch.testing.assert_close(over.rho(g), own.rho(linear))


class Moving(nn.Module):
    """Positions to positions, by vectors that are mixed and gated; `fault` spoils it."""

    def __init__(self, fault: str | None = None) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        self.first, self.last = nn.Linear(2, 6, bias=False), nn.Linear(6, 5, bias=False)
        self.fault = fault

    def forward(self, x: Tensor, v: Tensor | None = None) -> Tensor:
        apart = x[:, None] - x[None]
        if self.fault == "absolute":
            apart = apart + 0.1 * x[:, None]
        pull = (self.weigh(apart.square().sum(-1, keepdim=True)) * apart).mean(1)
        h = self.first(torch.stack([pull, pull * pull.square().sum(-1, keepdim=True) if v is None else v], -1))
        if self.fault == "shifted":
            h = h + 0.1
        moved = x + self.last(h * torch.tanh(h.square().sum(1, keepdim=True))).mean(-1)
        return 1.01 * moved if self.fault == "stretched" else moved


def model(fault: str | None = None) -> Any:
    torch.manual_seed(0)
    return Moving(fault).double()


@pytest.mark.parametrize(("name", "n"), [("SE(2)", 2), ("E(3)", 3)])
def test_a_model_on_positions(name: str, n: int) -> None:
    """Sound, with sites on vectors alone; it is relaxed, trained, and exact again once projected."""
    net, x = model(), torch.randn(9, n, dtype=torch.float64)
    found = plan(net, name, example_inputs=x)
    assert found.verdict is not None
    assert found.verdict.is_sound
    assert [(site.path, str(site.map.rep_in)) for site in found.sites] == [("first", "2xvector"), ("last", "6xvector")]
    assert not any("transforms" in rejected.reason for rejected in found.rejected)
    relaxify(net, name, example_inputs=x)
    set_theta(net, 1.0)
    ((net.train()(x) - 1).square().mean() + penalty(net)).backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= 0.1 * parameter.grad if parameter.grad is not None else 0
    for mode in ("drop", "fold", "fit"):
        clean = project(net, mode=mode)
        g = Representation.defining(Group.parse(name)).rho(Group.parse(name).random())
        moved = x @ g[:n, :n].mT + g[:n, n]
        torch.testing.assert_close(clean(moved), clean(x) @ g[:n, :n].mT + g[:n, n])


@pytest.mark.parametrize(
    ("fault", "op", "group"), [("absolute", "mul", "SE(3)"), ("shifted", "add", "E(3)"), ("stretched", "mul", "E(3)")]
)
def test_what_breaks_it_is_named(fault: str, op: str, group: str) -> None:
    """The first and the last break translations alone: rotations about the origin would show neither."""
    report = inspect(model(fault), group, torch.randn(9, 3, dtype=torch.float64))
    assert not report.verdict.is_sound
    assert report.fault is not None
    assert report.fault.op == op


def test_positions_beside_velocities_are_asked_about() -> None:
    x, v = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"E\(3\) moves points, and input\.0 and input\.1 have an axis of size 3"):
        inspect(model(), "E(3)", x, v)
    assert inspect(model(), "E(3)", x, v, input_irreps={"v": "1xvector"}).verdict.is_sound


def test_adapters_claim_under_the_linear_part() -> None:
    o3 = pytest.importorskip("e3nn.o3")
    layer = o3.Linear("4x0e+4x1o", "2x0e+8x1o")
    (site,), (own,) = plan(layer, "E(3)").sites, plan(layer, "O(3)").sites
    assert (site.map.group.name, str(site.map.rep_in)) == ("E(3)", str(own.map.rep_in))
    g = Group.parse("E(3)").random()
    linear = element_of(Group.parse("O(3)"), Representation.vectors(Group.parse("E(3)")).rho(g))
    torch.testing.assert_close(site.map.rep_out.rho(g), own.map.rep_out.rho(linear))
