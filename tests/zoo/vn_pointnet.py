"""VN-PointNet (Deng et al. 2021, arXiv 2104.12229), the repository's example model with either pooling."""

from functools import partial

import torch
from torch import Tensor, nn

from relaxify_examples.models.vn_pointnet import VNPointNet
from zoo.entry import Entry, paths
from zoo.weights import generic_norms


def clouds() -> tuple[Tensor, ...]:
    return (torch.randn(4, 3, 16),)


def model(pooling: str) -> nn.Module:
    return generic_norms(VNPointNet(5, n_knn=6, pooling=pooling, width=12))


FSTN = paths("fstn.{name}", name=("conv1", "conv2", "conv3", "fc1", "fc2"))
MAPS = paths(
    "feat.{layer}.map_to_{kind}",
    "feat.conv3.map_to_feat",
    "feat.fstn.fc3.map_to_feat",
    "feat.std_feature.vn_lin",
    layer=("conv_pos", "conv1", "conv2", *FSTN, "std_feature.vn1", "std_feature.vn2"),
    kind=("feat", "dir"),
)
POOLS = paths("feat.pool.map_to_dir", "feat.fstn.pool.map_to_dir")
SOURCE = "Deng et al. 2021, arXiv 2104.12229"

ENTRIES = (
    Entry(
        name="VN-PointNet mean",
        source=SOURCE,
        group="SO(3)",
        make=partial(model, "mean"),
        inputs=clouds,
        expected=MAPS,
        invariant=paths("fc1", "fc2", "fc3"),
        notes="Its edge features have cross products: rotations only. Channels and the last axis trade places around maps.",
    ),
    Entry(
        name="VN-PointNet max",
        source=SOURCE,
        group="SO(3)",
        make=partial(model, "max"),
        inputs=clouds,
        expected=MAPS | POOLS,
        invariant=paths("fc1", "fc2", "fc3"),
        without_effect=dict.fromkeys(POOLS, "its output feeds an argmax alone"),
        notes="The pools choose among points by an argmax.",
    ),
)
