"""mace-torch: messages and products of e3nn's irreps, forces by autograd inside forward, dicts in and out."""

from __future__ import annotations

import functools
import os
from typing import Any
from unittest import mock

import numpy as np
import torch
from e3nn import o3
from torch import Tensor, nn

from zoo.entry import Entry, along, default_dtype, paths
from zoo.graphs import CUTOFF, SIZES, batch_index, neighbours, positions, stand_in

# Plots of the training run need pandas, which models do not; the package sets a variable that lets torch.load unpickle.
with mock.patch.dict(os.environ), stand_in({"mace.cli.visualise_train": {"TrainingPlotter": None}}):
    from mace import modules

ELEMENTS = 4


def _make(kind: type[nn.Module] = modules.MACE, **more: Any) -> nn.Module:
    return kind(
        r_max=CUTOFF,
        num_bessel=6,
        num_polynomial_cutoff=5,
        interaction_cls=modules.RealAgnosticResidualInteractionBlock,
        num_elements=ELEMENTS,
        MLP_irreps=o3.Irreps("4x0e"),
        atomic_energies=np.linspace(-1, 1, ELEMENTS),
        avg_num_neighbors=5.0,
        atomic_numbers=[1, 6, 7, 8],
        gate=nn.functional.silu,
        radial_MLP=[8],
        **more,
    )


SMALL: dict[str, Any] = {
    "max_ell": 2,
    "correlation": 2,
    "num_interactions": 2,
    "hidden_irreps": o3.Irreps("4x0e+4x1o"),
    "interaction_cls_first": modules.RealAgnosticInteractionBlock,
}
# That of MACE-MP-0 and MACE-OFF but for the numbers of channels, and of layers.
FOUNDATION: dict[str, Any] = {
    "max_ell": 3,
    "correlation": 3,
    "num_interactions": 2,
    "hidden_irreps": o3.Irreps("2x0e+2x1o"),
    "interaction_cls_first": modules.RealAgnosticResidualInteractionBlock,
    "atomic_inter_scale": 1.3,
    "atomic_inter_shift": 0.2,
}


# The coefficients of its polynomials are kept in the precision in which a process first asks for them.
with default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
    _make(**SMALL)
    _make(modules.ScaleShiftMACE, **FOUNDATION)


def _inputs() -> tuple[dict[str, Tensor], bool]:
    atoms, batch = positions(), batch_index()
    edges = neighbours(atoms, CUTOFF, batch)
    data = {
        "positions": atoms,
        "node_attrs": torch.eye(ELEMENTS)[torch.randint(ELEMENTS, (len(atoms),))],
        "edge_index": edges,
        "shifts": torch.zeros(edges.shape[1], 3),
        "cell": torch.zeros(3 * len(SIZES), 3),
        "batch": batch,
        "ptr": torch.tensor([0, *SIZES]).cumsum(0),
    }
    return data, True


def _output(width: int, g: Tensor, result: dict[str, Any]) -> dict[str, Any]:
    scalars, vectors, last = result["node_feats"].split([width, 3 * width, width], dim=-1)
    vectors = along(-1)(g, vectors.unflatten(-1, (width, 3))).flatten(-2)
    return {**result, "forces": along(-1)(g, result["forces"]), "node_feats": torch.cat([scalars, vectors, last], dim=-1)}


INVARIANT = paths(
    "node_embedding.linear",
    "interactions.0.linear_up",
    "interactions.{i}.conv_tp_weights.layer{j}.weight",
    "products.1.linear",
    "readouts.1.linear_{k}",
    i=range(2),
    j=range(2),
    k=(1, 2),
)


def coefficients(*weights: str) -> frozenset[str]:
    """Of equivariant polynomials, one set an element: they meet the elements, which are invariant, before any features."""
    return paths(
        "products.0.symmetric_contractions.contractions.{i}.{weights}",
        "products.1.symmetric_contractions.contractions.0.{weights}",
        i=range(2),
        weights=weights,
    )


MADE_BY_LENGTHS = dict.fromkeys(
    paths("interactions.{i}.conv_tp", i=range(2)), "a network of edge lengths makes its weights, one set an edge"
)

ENTRIES = (
    Entry(
        name="MACE",
        source="Batatia et al., MACE (arXiv 2206.07697); PyPI mace-torch 0.3.16",
        group="O(3)",
        make=functools.partial(_make, **SMALL),
        inputs=_inputs,
        expected=paths(
            "interactions.{i}.linear",
            "interactions.{i}.skip_tp",
            "interactions.1.linear_up",
            "products.0.linear",
            "readouts.0.linear",
            i=range(2),
        ),
        invariant=INVARIANT | coefficients("weights_max", "weights.0"),
        impossible=MADE_BY_LENGTHS,
        output=functools.partial(_output, 4),
        notes="It makes its input positions require gradients. The first products' weights differ by element.",
    ),
    Entry(
        name="MACE, foundation configuration",
        source="Batatia et al., MACE-MP-0 (arXiv 2401.00096); PyPI mace-torch 0.3.16",
        group="O(3)",
        make=functools.partial(_make, modules.ScaleShiftMACE, **FOUNDATION),
        inputs=_inputs,
        expected=paths(
            "interactions.{i}.linear",
            "interactions.{i}.skip_tp",
            "interactions.1.linear_up",
            "products.0.linear",
            "readouts.0.linear",
            "products.0.symmetric_contractions.contractions.{i}.weights_max",
            "products.1.symmetric_contractions.contractions.0.weights_max",
            i=range(2),
        ),
        invariant=INVARIANT | coefficients("weights.0", "weights.1"),
        impossible=MADE_BY_LENGTHS,
        output=functools.partial(_output, 2),
        notes="Values with irreps on two and three axes: products of correlation 3, of which the first meets features.",
        also_double=True,
    ),
)
