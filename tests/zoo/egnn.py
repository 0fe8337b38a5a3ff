"""egnn-pytorch: E(n)-equivariant networks whose linear ops all act on invariants. There is nothing to relax."""

from __future__ import annotations

from typing import Any

import torch
from egnn_pytorch import EGNN_Network, EGNN_Sparse
from torch import Tensor, nn

from zoo.entry import Entry, Inputs, along, each, paths, unchanged
from zoo.graphs import CUTOFF, SIZES, batch_index, neighbours, positions

SOURCE = "Satorras et al., E(n) equivariant graph neural networks (arXiv 2102.09844); PyPI egnn-pytorch 0.2.8"
WHY = "Every linear op acts on invariants. Coordinates move along differences of coordinates, scaled by invariants."


def _dense() -> nn.Module:
    # the package's weights start at 1e-3, where coordinates hardly move
    return EGNN_Network(depth=2, dim=8, num_tokens=5, num_nearest_neighbors=4, init_eps=0.3, global_linear_attn_every=2)


def _sparse() -> nn.Module:
    return EGNN_Sparse(feats_dim=6, m_dim=8, fourier_features=2, soft_edge=1)


def _graph() -> Inputs:
    atoms = torch.cat([positions(), torch.randn(sum(SIZES), 6)], dim=-1)
    batch = batch_index()
    return atoms, neighbours(atoms[:, :3], CUTOFF, batch), None, batch


def _first_three(g: Tensor, atoms: Tensor) -> Tensor:
    """The action on coordinates that stand in front of invariant features on one axis."""
    return torch.cat([along(-1)(g, atoms[..., :3]), atoms[..., 3:]], dim=-1)


def _first_input(g: Tensor, inputs: Inputs) -> tuple[Any, ...]:
    return _first_three(g, inputs[0]), *inputs[1:]


ENTRIES = (
    Entry(
        name="EGNN",
        source=SOURCE,
        group="O(3)",
        make=_dense,
        inputs=lambda: (torch.randint(5, (2, 12)), torch.randn(2, 12, 3)),
        expected=frozenset(),
        invariant=paths(
            "layers.{i}.1.{mlp}.{layer}",
            "layers.0.0.attn{j}.to_{map}",
            "layers.0.0.ff.{position}",
            i=range(2),
            mlp=("edge_mlp", "coors_mlp", "node_mlp"),
            layer=(0, 3),
            j=(1, 2),
            map=("q", "kv", "out"),
            position=(1, 3),
        ),
        features=frozenset({"global_tokens"}),
        output=each(unchanged, along(-1)),
        notes=WHY,
    ),
    Entry(
        name="EGNN, sparse",
        source=SOURCE,
        group="O(3)",
        make=_sparse,
        inputs=_graph,
        expected=frozenset(),
        invariant=paths("{mlp}.{layer}", "edge_weight.0", mlp=("edge_mlp", "coors_mlp", "node_mlp"), layer=(0, 3)),
        input_action=_first_input,
        output=_first_three,
        notes=WHY + " Coordinates and features share one axis of size 9, cut apart in forward.",
    ),
)
