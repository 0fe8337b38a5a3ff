"""A convolution is a linear map on patches, for every stride, padding, dilation and number of groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from relaxify.grids.convolution import Convolution, Patches
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.sketch import Sketch

LAYERS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def layers(draw: st.DrawFn) -> tuple[Convolution, nn.Module, torch.Tensor]:
    """A convolution, torch's layer that computes it, and an input."""
    dims, groups, transposed = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2])), draw(st.booleans())
    axis = st.tuples(*[st.integers(0, 2)] * dims)
    size, stride, dilation = (tuple(1 + n for n in draw(axis)) for _ in range(3))
    padding = draw(axis)
    mode = "zeros" if transposed else draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    pixels = tuple(6 + n for n in draw(axis))
    shape = (2 * groups, 3 * groups, size, stride, padding)
    if transposed:
        assume(all(p <= d * (k - 1) for p, d, k in zip(padding, dilation, size, strict=True)))
        layer = TRANSPOSED[dims](*shape, groups=groups, dilation=dilation)
    else:
        layer = LAYERS[dims](*shape, dilation, groups, padding_mode=mode)
    convolution = Convolution(None, size, stride, padding, dilation, mode, groups, transposed, (0,) * dims)
    return convolution, layer.double(), torch.randn(2, 2 * groups, *pixels, dtype=torch.float64)


@given(layers())
def test_the_kernel_times_the_patches_is_the_convolution(drawn: tuple[Convolution, nn.Module, torch.Tensor]) -> None:
    convolution, layer, x = drawn
    y = layer(x)
    matrix = convolution.as_matrix(layer.weight)
    patches = convolution.patches(x)
    by_patches = patches.all() @ convolution.blocks(matrix).mT
    torch.testing.assert_close(by_patches, y.movedim(1, -1).flatten(0, -2) - layer.bias, rtol=1e-12, atol=1e-12)
    assert torch.equal(convolution.apply(x, layer.weight, layer.bias), y)
    assert torch.equal(convolution.as_kernel(matrix), layer.weight)
    assert patches.grid == tuple(y.shape[2:])


@given(layers(), st.integers(0, 2**31))
def test_some_patches_are_those_of_all(drawn: tuple[Convolution, nn.Module, torch.Tensor], seed: int) -> None:
    convolution, _, x = drawn
    patches = convolution.patches(x)
    index = torch.randint(len(patches), (7,), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(patches[index], patches.all()[index])


def test_a_linear_layer_has_no_taps() -> None:
    convolution = Convolution(None, (), (), (), (), output_padding=())
    x, weight = torch.randn(5, 3), torch.randn(2, 3)
    assert torch.equal(convolution.patches(x).all(), x)
    assert torch.equal(convolution.apply(x, weight), x @ weight.mT)


def test_a_sketch_gathers_the_patches_that_it_samples_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    convolution = Convolution(None, (3, 3), padding=(1, 1))
    patches = convolution.patches(torch.randn(4, 2, 16, 16))
    every = patches.all()
    monkeypatch.setattr(Patches, "all", lambda self: pytest.fail("all patches were made"))
    sketch = Sketch(RelaxConfig(rows=16))
    for _ in range(3):
        sketch.update(patches, None)
    assert sketch.seen == 3 * len(every)
    assert sketch.rows is not None
    assert torch.cdist(sketch.rows, every, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max() == 0


@pytest.mark.parametrize("rows", [None, 10**6])
def test_a_sketch_of_all_patches_is_exact(rows: int | None) -> None:
    convolution = Convolution(None, (3, 3), padding=(1, 1))
    x = torch.randn(2, 2, 8, 8)
    sketch = Sketch(RelaxConfig(rows=rows))
    sketch.update(convolution.patches(x), None)
    every = convolution.patches(x).all()
    torch.testing.assert_close(sketch.moment, every.mT @ every / len(every))
