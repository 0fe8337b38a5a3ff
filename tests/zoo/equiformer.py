"""Equiformer (Liao, Smidt 2023, arXiv 2206.11990), the repository's example model: the energy of a molecule."""

import torch
from torch import Tensor, nn

from relaxify_examples.models import equiformer
from zoo.entry import Entry, paths
from zoo.graphs import neighbours


class Equiformer(equiformer.Equiformer):
    """All atoms' energies together; biases and norms are as they may be after training."""

    def __init__(self, irreps: str = "6x0e+4x1o+2x2e", depth: int = 2) -> None:
        super().__init__(irreps, depth)
        for module in self.modules():
            if isinstance(module, equiformer.ScalarBias):
                nn.init.normal_(module.bias)
            elif isinstance(module, equiformer.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)

    def forward(self, numbers: Tensor, positions: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(numbers, positions, edge_index).sum()


def molecule() -> tuple[Tensor, ...]:
    positions = 2 * torch.randn(60, 3)
    return torch.randint(4, (60,)), positions, neighbours(positions, 2.0)


PER_EDGE = "its weights are an argument of the call, made for each edge from its length"

ENTRIES = (
    Entry(
        name="Equiformer",
        source="Liao, Smidt 2023, arXiv 2206.11990",
        group="O(3)",
        make=Equiformer,
        inputs=molecule,
        expected=paths(
            "embedding",
            "edge_degree.proj.tp",
            "blocks.{i}.attention.{linear}.tp",
            "blocks.{i}.attention.value_dtp",
            "blocks.{i}.feed_forward.fctp_{j}.tp",
            "head_1.tp",
            i=range(2),
            linear=("merge_src", "merge_dst", "alpha", "value", "value_out", "proj"),
            j=(1, 2),
        ),
        invariant=paths(
            "edge_degree.exp.tp",
            "edge_degree.radial.{j}",
            "blocks.{i}.attention.radial.{j}",
            "blocks.{i}.attention.alpha_dot",
            "head_2.tp",
            i=range(2),
            j=(0, 2),
        ),
        impossible=dict.fromkeys(paths("edge_degree.dtp", "blocks.{i}.attention.dtp", i=range(2)), PER_EDGE),
        notes="The embedding maps scalars to irreps of which all but the scalars are zero: a term there would break the "
        "symmetry, so it is a site. The site is the e3nn layer `tp`, not the wrapper around it.",
    ),
)
