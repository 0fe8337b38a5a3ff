"""SEGNN: message passing whose multilayer perceptrons are steered by geometry (Brandstetter et al. 2021, arXiv 2110.02905).

Every linear map of an ordinary message-passing network becomes a Clebsch-Gordan tensor product with an attribute, spherical
harmonics of positions and velocities, and every nonlinearity a gate. Written from the paper, for its N-body task:
translations act on positions alone, rotations and reflections on positions and velocities.
"""

import torch
from e3nn import o3
from e3nn.nn import Gate
from jaxtyping import Float, Int
from torch import Tensor, nn


class SteerableLinear(nn.Module):
    """h -> W_a h + b: for every attribute a, a linear map of h, equivariant in h and a together.

    W is a fully connected tensor product; b acts on the leading `0e` scalars alone. Both start as `torch.nn.Linear` does,
    uniform in +-1/sqrt(fan_in), and nothing divides by the fan-in afterwards: an Adam step then moves the map as far as it
    would move a Linear's, where e3nn's own normalisation would shrink it by sqrt(fan_in).
    """

    def __init__(self, irreps_in: o3.Irreps, irreps_attr: o3.Irreps, irreps_out: o3.Irreps) -> None:
        super().__init__()
        self.tensor_product = o3.FullyConnectedTensorProduct(irreps_in, irreps_attr, irreps_out, path_normalization="none")
        scalars = irreps_out[0].mul if irreps_out[0].ir.is_scalar() else 0
        self.bias = nn.Parameter(torch.empty(scalars)) if scalars else None
        self.padding = irreps_out.dim - scalars
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        paths = list(self.tensor_product.weight_views(yield_instruction=True))
        fan_in = [0] * len(self.tensor_product.irreps_out)
        for _, path, _ in paths:
            fan_in[path.i_out] += path.path_shape[0] * path.path_shape[1]
        for _, path, weight in paths:
            nn.init.uniform_(weight, -(fan_in[path.i_out] ** -0.5), fan_in[path.i_out] ** -0.5)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -(fan_in[0] ** -0.5), fan_in[0] ** -0.5)

    def forward(
        self, h: Float[Tensor, "rows irreps_in"], attribute: Float[Tensor, "rows irreps_attr"]
    ) -> Float[Tensor, "rows irreps_out"]:
        out: Tensor = self.tensor_product(h, attribute)
        return out if self.bias is None else out + nn.functional.pad(self.bias, (0, self.padding))


class GatedSteerableLinear(nn.Module):
    """A steerable linear map, then a gate: swish on scalars, a learned sigmoid gate on every other irrep."""

    def __init__(self, irreps_in: o3.Irreps, irreps_attr: o3.Irreps, irreps_out: o3.Irreps) -> None:
        super().__init__()
        scalars, gated = irreps_out[:1], irreps_out[1:]
        gates = o3.Irreps([(gated.num_irreps, (0, 1))])
        self.gate = Gate(scalars, [nn.functional.silu], gates, [torch.sigmoid], gated)
        self.linear = SteerableLinear(irreps_in, irreps_attr, self.gate.irreps_in)

    def forward(
        self, h: Float[Tensor, "rows irreps_in"], attribute: Float[Tensor, "rows irreps_attr"]
    ) -> Float[Tensor, "rows irreps_out"]:
        out: Tensor = self.gate(self.linear(h, attribute))
        return out


class SEGNNLayer(nn.Module):
    """One round of message passing, with a residual.

    m_ij = phi_m(f_i, f_j, |x_ij|, q_i q_j; a_ij),  f_i <- f_i + phi_f(f_i, sum_j m_ij; a_i)
    """

    def __init__(self, irreps_hidden: o3.Irreps, irreps_attr: o3.Irreps, irreps_message: o3.Irreps) -> None:
        super().__init__()
        self.degrees = [mul_irrep.dim for mul_irrep in irreps_hidden]
        pair = o3.Irreps([(2 * mul, irrep) for mul, irrep in irreps_hidden])
        self.message_1 = GatedSteerableLinear((irreps_message + pair).simplify(), irreps_attr, irreps_hidden)
        self.message_2 = GatedSteerableLinear(irreps_hidden, irreps_attr, irreps_hidden)
        self.update_1 = GatedSteerableLinear(pair, irreps_attr, irreps_hidden)
        self.update_2 = SteerableLinear(irreps_hidden, irreps_attr, irreps_hidden)

    def forward(
        self,
        features: Float[Tensor, "node irreps"],
        edge_index: Int[Tensor, "2 edge"],
        edge_features: Float[Tensor, "edge irreps_message"],
        edge_attr: Float[Tensor, "edge irreps_attr"],
        node_attr: Float[Tensor, "node irreps_attr"],
    ) -> Float[Tensor, "node irreps"]:
        sender, receiver = edge_index
        message = torch.cat([edge_features, self.direct_sum(features[receiver], features[sender])], dim=-1)
        message = self.message_2(self.message_1(message, edge_attr), edge_attr)
        received = torch.zeros_like(features).index_add(0, receiver, message)
        update = self.update_1(self.direct_sum(features, received), node_attr)
        return features + self.update_2(update, node_attr)

    def direct_sum(self, a: Float[Tensor, "rows irreps"], b: Float[Tensor, "rows irreps"]) -> Float[Tensor, "rows pair"]:
        """a + b as irreps, equal degrees side by side: fewer and larger tensor-product paths than plain concatenation."""
        slots = zip(a.split(self.degrees, dim=-1), b.split(self.degrees, dim=-1), strict=True)
        return torch.cat([part for slot in slots for part in slot], dim=-1)


class SEGNN(nn.Module):
    """Predicts where charged particles will be from where they are, how they move and how they are charged.

    Args:
        width: hidden channels of every degree 0 to `lmax`; 32 are the benchmark's network of 147,424 parameters.
        num_layers: rounds of message passing.
        lmax: highest degree of hidden features and attributes.

    Example:
        >>> model = SEGNN(width=4, num_layers=1)
        >>> model(torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.ones(2, 5, 1)).shape
        torch.Size([2, 5, 3])
    """

    def __init__(self, width: int = 32, num_layers: int = 4, lmax: int = 1) -> None:
        super().__init__()
        self.irreps_attr = o3.Irreps.spherical_harmonics(lmax)
        hidden = o3.Irreps([(width, irrep) for _, irrep in self.irreps_attr])
        message = o3.Irreps("2x0e")
        self.embedding = SteerableLinear(o3.Irreps("1x0e + 2x1o"), self.irreps_attr, hidden)
        self.layers = nn.ModuleList(SEGNNLayer(hidden, self.irreps_attr, message) for _ in range(num_layers))
        self.head_1 = GatedSteerableLinear(hidden, self.irreps_attr, hidden)
        self.head_2 = SteerableLinear(hidden, self.irreps_attr, o3.Irreps("1x1o"))

    def forward(
        self,
        positions: Float[Tensor, "*batch n 3"],
        velocities: Float[Tensor, "*batch n 3"],
        charges: Float[Tensor, "*batch n 1"],
        edge_index: Int[Tensor, "2 edge"] | None = None,
    ) -> Float[Tensor, "*batch n 3"]:
        """Later positions of n particles per graph.

        `edge_index` holds (sender, receiver) rows of the flattened nodes; without it a graph's particles all see each other.
        """
        x, v, q = (a.reshape(-1, a.shape[-1]) for a in (positions, velocities, charges))
        if edge_index is None:
            edge_index = fully_connected(len(x) // positions.shape[-2], positions.shape[-2], x.device)
        sender, receiver = edge_index
        relative = x[receiver] - x[sender]
        edge_features = torch.cat([relative.norm(dim=-1, keepdim=True), q[receiver] * q[sender]], dim=-1)
        edge_attr = self.harmonics(relative)
        node_attr = mean_over_neighbours(edge_attr, receiver, len(x)) + self.harmonics(v)
        # A particle's place as its neighbours see it knows no origin; in a complete graph it is x_i - mean(x), up to scale.
        place = mean_over_neighbours(relative, receiver, len(x))
        features = self.embedding(torch.cat([v.norm(dim=-1, keepdim=True), place, v], dim=-1), node_attr)
        for layer in self.layers:
            features = layer(features, edge_index, edge_features, edge_attr, node_attr)
        displacement = self.head_2(self.head_1(features, node_attr), node_attr)
        return positions + displacement.reshape(positions.shape)

    def harmonics(self, vectors: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows irreps_attr"]:
        """Y(r / |r|) of degrees 0 to lmax, with unit integral over the sphere."""
        values: Tensor = o3.spherical_harmonics(self.irreps_attr, vectors, normalize=True, normalization="integral")
        return values


def fully_connected(graphs: int, n: int, device: torch.device | None = None) -> Int[Tensor, "2 edge"]:
    """(sender, receiver) pairs of `graphs` disjoint complete graphs of n nodes each, without self-loops.

    Example:
        >>> fully_connected(1, 3).tolist()
        [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    """
    one = (~torch.eye(n, dtype=torch.bool, device=device)).nonzero().T
    offsets = n * torch.arange(graphs, device=device)
    return (one[:, None, :] + offsets[None, :, None]).reshape(2, -1)


def mean_over_neighbours(
    values: Float[Tensor, "edge k"], receiver: Int[Tensor, " edge"], nodes: int
) -> Float[Tensor, "node k"]:
    """Mean of the values arriving at each node, zero for a node that nothing reaches."""
    total = values.new_zeros(nodes, values.shape[-1]).index_add(0, receiver, values)
    count = values.new_zeros(nodes).index_add(0, receiver, torch.ones_like(values[:, 0]))
    return total / count.clamp(min=1)[:, None]
