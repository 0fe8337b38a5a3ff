"""VN-transformer: attention on vector neurons. Every linear op is an einsum with a class's own Parameter, on [..., C, 3]."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from VN_transformer import VNAttention, VNInvariant, VNLayerNorm, VNLinear, VNTransformer

from zoo.entry import Entry, along, each, paths, unchanged

SOURCE = "Assaad et al., VN-Transformer (arXiv 2206.04176); PyPI VN-transformer 0.1.0"

_ENCODER = paths(
    "vn_proj_in.1.weight",
    "encoder.layers.{i}.0.to_{map}.weight",
    "encoder.layers.{i}.2.0.weight",
    "encoder.layers.{i}.2.1.{relu}",
    "encoder.layers.{i}.2.2.weight",
    "vn_proj_out.1.weight",
    i=range(2),
    map=("q", "k", "v", "out"),
    relu="WU",
)


class Classifier(nn.Module):
    """The paper's classifier (its fig. 2): attention from latents to points, then invariant features of each latent."""

    def __init__(self, dim: int, latents: int, classes: int) -> None:
        super().__init__()
        self.proj_in = VNLinear(1, dim)
        self.attend = VNAttention(dim, dim_head=4, heads=2, num_latents=latents)
        self.norm = VNLayerNorm(dim)
        self.invariant = VNInvariant(dim)
        self.head = nn.Linear(3, classes)

    def forward(self, points: Tensor) -> Tensor:
        x = self.proj_in(rearrange(points, "b n c -> b n 1 c"))
        return self.head(self.invariant(self.norm(self.attend(x))).mean(dim=1))


ENTRIES = (
    Entry(
        name="VN-transformer",
        source=SOURCE,
        group="O(3)",
        make=lambda: VNTransformer(dim=8, depth=2, dim_head=4, heads=2, translation_equivariance=True),
        inputs=lambda: (torch.randn(2, 10, 3),),
        expected=_ENCODER,
        output=along(-1),
        notes="The direction map U of VNReLU is a site like its feature map W.",
    ),
    Entry(
        name="VN-transformer with features",
        source=SOURCE,
        group="O(3)",
        make=lambda: VNTransformer(dim=8, depth=2, dim_head=4, heads=2, dim_feat=8, l2_dist_attn=True),
        inputs=lambda: (torch.randn(4, 12, 3), torch.randn(4, 12, 8)),
        keywords=("feats",),
        expected=_ENCODER - paths("encoder.layers.{i}.0.to_k.weight", i=range(2)),
        output=each(along(-1), unchanged),
        notes=(
            "Features ride behind the coordinates on an axis of size 11, a vector and 8 invariants. "
            "to_k and to_q are one module under two names."
        ),
    ),
    Entry(
        name="VN-transformer classifier",
        source=SOURCE,
        group="O(3)",
        make=lambda: Classifier(dim=8, latents=5, classes=4),
        inputs=lambda: (torch.randn(4, 10, 3),),
        expected=paths(
            "proj_in.weight",
            "attend.to_q_input.weight",
            "attend.to_{map}.weight",
            "invariant.mlp.0.weight",
            "invariant.mlp.1.{relu}",
            map=("q", "k", "v", "out"),
            relu="WU",
        ),
        invariant=frozenset({"head"}),
        notes=(
            "VNWeightedPool's einsum 'b d c, m d e -> b m e c' makes several channels axes of one. VNInvariant's frames are "
            "[B, N, 3, 3] with channels and components of equal size, and its output's axis of size 3 is invariant."
        ),
    ),
)
