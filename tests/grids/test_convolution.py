"""One geometry of convolutions: what patches and shifts read, and what torch computes, for every setting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from relaxify.grids.convolution import CONVOLUTIONS, Geometry, Patches
from relaxify.lconv import Shifts
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.sketch import Sketch

Drawn = tuple[nn.Module, Tensor]


@st.composite
def layers(draw: st.DrawFn) -> Drawn:
    """One of torch's own convolutions, with any settings that it takes, and an input that it takes."""
    kind = draw(st.sampled_from(list(CONVOLUTIONS)))
    dims, groups, transposed = CONVOLUTIONS[kind], draw(st.sampled_from([1, 2])), "Transpose" in kind.__name__

    def each(least: int, most: int) -> tuple[int, ...]:
        return draw(st.tuples(*[st.integers(least, most)] * dims))

    size, stride, dilation = each(1, 4), each(1, 3), each(1, 3)
    own: dict[str, Any] = {"dilation": dilation, "groups": groups}
    if transposed:
        own |= {"stride": stride, "padding": each(0, 2)}
        own["output_padding"] = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    else:
        own["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
        own["padding"] = draw(st.sampled_from(["same", "valid"]) | st.tuples(*[st.integers(0, 3)] * dims))
        own["stride"] = (1,) * dims if own["padding"] == "same" else stride
    layer = kind(2 * groups, 3 * groups, size, **own).double()
    space = draw(st.tuples(*[st.integers(1, 8 if dims < 3 else 5)] * dims))
    geometry, mode = Geometry.of(layer), own.get("padding_mode", "zeros")
    # torch's own limits
    assume(min(geometry._length_out(axis, length) for axis, length in enumerate(space)) > 0)
    assume(mode != "reflect" or all(max(sides) < n for sides, n in zip(geometry.padding, space, strict=True)))
    assume(mode != "circular" or all(max(sides) <= n for sides, n in zip(geometry.padding, space, strict=True)))
    return layer, torch.randn(2, 2 * groups, *space, dtype=torch.float64)


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=300)
@given(layers())
def test_patches_and_shifts_are_the_convolution_for_all_of_torchs_settings(drawn: Drawn) -> None:
    """Four ways of one geometry: torch's functions, matrices on patches, shift operators, and these as sparse matrices."""
    layer, x = drawn
    geometry, y, space = Geometry.of(layer), layer(x), tuple(x.shape[2:])
    linear = y - layer.bias.view(-1, *(1,) * len(space))
    assert geometry.space_out(space) == tuple(y.shape[2:])
    assert_near(geometry.apply(x, layer.weight, layer.bias), y)

    matrix, patches = geometry.as_matrix(layer.weight), geometry.patches(x)
    assert torch.equal(geometry.as_kernel(matrix), layer.weight)
    assert_near(patches.all() @ geometry.blocks(matrix).mT, linear.movedim(1, -1).flatten(0, -2))

    shifts = Shifts.of(geometry)
    weights = shifts.per_generator(layer.weight, layer.groups)
    blocks = torch.stack([torch.block_diag(*each.chunk(layer.groups)) for each in weights])
    assert torch.equal(shifts.pack(weights, layer.groups), layer.weight)
    assert_near(torch.einsum("noc,nbc...->bo...", blocks, shifts.act(x)), linear)
    assert_near(shifts.mix(x, layer.weight, layer.groups), linear)
    matrices = shifts.transpose(space).double().dense().mT
    assert_near(torch.einsum("noc,nij,bcj->boi", blocks, matrices, x.flatten(2)), linear.flatten(2))


@given(layers(), st.integers(0, 2**31))
def test_some_patches_are_those_of_all(drawn: Drawn, seed: int) -> None:
    layer, x = drawn
    patches = Geometry.of(layer).patches(x)
    index = torch.randint(len(patches), (7,), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(patches[index], patches.all()[index])


def test_a_linear_layer_has_no_taps() -> None:
    geometry = Geometry(())
    x, weight = torch.randn(5, 3), torch.randn(2, 3)
    assert torch.equal(geometry.patches(x).all(), x)
    assert torch.equal(geometry.apply(x, weight), x @ weight.mT)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"padding_mode": "mirror"}, "padding_mode='mirror' is unknown"),
        ({"padding_mode": "circular", "transposed": True}, "pads with zeros only"),
        ({"padding": ((1, 0), (1, 1)), "transposed": True}, "pads both sides alike"),
    ],
)
def test_what_no_convolution_does_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Geometry((3, 3), **settings)


def test_a_sketch_gathers_the_patches_that_it_samples_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry((3, 3), padding=((1, 1), (1, 1)))
    patches = geometry.patches(torch.randn(4, 2, 16, 16))
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
    geometry = Geometry((3, 3), padding=((1, 1), (1, 1)))
    x = torch.randn(2, 2, 8, 8)
    sketch = Sketch(RelaxConfig(rows=rows))
    sketch.update(geometry.patches(x), None)
    every = geometry.patches(x).all()
    torch.testing.assert_close(sketch.moment, every.mT @ every / len(every))
