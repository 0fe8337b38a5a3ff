"""Lie-algebra convolutions (L-conv): generators as linear operators, the layer, its exact copies of known layers."""

from relaxify.lconv.checkpoint import check_output, save_lconvs
from relaxify.lconv.conversion import Swap, free, lconvify, swaps
from relaxify.lconv.graph_layers import AdjacencyLConv, GraphLConv
from relaxify.lconv.layer import Flow, LConv, LinearLConv
from relaxify.lconv.operators import (
    Dense,
    Generators,
    Grid,
    ImageAlgebra,
    LowRank,
    Points,
    Shifts,
    SignalAlgebra,
    Sparse,
    algebra,
    graph,
)
from relaxify.lconv.pooling import CosetPool
from relaxify.lconv.regularisers import closure_penalty, degeneracy_penalty, killing_penalty
from relaxify.lconv.restoring import unlconvify
from relaxify.lconv.symmetry import (
    FamilySymmetry,
    Symmetry,
    Verdict,
    generators,
    symmetries_of,
    symmetries_of_model,
    symmetries_of_moments,
    symmetry_of_pairs,
)

__all__ = [
    "AdjacencyLConv",
    "CosetPool",
    "Dense",
    "FamilySymmetry",
    "Flow",
    "Generators",
    "GraphLConv",
    "Grid",
    "ImageAlgebra",
    "LConv",
    "LinearLConv",
    "LowRank",
    "Points",
    "Shifts",
    "SignalAlgebra",
    "Sparse",
    "Swap",
    "Symmetry",
    "Verdict",
    "algebra",
    "check_output",
    "closure_penalty",
    "degeneracy_penalty",
    "free",
    "generators",
    "graph",
    "killing_penalty",
    "lconvify",
    "save_lconvs",
    "swaps",
    "symmetries_of",
    "symmetries_of_model",
    "symmetries_of_moments",
    "symmetry_of_pairs",
    "unlconvify",
]
