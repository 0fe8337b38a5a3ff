"""A graph's diffusion A_hat - I as a generator (LC Prop. 5), with A_hat = D^-1/2 (A + I) D^-1/2."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relaxify.lconv.operators.matrices import Sparse

Edges = tuple[Int[Tensor, "2 entries"], Float[Tensor, " entries"]]


def graph(
    edge_index: Int[Tensor, "2 edges"],
    nodes: int,
    edge_weight: Float[Tensor, " edges"] | None = None,
    *,
    learnable: bool = False,
) -> Sparse:
    """The one generator L = A_hat - I of the flow dh/dt = L h on a graph's nodes. Edges run from row 0 to row 1.

    >>> graph(torch.tensor([[0, 1], [1, 0]]), 2).dense()
    tensor([[[-0.5000,  0.5000],
             [ 0.5000, -0.5000]]])
    """
    weight = torch.ones(edge_index.shape[1], device=edge_index.device) if edge_weight is None else edge_weight
    (source, target), values = normalised(edge_index, weight, nodes)
    own = torch.arange(nodes, device=edge_index.device)
    indices = torch.stack([torch.cat([target, own]), torch.cat([source, own])])
    values = torch.cat([values, -values.new_ones(nodes)])
    merged = torch.sparse_coo_tensor(indices, values, (nodes, nodes), check_invariants=False).coalesce()
    return Sparse(merged.indices(), merged.values(), 1, (nodes,), learnable=learnable)


def normalised(
    edge_index: Int[Tensor, "2 edges"],
    edge_weight: Float[Tensor, " edges"],
    nodes: int,
    *,
    loop: float | None = 1.0,
    replace_loops: bool = True,
) -> Edges:
    """D^-1/2 (A + loop I) D^-1/2 as edges, D from the weights that enter a node. No loops are added if `loop` is None.

    Where `replace_loops`, a node that has a loop keeps the weight of its last one; else the new loop is added to it.
    """
    if loop is not None:
        edge_index, edge_weight = _with_loops(edge_index, edge_weight, nodes, loop, replace_loops)
    source, target = edge_index
    degree = edge_weight.new_zeros(nodes).index_add(0, target, edge_weight)
    # a negative degree has no root; it is NaN here as everywhere
    scale = degree.pow(-0.5)
    scale = scale.masked_fill(scale == torch.inf, 0.0)
    return edge_index, scale[source] * edge_weight * scale[target]


def _with_loops(edge_index: Tensor, edge_weight: Tensor, nodes: int, loop: float, replace: bool) -> Edges:
    own = torch.arange(nodes, device=edge_index.device)
    is_loop = (edge_index[0] == edge_index[1]) & replace
    weights = edge_weight.new_full((nodes,), loop)
    weights[edge_index[0, is_loop]] = edge_weight[is_loop]
    others = ~is_loop
    return torch.cat([edge_index[:, others], own.expand(2, -1)], dim=1), torch.cat([edge_weight[others], weights])
