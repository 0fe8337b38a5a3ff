"""Relaxed group convolutions over C_n: their kernels by hand, and their equivariance under quarter turns."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from relaxify import plan
from relaxify_examples.models.relaxed_convolution import RelaxedConv
from relaxify_examples.models.relaxed_group import RelaxedGroupConv, RelaxedLiftingConv


@torch.no_grad()
def varied(layer: RelaxedConv) -> RelaxedConv:
    assert layer.variation is not None
    layer.variation.normal_()
    return layer.double()


def shares(layer: RelaxedConv) -> Tensor:
    """w_l(h)."""
    assert layer.variation is not None
    return 1 / len(layer.weights) + layer.variation


def test_a_lifting_kernel_is_its_filters_turned() -> None:
    layer = varied(RelaxedLiftingConv(2, 3, 5, banks=3))
    filters, kernel = layer.weights.unflatten(-1, (5, 5)), layer.kernel().unflatten(0, (3, 4))
    for g in range(4):
        expected = torch.einsum("l,lvuyx->vuyx", shares(layer)[:, g], filters.rot90(g, (-2, -1)))
        torch.testing.assert_close(kernel[:, g], expected, rtol=1e-13, atol=1e-13)


def test_a_group_kernel_is_its_filters_turned_from_element_to_element() -> None:
    layer = varied(RelaxedGroupConv(2, 3, 3, banks=2))
    filters = layer.weights.unflatten(-1, (4, 3, 3))
    kernel = layer.kernel().unflatten(1, (2, 4)).unflatten(0, (3, 4))
    for g, h in product(range(4), range(4)):
        turned = filters[:, :, :, (h - g) % 4].rot90(g, (-2, -1))
        expected = torch.einsum("l,lvuyx->vuyx", shares(layer)[:, h], turned)
        torch.testing.assert_close(kernel[:, g, :, h], expected, rtol=1e-13, atol=1e-13)


def turned(y: Tensor, order: int) -> Tensor:
    """A quarter turn of regular fields of C_n."""
    return y.rot90(1, (-2, -1)).unflatten(1, (-1, order)).roll(order // 4, 2).flatten(1, 2)


@settings(max_examples=20)
@given(
    st.sampled_from([4, 8]),
    st.sampled_from([1, 3, 5]),
    st.sampled_from(["zeros", "circular", "reflect", "replicate"]),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_quarter_turns_go_through_exactly(order: int, size: int, padding_mode: str, banks: int, seed: int) -> None:
    """In a stack of both kinds with ReLUs, at the start, and no longer when weights vary."""
    torch.manual_seed(seed)
    lifting = RelaxedLiftingConv(2, 3, size, order=order, banks=banks, padding_mode=padding_mode)
    group = RelaxedGroupConv(3, 2, size, order=order, banks=banks, padding_mode=padding_mode)
    net = nn.Sequential(lifting, nn.ReLU(), group).double()
    nn.init.normal_(lifting.bias)
    x = torch.randn(2, 2, 7, 7, dtype=torch.float64)
    y, moved = net(x), net(x.rot90(1, (-2, -1)))
    assert float((moved - turned(y, order)).detach().norm()) < 1e-13 * float(y.detach().norm())
    varied(group)
    y, moved = net(x), net(x.rot90(1, (-2, -1)))
    assert float((moved - turned(y, order)).detach().norm()) > 1e-3 * float(y.detach().norm())


def test_between_taps_the_error_is_stated() -> None:
    (site,) = plan(RelaxedLiftingConv(1, 1, 3, order=8), "C(8)").sites
    assert 0.1 < site.map.interpolation < 1.5
    assert plan(RelaxedLiftingConv(1, 1, 3, order=8), "C(4)").sites[0].map.interpolation == 0


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_kernel_has_a_middle(size: int) -> None:
    with pytest.raises(ValueError, match=f"kernel_size={size} has no middle tap to turn or scale about; pass an odd number"):
        RelaxedLiftingConv(1, 1, size)
