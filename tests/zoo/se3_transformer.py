"""se3-transformer-pytorch: features are a dict of [B, N, channels, 2l + 1]; LinearSE3 mixes channels degree by degree."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from zoo.entry import Entry, along, paths

# The package keeps its change of basis in the home directory unless this is set while it is imported.
with mock.patch.dict(os.environ, CLEAR_CACHE="1"):
    from se3_transformer_pytorch import SE3Transformer

SOURCE = "Fuchs et al., SE(3)-Transformers (arXiv 2006.10503); PyPI se3-transformer-pytorch 0.9.0"
KERNEL = "a network of edge lengths and spherical harmonics makes its kernels, one an edge"
TOLERANCE = 1e-8


def _make(**options: Any) -> nn.Module:
    return SE3Transformer(dim=4, heads=2, dim_head=2, depth=1, num_neighbors=4, reduce_dim_out=True, **options)


def _inputs() -> tuple[Any, ...]:
    return torch.randn(2, 10, 4), torch.randn(2, 10, 3)


def _output(g: Tensor, features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**features, "1": along(-1)(g, features["1"])}


def _radial(convolution: str, degrees_in: int, degrees_out: int) -> frozenset[str]:
    """The layers of the networks that make a ConvSE3's kernels."""
    pattern = convolution + ".kernel_unary.({i},{o}).rp.net.{layer}"
    return paths(pattern, i=range(degrees_in), o=range(degrees_out), layer=(0, 3, 6))


def _entry(name: str, degrees: int, linear: frozenset[str], convolutions: list[str], **fields: Any) -> Entry:
    """The model whose trunk has these LinearSE3s and ConvSE3s, between conv_in from scalars and conv_out to degrees 0, 1."""
    radial = [_radial("conv_in", 1, degrees), _radial("conv_out", degrees, 2)]
    ends = frozenset({"conv_out.self_interact", "linear_out"})
    return Entry(
        name=name,
        source=SOURCE,
        group="SO(3)",
        inputs=_inputs,
        expected=paths("{map}.weights.{degree}", map=linear, degree=range(1, degrees)) | paths("{map}.weights.1", map=ends),
        invariant=paths("{map}.weights.0", map=linear | ends | {"conv_in.self_interact"}).union(
            *radial, *(_radial(convolution, degrees, degrees) for convolution in convolutions)
        ),
        impossible=dict.fromkeys(["conv_in", *convolutions, "conv_out"], KERNEL),
        output=_output,
        tolerance=TOLERANCE,
        **fields,
    )


_ATTENTION = ("to_q", "to_self_k", "to_self_v", "to_out")
_FEED_FORWARD = ("project_in", "project_out")

ENTRIES = (
    _entry(
        "SE(3)-transformer",
        degrees=3,
        linear=paths("net.blocks.0.0.attn.{map}", map=_ATTENTION)
        | paths("net.blocks.0.1.feedforward.{map}", map=_FEED_FORWARD),
        convolutions=["net.blocks.0.0.attn.to_k", "net.blocks.0.0.attn.to_v"],
        make=lambda: _make(num_degrees=3, output_degrees=2),
        notes="A dict out. Its basis is rounded to float32, so it is equivariant to 1e-9 at best.",
    ),
    _entry(
        "SE(3)-transformer, reversible",
        degrees=2,
        linear=paths("net.blocks.0.f.net.attn.{map}", map=_ATTENTION)
        | paths("net.blocks.0.g.net.feedforward.{map}", map=_FEED_FORWARD),
        convolutions=["net.blocks.0.f.net.attn.to_k", "net.blocks.0.f.net.attn.to_v"],
        make=lambda: _make(num_degrees=2, output_degrees=2, reversible=True),
        notes=(
            "The trunk runs without gradient inside an autograd Function and once more in the backward pass: no second "
            "derivatives. Between blocks two copies of all degrees share the last axis, [scalar, scalar, vector, vector]."
        ),
    ),
    Entry(
        name="SE(3)-transformer, EGNN trunk",
        source=SOURCE,
        group="SO(3)",
        make=lambda: _make(num_degrees=2, use_egnn=True, egnn_feedforward=True),
        inputs=_inputs,
        expected=paths("net.layers.0.1.feedforward.{map}.weights.1", map=_FEED_FORWARD) | {"linear_out.weights.1"},
        invariant=paths(
            "conv_in.self_interact.weights.0",
            "linear_out.weights.0",
            "net.layers.0.0.{mlp}.{layer}",
            "net.layers.0.0.htype_gating.1",
            "net.layers.0.1.feedforward.{map}.weights.0",
            mlp=("edge_mlp", "htypes_mlp", "node_mlp"),
            layer=(0, 2),
            map=_FEED_FORWARD,
        )
        | _radial("conv_in", 1, 2),
        impossible={"conv_in": KERNEL},
        output=_output,
        tolerance=TOLERANCE,
        notes=(
            "Vectors move along differences of vectors, scaled by invariants; the feed-forward block mixes channels. Second "
            "derivatives are NaN, from the length of a vector minus itself."
        ),
    ),
)
