"""L-conv: equation 6, its init and its flows."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from relaxify.lconv import (
    Dense,
    Flow,
    Generators,
    Grid,
    ImageAlgebra,
    LConv,
    LinearLConv,
    LowRank,
    Points,
    Shifts,
    algebra,
    graph,
)
from relaxify.lconv.operators.images import NAMES
from relaxify.lconv.regularisers import closure_penalty


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def equation_6(layer: LConv, h: Tensor) -> Tensor:
    """The second line of LC eq. 6, summed index by index."""
    assert layer.identity_weight is not None
    assert layer.bias is not None
    out = torch.einsum("bcm,oc->bom", h, layer.identity_weight) + layer.bias[:, None]
    for matrix, weight in zip(layer.generators.dense(), layer.weight, strict=True):
        out = out + torch.einsum("mn,bcn,oc->bom", matrix, h, weight)
    return torch.tanh(out)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.booleans())
def test_the_layer_is_equation_6(count: int, channels: int, out: int, d: int, low_rank: bool) -> None:
    torch.manual_seed(0)
    generators: Generators = LowRank.random(count, (d,), rank=2) if low_rank else Dense.random(count, (d,))
    layer = LConv(generators, channels, out, activation=torch.tanh).double()
    layer.bias.data.normal_()  # type: ignore[union-attr]
    h = noise(3, channels, d)
    torch.testing.assert_close(layer(h), equation_6(layer, h))


def test_nodes_with_features_are_the_transposed_layout() -> None:
    layer = LConv(graph(torch.tensor([[0, 1, 2], [1, 2, 0]]), 4), 3, 2).double()
    h = noise(4, 3)
    torch.testing.assert_close(layer(h), layer(h.mT[None])[0].mT)
    assert layer(h).shape == (4, 2)


def test_frozen_generators_have_no_parameters() -> None:
    assert {name for name, _ in LConv(algebra("so(3)"), 2, 2).named_parameters()} == {"weight", "identity_weight", "bias"}
    learned = {name for name, _ in LConv(LowRank.random(2, (5,), rank=1), 2, 2).named_parameters()}
    assert learned == {"weight", "identity_weight", "bias", "generators.up", "generators.down"}


FAMILIES = {
    "low rank": lambda: LowRank.random(8, (12, 12), rank=16),
    "dense": lambda: Dense.random(8, (12, 12)),
    "grid": lambda: Grid.random(8, Shifts((3, 3), padding=((1, 1), (1, 1)), padding_mode="circular"), space=(12, 12)),
    "rotations": lambda: algebra("so(3)"),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_the_init_keeps_variance(name: str, gain: float) -> None:
    torch.manual_seed(0)
    layer = LConv(FAMILIES[name](), 64, 64, gain=gain)
    h = torch.randn(16, 64, *(layer.generators.space or ()))
    with torch.no_grad():
        assert float(layer(h).var()) == pytest.approx(gain**2, rel=0.15)


@pytest.mark.parametrize("derivative", ["spectral", "bilinear"])
@pytest.mark.parametrize("size", [(16, 16), (9, 28)])
def test_the_init_keeps_variance_on_images(size: tuple[int, int], derivative: Any) -> None:
    torch.manual_seed(0)
    layer = LConv(ImageAlgebra(("rotation", "scaling"), derivative), 64, 64, space=size)
    with torch.no_grad():
        assert float(layer(torch.randn(16, 64, *size)).var()) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_the_init_keeps_variance_on_images_whose_size_it_is_not_told(name: str) -> None:
    torch.manual_seed(0)
    layer = LConv(ImageAlgebra((name,)), 16, 16)
    with torch.no_grad():
        assert float(layer(torch.randn(16, 16, 28, 28)).std()) == pytest.approx(1, abs=0.15)
        assert float(layer(torch.randn(4, 16, 8, 8)).std()) != pytest.approx(1, abs=0.02)


def test_the_first_input_scales_weights_once_and_none_that_were_loaded() -> None:
    torch.manual_seed(0)
    layer, other = LConv(ImageAlgebra(), 4, 4), LConv(ImageAlgebra(), 4, 4)
    layer(torch.randn(1, 4, 8, 8))
    other.load_state_dict(layer.state_dict())
    h = torch.randn(2, 4, 20, 20)
    assert torch.equal(other(h), layer(h))


STENCILS = {
    "one axis": lambda: Grid.random(3, Shifts((3,), padding=((1, 1),))),
    "stride": lambda: Grid.random(9, Shifts((3, 3), stride=(2, 2), padding=((1, 1), (1, 1)))),
    "transposed": lambda: Grid.random(16, Shifts((4, 4), stride=(2, 2), padding=((1, 1), (1, 1)), transposed=True)),
    "points": lambda: Points((8, 8)),
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", STENCILS)
def test_the_init_keeps_variance_from_one_space_to_another(name: str, groups: int) -> None:
    torch.manual_seed(0)
    generators = STENCILS[name]()
    layer = LConv(generators, 32, 32, groups=groups, identity=False)
    with torch.no_grad():
        assert float(layer(torch.randn(64, 32, *[8] * generators.ndim)).std()) == pytest.approx(1, abs=0.2)


def test_the_init_keeps_variance_through_many_layers() -> None:
    torch.manual_seed(0)
    layers = [LConv(LowRank.random(8, (64,), rank=16), 32, 32, activation=torch.relu, gain=2**0.5) for _ in range(8)]
    h = torch.randn(64, 32, 64)
    start = float(h.square().mean())
    with torch.no_grad():
        for layer in layers:
            h = layer(h)
    assert 0.3 < float(h.square().mean()) / start < 3


@pytest.mark.parametrize("groups", [1, 2])
def test_shifts_with_the_identity_and_groups(groups: int) -> None:
    layer = LConv(Shifts((3,), padding=((1, 1),)), 4, 6, groups=groups).double()
    h = noise(2, 4, 5)
    blocks = torch.block_diag(*layer.identity_weight.chunk(groups))  # type: ignore[union-attr]
    expected = layer.generators.mix(h, layer.weight, groups) + torch.einsum("oc,bcm->bom", blocks, h)
    torch.testing.assert_close(layer(h), expected)
    torch.testing.assert_close(layer(h[0]), layer(h)[0])


def test_proposition_3_as_corrected() -> None:
    """GL_d's one-hot generators with W_(a,b) = w_b / d and sum pooling are w . h; as printed they are (sum w)(sum h)."""
    d = 5
    w, h = noise(3, d), noise(4, 1, d, seed=1)
    one_hot = torch.eye(d * d, dtype=torch.float64).reshape(d * d, d, d)
    layer = LConv(Dense(one_hot, learnable=False), 1, 3, identity=False).double()
    layer.bias.data.zero_()  # type: ignore[union-attr]
    layer.weight.data = w.T.repeat(d, 1)[..., None] / d  # generator a * d + b has weight w_b / d
    torch.testing.assert_close(layer(h).sum(-1), h[:, 0] @ w.T)
    layer.weight.data = w.T.repeat_interleave(d, 0)[..., None]  # eq. 9: w_a
    printed = layer(h).sum(-1)
    torch.testing.assert_close(printed, h[:, 0].sum(1, keepdim=True) * w.sum(1))


def test_a_linear_layer_is_the_l_conv_that_reads_points() -> None:
    linear = torch.nn.Linear(3 * 8, 5).double()
    layer = LinearLConv(Points((2, 4)), 24, 5).double()
    layer.weight.data, layer.bias.data = linear.weight.data, linear.bias.data  # type: ignore[union-attr]
    h = noise(6, 3, 2, 4)
    torch.testing.assert_close(layer(h.flatten(1)), linear(h.flatten(1)))
    # the sum over its generators, one matrix e_b^T for each point
    literal = sum(
        torch.einsum("mn,bcn,oc->bom", matrix, h.flatten(2), weight)
        for matrix, weight in zip(
            layer.generators.dense(dtype=torch.float64), layer.generators.per_generator(layer.weight), strict=True
        )
    )
    torch.testing.assert_close(layer(h.flatten(1)), literal[..., 0] + linear.bias)  # type: ignore[index]


@pytest.mark.parametrize("channels", [None, 3])
def test_a_flow_in_steps_approaches_the_exponential(channels: int | None) -> None:
    """LC Prop. 2: the error of k steps of size 1/k falls as 1/k."""
    torch.manual_seed(0)
    h = noise(2, 3, 4)
    exact = Flow(Dense(noise(2, 4, 4) / 4, learnable=False), channels=channels).double()
    expected = exact(h)
    matrices = exact.generators.dense()
    if channels is None:
        whole = torch.linalg.matrix_exp(torch.einsum("n,nij->ij", exact.coefficients, matrices))
        torch.testing.assert_close(expected, h @ whole.mT)
    else:
        whole = torch.linalg.matrix_exp(sum(map(torch.kron, exact.coefficients, matrices)))  # type: ignore[arg-type]
        torch.testing.assert_close(expected.flatten(1), h.flatten(1) @ whole.mT)

    def error(steps: int) -> float:
        flow = copy.deepcopy(exact)
        flow.steps = steps
        return float((flow(h) - expected).detach().norm())

    assert error(64) < 0.02 * float(expected.detach().norm())
    assert error(128) == pytest.approx(error(64) / 2, rel=0.1)


def test_a_flow_turns_vectors() -> None:
    flow = Flow(algebra("so(3)").double(), coefficients=torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    e_x = torch.eye(3, dtype=torch.float64)[:1, None]
    torch.testing.assert_close(flow(e_x).detach()[0, 0], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


def test_bad_input_is_one_sentence() -> None:
    between = Dense(noise(2, 3, 4))
    with pytest.raises(ValueError, match="pass identity=False"):
        LConv(between, 1, 1)
    with pytest.raises(ValueError, match="that the groups divide"):
        LConv(Dense(noise(2, 3, 3)), 3, 4, groups=2)
    with pytest.raises(ValueError, match="have no bracket"):
        closure_penalty(between)
    with pytest.raises(ValueError, match="to one point"):
        LinearLConv(between, 4, 4)
    with pytest.raises(ValueError, match="steps=0"):
        Flow(algebra("so(2)"), steps=0)
    with pytest.raises(ValueError, match="coefficients have shape"):
        Flow(algebra("so(2)"), coefficients=torch.ones(2))
