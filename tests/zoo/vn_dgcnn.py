"""VN-DGCNN (Deng et al. 2021, arXiv 2104.12229), the repository's example model: dynamic kNN graphs, with either pooling."""

from functools import partial

import torch
from torch import Tensor, nn

from relaxify_examples.models.vn_dgcnn import VNDGCNN
from zoo.entry import Entry, paths
from zoo.weights import generic_norms


def clouds() -> tuple[Tensor, ...]:
    return (torch.randn(4, 3, 16),)


def model(pooling: str) -> nn.Module:
    return generic_norms(VNDGCNN(5, n_knn=6, pooling=pooling, width=12))


MAPS = paths(
    "conv{i}.map_to_{kind}",
    "std_feature.vn{j}.map_to_{kind}",
    "std_feature.vn_lin",
    i=range(1, 6),
    j=(1, 2),
    kind=("feat", "dir"),
)
POOLS = paths("pool{i}.map_to_dir", i=range(1, 5))
HEAD = paths("linear{i}", i=(1, 2, 3))
SOURCE = "Deng et al. 2021, arXiv 2104.12229"

ENTRIES = (
    Entry(
        name="VN-DGCNN mean",
        source=SOURCE,
        group="O(3)",
        make=partial(model, "mean"),
        inputs=clouds,
        expected=MAPS,
        invariant=HEAD,
        notes="Each layer's graph is found in the output of the one before; conv5's direction map has one output channel.",
    ),
    Entry(
        name="VN-DGCNN max",
        source=SOURCE,
        group="O(3)",
        make=partial(model, "max"),
        inputs=clouds,
        expected=MAPS | POOLS,
        invariant=HEAD,
        without_effect=dict.fromkeys(POOLS, "its output feeds an argmax alone"),
        notes="The pools choose among neighbours by an argmax.",
    ),
)
