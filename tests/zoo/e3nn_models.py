"""e3nn.nn.models: the point networks of e3nn, with fully connected tensor products of features and node attributes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from e3nn.nn.models.gate_points_2101 import Network
from e3nn.nn.models.v2106.gate_points_networks import NetworkForAGraphWithAttributes, SimpleNetwork
from torch import Tensor, nn

from zoo.entry import Entry, Inputs, along, paths
from zoo.graphs import CUTOFF, SIZES, batch_index, neighbours, positions, radius_graph, scatter, stand_in

import_module("torch_geometric.data")  # it looks for its optional packages, and must not find their stand-ins
with stand_in({"torch_cluster": {"radius_graph": radius_graph}, "torch_scatter": {"scatter": scatter}}):
    from e3nn.nn.models.v2103.gate_points_networks import SimpleNetwork as SimpleNetwork2103

PER_EDGE = "a network of edge lengths makes its weights, one set an edge"


def irreps(*blocks: tuple[int, str]) -> Callable[[Tensor, Tensor], Tensor]:
    """The action on scalars and vectors of either parity, as in `irreps((3, "0e"), (2, "1o"))`."""

    def act(g: Tensor, x: Tensor) -> Tensor:
        sign = torch.linalg.det(g).sign()
        matrices = {"0e": g.new_ones(1, 1), "0o": sign.reshape(1, 1), "1o": g, "1e": sign * g}
        return along(-1)(torch.block_diag(*(matrices[ir] for mul, ir in blocks for _ in range(mul))), x)

    return act


def on_keys(**actions: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Inputs], Inputs]:
    """The action on the named entries of a dict that is the only input."""

    def act(g: Tensor, inputs: Inputs) -> Inputs:
        (data,) = inputs
        return ({key: actions[key](g, value) if key in actions else value for key, value in data.items()},)

    return act


def _convolutions(*names: str, prefix: str = "", hidden: int) -> list[str]:
    """Paths of these parts in each gated convolution, and in the last one, which has no gate."""
    convolutions = [f"{prefix}layers.{i}.first" for i in range(hidden)] + [f"{prefix}layers.{hidden}"]
    return [f"{convolution}.{name}" for convolution in convolutions for name in names]


def _data(**features: int) -> dict[str, Any]:
    return {
        "pos": positions(),
        "batch": batch_index(),
        **{name: torch.randn(sum(SIZES), size) for name, size in features.items()},
    }


def _graph_data() -> dict[str, Any]:
    data = _data(node_input=9, node_attr=4)
    edges = neighbours(data["pos"], CUTOFF, data["batch"])
    return {**data, "edge_index": edges, "edge_attr": torch.randn(edges.shape[1], 3)}


def _make_2101() -> nn.Module:
    return Network(
        irreps_in="3x0e+2x1o",
        irreps_hidden="4x0e+2x0o+2x1o+2x1e+1x2e",
        irreps_out="2x0e+1x1o",
        irreps_node_attr="2x0e",
        irreps_edge_attr="0e+1o+2e",
        layers=1,
        max_radius=CUTOFF,
        number_of_basis=6,
        radial_layers=1,
        radial_neurons=8,
        num_neighbors=5.0,
        num_nodes=12.0,
        reduce_output=False,
    )


def _make_simple(kind: type[nn.Module]) -> nn.Module:
    return kind("3x0e+2x1o", "2x0e+1x1o", max_radius=CUTOFF, num_neighbors=5.0, num_nodes=12.0, mul=2, layers=1, lmax=2)


def _make_attributed() -> nn.Module:
    model = NetworkForAGraphWithAttributes(
        "3x0e+2x1o",
        "1x0e+1x1e",
        "1e",
        "2x0o+1x1e",
        max_radius=CUTOFF,
        num_neighbors=5.0,
        num_nodes=12.0,
        mul=2,
        layers=1,
        lmax=1,
        pool_nodes=False,
    )
    for name, parameter in model.named_parameters():
        if name.endswith("alpha.weight"):
            nn.init.normal_(parameter)
    return model


_FC = ("fc.layer0.weight", "fc.layer1.weight")

ENTRIES = (
    Entry(
        name="e3nn gate_points_2101",
        source="e3nn 0.6.0, e3nn.nn.models.gate_points_2101.Network",
        group="O(3)",
        make=_make_2101,
        inputs=lambda: (_data(x=9, z=2),),
        expected=paths(*_convolutions("sc", "lin1", "lin2", hidden=1)),
        invariant=paths(*_convolutions(*_FC, hidden=1)),
        impossible=dict.fromkeys(_convolutions("tp", hidden=1), PER_EDGE),
        input_action=on_keys(pos=along(-1), x=irreps((3, "0e"), (2, "1o"))),
        output=irreps((2, "0e"), (1, "1o")),
        notes="One vector per node out; scalar node attributes scale every path.",
    ),
    Entry(
        name="e3nn v2103",
        source="e3nn 0.6.0, e3nn.nn.models.v2103.gate_points_networks.SimpleNetwork",
        group="O(3)",
        make=lambda: _make_simple(SimpleNetwork2103),
        inputs=lambda: (_data(x=9),),
        expected=paths(*_convolutions("sc", "lin1", "lin2", "lin3", prefix="mp.", hidden=1)),
        invariant=paths(*_convolutions(*_FC, prefix="mp.", hidden=1)),
        impossible=dict.fromkeys(_convolutions("tp", prefix="mp.", hidden=1), PER_EDGE),
        input_action=on_keys(pos=along(-1), x=irreps((3, "0e"), (2, "1o"))),
        output=irreps((2, "0e"), (1, "1o")),
        notes="lin3 maps all features to an invariant angle, which mixes two of the others. One output a molecule.",
    ),
    Entry(
        name="e3nn v2106",
        source="e3nn 0.6.0, e3nn.nn.models.v2106.gate_points_networks.SimpleNetwork",
        group="O(3)",
        make=lambda: _make_simple(SimpleNetwork),
        inputs=lambda: (_data(x=9),),
        expected=paths(*_convolutions("sc", "lin1", "lin2", "alpha", prefix="mp.", hidden=1)),
        invariant=paths(*_convolutions(*_FC, prefix="mp.", hidden=1)),
        impossible=dict.fromkeys(_convolutions("tp", prefix="mp.", hidden=1), PER_EDGE),
        without_effect=dict.fromkeys(
            _convolutions("lin1", "lin2", prefix="mp.", hidden=1), "alpha, which scales what it feeds, is zero at first"
        ),
        input_action=on_keys(pos=along(-1), x=irreps((3, "0e"), (2, "1o"))),
        output=irreps((2, "0e"), (1, "1o")),
        notes="Initialised as the package does it, with alpha = 0. One output a molecule.",
    ),
    Entry(
        name="e3nn v2106 with attributes",
        source="e3nn 0.6.0, e3nn.nn.models.v2106.gate_points_networks.NetworkForAGraphWithAttributes",
        group="O(3)",
        make=_make_attributed,
        inputs=lambda: (_graph_data(),),
        expected=paths(*_convolutions("sc", "lin1", "lin2", "alpha", prefix="mp.", hidden=1)),
        invariant=paths(*_convolutions(*_FC, prefix="mp.", hidden=1)),
        impossible=dict.fromkeys(_convolutions("tp", prefix="mp.", hidden=1), PER_EDGE),
        input_action=on_keys(
            pos=along(-1),
            node_input=irreps((3, "0e"), (2, "1o")),
            node_attr=irreps((1, "0e"), (1, "1e")),
            edge_attr=irreps((1, "1e")),
        ),
        output=irreps((2, "0o"), (1, "1e")),
        notes="Node attributes hold a vector: x -> w x (x) attributes is no intertwiner of x alone. alpha is made random.",
    ),
)
