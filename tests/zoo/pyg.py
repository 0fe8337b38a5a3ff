"""torch_geometric's molecular models: ViSNet mixes the channels of [N, components, C]; the others have invariants only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn.models import dimenet, gnnff, schnet, visnet

from zoo.entry import Entry, Inputs, along, each, paths, unchanged
from zoo.graphs import CUTOFF, SIZES, batch_index, positions, radius_graph

PYG = "PyPI torch_geometric 2.8.1"
ZERO = "the vectors that the first layer reads are zero"


def triplets(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, ...]:
    """The pairs of edges k -> j -> i with k != i: i and j of each edge, then i, j, k, and edges kj and ji of each pair."""
    j, i = edge_index
    ji, kj = ((j[:, None] == i) & (i[:, None] != j)).nonzero().T
    return i, j, i[ji], j[ji], j[kj], kj, ji


# In place of torch_cluster and torch_sparse, which are compiled for one version of torch each.
for module in (dimenet, gnnff, schnet, visnet):
    module.radius_graph = radius_graph
dimenet.triplets = gnnff.triplets = triplets


def _molecules() -> Inputs:
    return torch.randint(1, 9, (sum(SIZES),)), positions(), batch_index()


def _harmonics(g: Tensor, features: Tensor) -> Tensor:
    """The action on [N, 3 + 5, C], vectors and harmonics of degree 2 in the package's own basis, found by least squares."""
    points = torch.eye(3, dtype=g.dtype)[[0, 0, 1, 0, 1, 2, 1, 2, 2]] + torch.arange(27, dtype=g.dtype).reshape(9, 3).sin()
    sphere = visnet.Sphere(lmax=2)
    matrix = torch.linalg.lstsq(sphere(points), sphere(points @ g.mT)).solution.mT
    return along(1)(matrix, features)


_VISNET = {
    "lmax": 1,
    "num_heads": 2,
    "num_layers": 3,
    "hidden_channels": 8,
    "num_rbf": 6,
    "max_z": 10,
    "cutoff": CUTOFF,
}


def _visnet_sites(prefix: str, *between_layers: str) -> frozenset[str]:
    return paths(
        prefix + "vis_mp_layers.{i}.vec_proj",
        prefix + "vis_mp_layers.{j}.{edge}_proj",
        i=range(3),
        j=range(2),
        edge=between_layers,
    )


def _visnet_first_layer(prefix: str, *between_layers: str) -> dict[str, str]:
    return dict.fromkeys(paths(prefix + "vis_mp_layers.0.{edge}_proj", edge=("vec", *between_layers)), ZERO)


def _visnet_invariant(prefix: str) -> frozenset[str]:
    return paths(
        prefix + "neighbor_embedding.distance_proj",
        prefix + "neighbor_embedding.combine",
        prefix + "edge_embedding.edge_proj",
        prefix + "vis_mp_layers.{i}.{map}_proj",
        prefix + "vis_mp_layers.{j}.f_proj",
        i=range(3),
        j=range(2),
        map=("q", "k", "v", "dk", "dv", "s", "o"),
    )


_HEAD = "output_model.output_network.{i}"
_MODEL = "representation_model."

ENTRIES = (
    Entry(
        name="ViSNet",
        source=f"Wang et al., ViSNet (arXiv 2210.16518); {PYG}",
        group="O(3)",
        make=lambda: visnet.ViSNet(**_VISNET, derivative=True),
        inputs=_molecules,
        expected=_visnet_sites(_MODEL, "w_src", "w_trg") | paths(_HEAD + ".vec{j}_proj", i=range(2), j=(1, 2)),
        invariant=_visnet_invariant(_MODEL) | paths(_HEAD + ".update_net.{j}", i=range(2), j=(0, 2)),
        without_effect=_visnet_first_layer(_MODEL, "w_src", "w_trg")
        | {"output_model.output_network.1.vec2_proj": "the last vectors are multiplied by zero"},
        output=each(unchanged, along(-1)),
        notes="Forces by autograd inside forward. It makes float32 constants: double precision needs it as default dtype.",
    ),
    Entry(
        name="ViSNet block, degree 2",
        source=f"Wang et al., ViSNet (arXiv 2210.16518); {PYG}",
        group="O(3)",
        make=lambda: visnet.ViSNetBlock(
            **{**_VISNET, "lmax": 2}, vertex=True, vecnorm_type="max_min", trainable_vecnorm=True
        ),
        inputs=_molecules,
        expected=_visnet_sites("", "w_src", "w_trg", "t_src", "t_trg"),
        invariant=_visnet_invariant(""),
        without_effect=_visnet_first_layer("", "w_src", "w_trg", "t_src", "t_trg"),
        output=each(unchanged, _harmonics),
        notes="Vectors and harmonics of degree 2 share axis 1, of size 3 + 5. Zero vectors take another branch of a norm.",
    ),
    Entry(
        name="SchNet",
        source=f"Schütt et al., SchNet (arXiv 1706.08566); {PYG}",
        group="O(3)",
        make=lambda: schnet.SchNet(hidden_channels=8, num_filters=8, num_interactions=2, num_gaussians=6, cutoff=CUTOFF),
        inputs=_molecules,
        expected=frozenset(),
        invariant=paths(
            "interactions.{i}.mlp.{j}",
            "interactions.{i}.{map}",
            "lin1",
            "lin2",
            i=range(2),
            j=(0, 2),
            map=("conv.lin1", "conv.lin2", "lin"),
        ),
        notes="Invariant features only. Each interaction's mlp is one module under two names, mlp and conv.nn.",
    ),
    Entry(
        name="DimeNet",
        source=f"Gasteiger et al., DimeNet (arXiv 2003.03123); {PYG}",
        group="O(3)",
        make=lambda: dimenet.DimeNet(
            hidden_channels=8,
            out_channels=1,
            num_blocks=1,
            num_bilinear=4,
            num_spherical=2,
            num_radial=4,
            cutoff=CUTOFF,
            num_output_layers=1,
            output_initializer="glorot_orthogonal",
        ),
        inputs=_molecules,
        expected=frozenset(),
        invariant=paths(
            "emb.lin_rbf",
            "emb.lin",
            "output_blocks.{i}.{out}",
            "interaction_blocks.0.{map}",
            "interaction_blocks.0.layers_before_skip.0.lin{k}",
            "interaction_blocks.0.layers_after_skip.{j}.lin{k}",
            i=range(2),
            j=range(2),
            k=(1, 2),
            out=("lin_rbf", "lins.0", "lin"),
            map=("lin_rbf", "lin_sbf", "lin_kj", "lin_ji", "W", "lin"),
        ),
        notes="Distances and angles only. W is applied by an einsum. The package's default, a zero output, is not used.",
    ),
    Entry(
        name="GNNFF",
        source=f"Park et al., GNNFF (arXiv 2007.14444); {PYG}",
        group="O(3)",
        make=lambda: gnnff.GNNFF(hidden_node_channels=8, hidden_edge_channels=8, num_layers=2, cutoff=CUTOFF),
        inputs=_molecules,
        expected=frozenset(),
        invariant=paths(
            "node_emb.{i}",
            "node_blocks.{j}.lin_c1",
            "edge_blocks.{j}.lin_c{k}",
            "force_predictor.{l}",
            i=(2, 4),
            j=range(2),
            k=(2, 3),
            l=(0, 2, 4),
        ),
        output=along(-1),
        notes="Forces are unit vectors scaled by invariants: vectors out, and nothing to relax.",
    ),
)
