"""Graph convolutions as L-convs on the one generator L = A_hat - I (LC Prop. 5), whose graph comes with every call.

A_hat h Theta = h W^0 + L h W^1 with W^0 = W^1 = Theta: one Euler step of the flow dh/dt = L h.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relaxify.lconv.operators.graphs import normalised


@dataclass(frozen=True)
class GraphSettings:
    """How A_hat is made of the edges: see torch_geometric's GCNConv."""

    normalize: bool = True
    add_self_loops: bool = True
    improved: bool = False
    source_to_target: bool = True


class GraphLConv(nn.Module):
    """F(x) = x W^0 + L x W^1 + b for node features x and the graph of `edge_index`.

    `lin` is the map Theta, with its keys; W^1 is Theta too, so A_hat (x Theta) is computed, until `free` makes it another.
    """

    def __init__(self, lin: nn.Module, bias: nn.Parameter | None, settings: GraphSettings = GraphSettings()) -> None:
        super().__init__()
        self.lin = lin
        self.bias = bias
        self.settings = settings
        self.flow_weight: nn.Parameter | None = None

    def free(self) -> None:
        """Let W^1 be learned apart from W^0; the function stays as it is until then."""
        if self.flow_weight is None:
            self.flow_weight = nn.Parameter(self.lin.get_parameter("weight").detach().clone())

    def forward(
        self,
        x: Float[Tensor, "*batch nodes features"],
        edge_index: Tensor,
        edge_weight: Float[Tensor, " edges"] | None = None,
    ) -> Float[Tensor, "*batch nodes out"]:
        edges, weights = self._edges(x, edge_index, edge_weight)
        out = self.lin(x)
        if self.flow_weight is None:
            out = _propagate(edges, weights, out)
        else:
            moved = x @ self.flow_weight.mT
            out = out + _propagate(edges, weights, moved) - moved
        return out if self.bias is None else out + self.bias

    def _edges(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None) -> tuple[Tensor, Tensor]:
        if not isinstance(edge_index, Tensor):
            raise ValueError(f"the graph is a {type(edge_index).__name__}; pass edge_index, or a torch.sparse tensor.")
        sparse = edge_index.layout != torch.strided
        if sparse:
            # by torch_geometric's convention a sparse tensor is the transpose of the adjacency
            adjacency = edge_index.to_sparse_coo().coalesce()
            edge_index, edge_weight = adjacency.indices().flip(0), adjacency.values()
        elif not self.settings.source_to_target:
            edge_index = edge_index.flip(0)
        weights = x.new_ones(edge_index.shape[1]) if edge_weight is None else edge_weight.to(x.dtype)
        if not self.settings.normalize:
            return edge_index, weights
        # torch_geometric gives loops the weight 1 where edges have none
        loop = 2.0 if self.settings.improved and edge_weight is not None else 1.0
        return normalised(
            edge_index, weights, x.shape[-2], loop=loop if self.settings.add_self_loops else None, replace_loops=not sparse
        )


class AdjacencyLConv(nn.Module):
    """F(x) = A_hat (x Theta) + b with A_hat given in each call, dense or sparse: a plain GCN layer (Kipf and Welling).

    `theta` names what holds Theta here: a Parameter (in, out), or an nn.Linear. It and the bias keep their names.
    """

    def __init__(self, theta: str, held: nn.Parameter | nn.Linear, bias: str | None, offset: nn.Parameter | None) -> None:
        super().__init__()
        self.theta_name, self.bias_name = theta, bias
        setattr(self, theta, held)
        if bias is not None:
            self.register_parameter(bias, offset)

    def forward(
        self, x: Float[Tensor, "nodes features"], adjacency: Float[Tensor, "nodes nodes"]
    ) -> Float[Tensor, "nodes out"]:
        held = getattr(self, self.theta_name)
        out = adjacency @ (held(x) if isinstance(held, nn.Linear) else x @ held)
        offset = None if self.bias_name is None else getattr(self, self.bias_name)
        return out if offset is None else out + offset


def _propagate(edges: Int[Tensor, "2 edges"], weights: Float[Tensor, " edges"], x: Tensor) -> Tensor:
    source, target = edges
    return torch.zeros_like(x).index_add(-2, target, weights[:, None] * x.index_select(-2, source))
