"""Weights that are made of a parameter: rearranged, expanded, spread over components, or coefficients of a basis.

A term whose W is the matrix that the layer itself applies doubles the layer's output, wherever its axes stand.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from strategies import random
from torch import Tensor, nn

from relaxify import inspect, plan, project, relaxify, set_theta
from relaxify.intertwiners import project_to_intertwiners
from relaxify.relaxation.terms.term import terms_of

Forward = Callable[[nn.Module, Tensor], Tensor]
N_IN, N_OUT = 4, 6
VECTORS = random(5, 2, 3, N_IN)
BASIS = torch.stack([torch.diag(torch.tensor(d)) for d in ([1.0, 0, 0, 0], [0.0, 1, 1, 1])]).double()
"""The two maps of a scalar and a vector to themselves that commute with O(3) and keep them apart."""


class Layer(nn.Module):
    """One linear map with a single parameter, and buffers, by any formula."""

    def __init__(self, forward: Forward, *shape: int, **buffers: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(*shape, seed=3))
        self.formula = forward
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self, x)


def flat(layer: nn.Module, x: Tensor) -> Tensor:
    return (x.reshape(-1, N_IN) @ layer.weight).view(*x.shape[:-1], N_OUT)


def flat_columns(layer: nn.Module, x: Tensor) -> Tensor:
    columns = x.permute(3, 2, 0, 1).reshape(N_IN, -1)
    return (layer.weight.mT @ columns).view(N_OUT, 3, *x.shape[:2]).permute(2, 3, 1, 0)


def batched(layer: nn.Module, x: Tensor) -> Tensor:
    rows = x.reshape(-1, 3, N_IN)
    return torch.bmm(rows, layer.weight.expand(len(rows), N_IN, N_OUT)).reshape(*x.shape[:-1], N_OUT)


ZEROS = torch.zeros(N_OUT, dtype=torch.float64)
REARRANGED: dict[str, Callable[[], Layer]] = {
    "transposed": lambda: Layer(lambda m, x: F.linear(x, m.weight.t()), N_IN, N_OUT),
    "permuted": lambda: Layer(lambda m, x: torch.einsum("abdi,oi->abdo", x, m.weight.permute(1, 0)), N_IN, N_OUT),
    "flat rows": lambda: Layer(flat, N_IN, N_OUT),
    "flat columns": lambda: Layer(flat_columns, N_IN, N_OUT),
    "flat rows and a bias of zeros": lambda: Layer(
        lambda m, x: torch.addmm(m.zeros, x.flatten(0, 2), m.weight).unflatten(0, x.shape[:-1]), N_IN, N_OUT, zeros=ZEROS
    ),
    "expanded over a batch": lambda: Layer(batched, N_IN, N_OUT),
    "one of a batch": lambda: Layer(lambda m, x: x @ m.weight, 1, 1, N_IN, N_OUT),
}

INDEX, COUNTS = torch.tensor([0, 1, 1, 1]), torch.tensor([1, 3])
SPREAD: dict[str, Callable[[], Layer]] = {
    "a matrix for each degree": lambda: Layer(
        lambda m, x: torch.einsum("bmi,moi->bmo", x, m.weight.index_select(0, m.index)), 2, N_OUT, N_IN, index=INDEX
    ),
    "a matrix for each degree, picked": lambda: Layer(
        lambda m, x: torch.bmm(x.transpose(0, 1), m.weight[m.index]).transpose(0, 1), 2, N_IN, N_OUT, index=INDEX
    ),
    "coefficients of a basis": lambda: Layer(
        lambda m, x: torch.einsum("yxij,bjx->biy", (m.weight @ m.basis.flatten(1)).unflatten(-1, (4, 4)), x),
        *(N_OUT, N_IN, 2),
        basis=BASIS,
    ),
    "coefficients, basis and data in one einsum": lambda: Layer(
        lambda m, x: torch.einsum("yxa,aij,bjx->biy", m.weight, m.basis, x), N_OUT, N_IN, 2, basis=BASIS
    ),
    "repeated for each grade": lambda: Layer(
        lambda m, x: torch.einsum("bic,oic->boc", x.mT, m.weight.repeat_interleave(m.counts, dim=-1)).mT,
        *(N_OUT, N_IN, 2),
        counts=COUNTS,
    ),
    "a filter that a constant transforms": lambda: Layer(
        lambda m, x: torch.tensordot(x, torch.einsum("oia,amn->mino", m.weight, m.basis), dims=([1, 2], [0, 1])),
        *(N_OUT, N_IN, 2),
        basis=BASIS,
    ),
}


class OnBoth(nn.Module):
    """A layer on scalars and vectors side by side, (rows, 4, channels), of points; vectors come out."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def features(self, x: Tensor) -> Tensor:
        return torch.cat([x.norm(dim=1, keepdim=True), x], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.features(x))[:, 1:]


POINTS = random(40, 3, N_IN)


@pytest.mark.parametrize("name", REARRANGED)
def test_a_rearranged_parameter_is_relaxed_and_folds(name: str) -> None:
    model = relaxify(REARRANGED[name](), "SO(3)", example_inputs=[VECTORS])
    (term,) = terms_of(model).values()
    noise = torch.randn(term.weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    term.weight.data = project_to_intertwiners(noise, term.map.rep_in, term.map.rep_out)
    set_theta(model, 0.5)
    other = random(3, 4, 3, N_IN, seed=7)  # other numbers of rows than the plan has seen
    relaxed = model.train()(other)
    assert (relaxed - model.eval()(other)).abs().max() > 0.1
    torch.testing.assert_close(project(model, mode="fold")(other), relaxed)


@pytest.mark.parametrize("name", SPREAD)
def test_a_term_of_a_spread_weight_is_the_map_that_the_layer_applies(name: str) -> None:
    """With its own matrix as W, and theta = 1, a layer's output is doubled."""
    model = relaxify(OnBoth(SPREAD[name]()), "O(3)", example_inputs=[POINTS])
    (path, term), *others = terms_of(model).items()
    assert (path, others) == ("layer.weight", [])
    # in which order of axes the operation itself reads and writes
    turned = {"repeated for each grade": (1, 2), "a matrix for each degree, picked": (0, 1)}.get(name, (0, 0))
    with torch.no_grad():
        x = model.features(POINTS)
        y = model.layer.eval()(x)
        rows_in, rows_out = term.map.features_in.rows(x.transpose(*turned)), term.map.features_out.rows(y.transpose(*turned))
        term.weight.copy_(torch.linalg.lstsq(rows_in, rows_out).solution.mT)
    set_theta(model, 1.0)
    plain = model.eval()(POINTS)
    torch.testing.assert_close(model.train()(POINTS), 2 * plain)
    equivariant = project_to_intertwiners(term.weight.data, term.map.rep_in, term.map.rep_out)
    torch.testing.assert_close(term.weight.data, equivariant)
    clean = project(model)
    assert torch.equal(clean(POINTS), plain)
    assert inspect(clean, "O(3)", POINTS).is_sound


@pytest.mark.parametrize("name", SPREAD)
def test_a_spread_weight_that_mixes_what_it_must_not_is_named(name: str) -> None:
    """The same layers with the second axis of the vectors set apart."""
    layer = SPREAD[name]()
    with torch.no_grad():
        if "basis" in dict(layer.named_buffers()):
            layer.basis[1, 2, 2] = 2.0
        else:
            layer.weight.data = torch.cat(
                [layer.weight, 2 * layer.weight.narrow(layer.weight.shape.index(2), 1, 1)], layer.weight.shape.index(2)
            )
            layer.index, layer.counts = torch.tensor([0, 1, 2, 1]), torch.tensor([1, 1, 2])
    found = plan(OnBoth(layer), "O(3)", example_inputs=[POINTS])
    assert [entry.path for entry in found.sites] == []
    assert [entry.path for entry in found.unsound] == ["layer.weight"]
