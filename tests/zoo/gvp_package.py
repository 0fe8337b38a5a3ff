"""geometric-vector-perceptron: two einsums with Parameters of the class on [B, channels, 3], scalars next to the vectors."""

from __future__ import annotations

import torch
from geometric_vector_perceptron import GVP
from torch import nn

from zoo.entry import Entry, along, each, paths, unchanged


def _make() -> nn.Module:
    return nn.Sequential(
        GVP(dim_vectors_in=4, dim_vectors_out=6, dim_feats_in=5, dim_feats_out=7, vector_gating=True),
        GVP(dim_vectors_in=6, dim_vectors_out=2, dim_feats_in=7, dim_feats_out=5, feats_activation=nn.SiLU()),
    )


ENTRIES = (
    Entry(
        name="GVP package",
        source="Jing et al., geometric vector perceptrons (arXiv 2009.01411); PyPI geometric-vector-perceptron 0.0.14",
        group="O(3)",
        make=_make,
        inputs=lambda: ((torch.randn(12, 5), torch.randn(12, 4, 3)),),
        expected=paths("{i}.W{map}", i=range(2), map="hu"),
        invariant=paths("{i}.to_feats_out.0", "0.scalar_to_vector_gates", i=range(2)),
        output=each(unchanged, along(-1)),
        notes="One tuple in, one tuple out. The package's message passing does not run with torch_geometric 2.8.",
    ),
)
