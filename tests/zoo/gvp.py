"""GVP-GNN: geometric vector perceptrons, which carry tuples of scalars and vectors (Jing et al. 2021, arXiv 2009.01411).

A feature is a tuple (s, V), V of shape [rows, vectors, 3]; channels are mixed on the last axis after a transpose.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from relaxify_examples.models.segnn import fully_connected
from zoo.entry import Entry, along, each, paths

Tuple = tuple[Float[Tensor, "rows scalars"], Float[Tensor, "rows vectors 3"]]


def length(v: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    return v.square().sum(dim, keepdim=keepdim).add(1e-8).sqrt()


class GVP(nn.Module):
    """Algorithm 1: V_h = W_h V, V_u = W_u V_h, s' = relu(W_s [s, |V_h|] + b), V' = sigmoid(|V_u|) V_u."""

    def __init__(self, scalars_in: int, vectors_in: int, scalars_out: int, vectors_out: int, activated: bool = True) -> None:
        super().__init__()
        hidden = max(vectors_in, vectors_out)
        self.wh = nn.Linear(vectors_in, hidden, bias=False)
        self.wu = nn.Linear(hidden, vectors_out, bias=False)
        self.ws = nn.Linear(scalars_in + hidden, scalars_out)
        self.activated = activated

    def forward(self, s: Tensor, v: Tensor) -> Tuple:
        vh = self.wh(v.transpose(-1, -2))
        vu = self.wu(vh).transpose(-1, -2)
        s = self.ws(torch.cat([s, length(vh, dim=-2)], dim=-1))
        if not self.activated:
            return s, vu
        return F.relu(s), torch.sigmoid(length(vu, dim=-1, keepdim=True)) * vu


class TupleNorm(nn.Module):
    """Layer norm on scalars; vectors divided by the root mean square of their lengths."""

    def __init__(self, scalars: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(scalars)

    def forward(self, s: Tensor, v: Tensor) -> Tuple:
        rms = v.square().sum(-1, keepdim=True).mean(-2, keepdim=True).add(1e-8).sqrt()
        return self.norm(s), v / rms


class Convolution(nn.Module):
    """h_i <- norm(h_i + mean_j g_m(h_j, e_ji)), then h_i <- norm(h_i + g_u(h_i)), g stacks of GVPs."""

    def __init__(self, node: tuple[int, int], edge: tuple[int, int]) -> None:
        super().__init__()
        both = (node[0] + edge[0], node[1] + edge[1])
        self.message = nn.ModuleList([GVP(*both, *node), GVP(*node, *node, activated=False)])
        self.update = nn.ModuleList(
            [GVP(*node, 2 * node[0], 2 * node[1]), GVP(2 * node[0], 2 * node[1], *node, activated=False)]
        )
        self.norms = nn.ModuleList([TupleNorm(node[0]), TupleNorm(node[0])])

    def forward(self, node: Tuple, edge: Tuple, edge_index: Int[Tensor, "2 edge"]) -> Tuple:
        sender, receiver = edge_index
        message = tuple(torch.cat([n[sender], e], dim=1) for n, e in zip(node, edge, strict=True))
        for layer in self.message:
            message = layer(*message)
        received = (mean_at(receiver, m, len(node[0])) for m in message)
        node = self.norms[0](*(n + r for n, r in zip(node, received, strict=True)))
        update = node
        for layer in self.update:
            update = layer(*update)
        return self.norms[1](*(n + u for n, u in zip(node, update, strict=True)))


def mean_at(receiver: Int[Tensor, " edge"], values: Float[Tensor, "edge *axes"], nodes: int) -> Float[Tensor, "node *axes"]:
    count = torch.bincount(receiver, minlength=nodes).clamp(min=1)
    total = values.new_zeros(nodes, *values.shape[1:]).index_add(0, receiver, values)
    return total / count.reshape(-1, *[1] * (values.ndim - 1))


class GVPNetwork(nn.Module):
    """Scores and a displacement of every residue of a chain."""

    def __init__(
        self, scalars: int = 4, node: tuple[int, int] = (8, 5), edge: tuple[int, int] = (6, 2), depth: int = 2
    ) -> None:
        super().__init__()
        self.node = GVP(scalars, 2, *node, activated=False)
        self.edge = GVP(5, 1, *edge, activated=False)
        self.layers = nn.ModuleList(Convolution(node, edge) for _ in range(depth))
        self.head = GVP(*node, 4, 1, activated=False)

    def forward(
        self,
        positions: Float[Tensor, "n 3"],
        scalars: Float[Tensor, "n k"],
        edge_index: Int[Tensor, "2 edge"],
    ) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n 3"]]:
        steps = F.normalize(positions.diff(dim=0), dim=-1)
        along_chain = torch.stack([F.pad(steps, (0, 0, 0, 1)), F.pad(-steps, (0, 0, 1, 0))], dim=1)
        relative = positions[edge_index[0]] - positions[edge_index[1]]
        distance = length(relative, dim=-1, keepdim=True)
        radial = torch.exp(-((distance - torch.linspace(0, 4, 5).to(distance)) ** 2))
        node = self.node(scalars, along_chain)
        edge = self.edge(radial, (relative / distance).unsqueeze(1))
        for layer in self.layers:
            node = layer(node, edge, edge_index)
        scores, vectors = self.head(*node)
        return scores, vectors.squeeze(1)


def chain() -> tuple[Tensor, ...]:
    return torch.randn(11, 3), torch.randn(11, 4), fully_connected(1, 11)


GVPS = ("node", "edge", "layers.{i}.message.{j}", "layers.{i}.update.{j}", "head")


def entry(name: str, node: tuple[int, int], notes: str) -> Entry:
    return Entry(
        name=name,
        source="Jing et al. 2021, arXiv 2009.01411",
        group="O(3)",
        make=partial(GVPNetwork, node=node),
        inputs=chain,
        expected=paths(*(f"{gvp}.{map_}" for gvp in GVPS for map_ in ("wh", "wu")), i=range(2), j=range(2)),
        invariant=paths(*(f"{gvp}.ws" for gvp in GVPS), i=range(2), j=range(2)),
        output=each(None, along(-1)),
        notes=notes,
    )


ENTRIES = (
    entry(
        "GVP",
        (8, 5),
        "wh and wu act on the last axis of [rows, 3, vectors]; the transposes around them are the layer's own.",
    ),
    entry("GVP with three vectors", (8, 3), "As many channels as components: sizes do not tell the two axes apart."),
)
