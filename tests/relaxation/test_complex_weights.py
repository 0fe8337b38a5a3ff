"""Complex linear maps: relaxed as maps of real and imaginary parts, and folded into complex weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jaxtyping import Complex, Shaped
from torch import Tensor, nn

from relaxify import inspect, penalty, plan, project, relaxed, relaxify, set_theta
from relaxify.relaxation.terms.term import terms_of

GROUP = "SO(2)"


def turned(g: Tensor, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Complex numbers turn by e^{i phi}."""
    return tuple(torch.complex(g[0, 0], g[1, 0]).to(z.dtype) * z for z in inputs)


class Function(nn.Module):
    """A complex matrix in an einsum."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = False, dtype: torch.dtype = torch.complex64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out, dtype=dtype))

    def forward(self, z: Complex[Tensor, "point n"]) -> Complex[Tensor, "point m"]:
        return torch.einsum("pi,io->po", z, self.weight)


class FromReal(Function):
    """A complex matrix made of a real parameter."""

    def __init__(self, n_in: int, n_out: int, **options: Any) -> None:
        super().__init__(n_in, n_out, **options)
        self.weight = nn.Parameter(torch.view_as_real(self.weight.detach()))

    def forward(self, z: Complex[Tensor, "point n"]) -> Complex[Tensor, "point m"]:
        return z @ torch.view_as_complex(self.weight)


LAYERS = {"nn.Linear": nn.Linear, "einsum": Function, "view_as_complex": FromReal}


def points() -> Complex[Tensor, "point 2"]:
    return torch.randn(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.complex64)


@pytest.mark.parametrize("name", LAYERS)
def test_complex_map_takes_what_is_equivariant_of_its_term(name: str) -> None:
    torch.manual_seed(0)
    model, z = nn.Sequential(LAYERS[name](2, 3, bias=False, dtype=torch.complex64)), points()
    y = model(z)
    relaxify(model, GROUP, example_inputs=z, input_action=turned)
    (term,) = terms_of(model).values()
    set_theta(model, 1.0)
    with relaxed(model):
        assert torch.equal(model(z), y)
    (model(z).abs().square().mean() + penalty(model)).backward()
    assert term.weight.shape == (6, 4)
    assert term.weight.grad.any()
    nn.init.normal_(term.weight)
    term.weight.data.copy_(term.equivariant_part())
    with relaxed(model):
        expected = model(z)
    assert (expected - y).norm() > 0.1 * y.norm()
    torch.testing.assert_close(project(model, mode="fold")(z), expected)
    assert torch.equal(project(model)(z), y)


class Gated(nn.Module):
    """Two complex layers with a gate by size between them, which a `fault` may spoil."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.up = nn.Linear(2, 3, bias=fault == "bias", dtype=torch.complex64)
        self.down = nn.Linear(3, 1, bias=False, dtype=torch.complex64)
        self.fault = fault

    def forward(self, z: Complex[Tensor, "point n"]) -> Shaped[Tensor, "point 1 2"]:
        h = self.up(z)
        h = torch.complex(h.real.relu(), h.imag) if self.fault == "relu" else h * torch.tanh(h.abs())
        return torch.view_as_real(self.down(h))


def test_fault_of_complex_values_is_named() -> None:
    torch.manual_seed(0)
    sound = inspect(Gated(), GROUP, points(), input_action=turned)
    assert sound.is_sound
    assert not sound.undecided
    broken = {fault: inspect(Gated(fault), GROUP, points(), input_action=turned).fault for fault in ("bias", "relu")}
    assert broken["bias"].module == "up"
    assert (broken["relu"].module, broken["relu"].op) in {("", "real"), ("", "relu")}


def test_bias_of_a_complex_layer_is_no_site_and_what_reads_it_is_spoilt() -> None:
    torch.manual_seed(0)
    found = plan(Gated("bias"), GROUP, example_inputs=points(), input_action=turned)
    assert not found.sites
    assert [(entry.path, entry.unsound) for entry in found.rejected] == [("up", True), ("down", False)]
