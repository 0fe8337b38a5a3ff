"""Generators of Lie algebras as linear operators behind one interface, each applied in its own cheapest way.

`Shifts` are a convolution's taps, `Points` a linear layer's inputs, `graph` a graph's diffusion; `Sparse`, `Dense`,
`LowRank` and `Grid` hold entries that may be learned; `ImageAlgebra`, `SignalAlgebra` and `algebra` are known ones.
"""

from relaxify.lconv.operators.exponential import exponential_action
from relaxify.lconv.operators.family import Generators
from relaxify.lconv.operators.graphs import graph
from relaxify.lconv.operators.grid import Grid
from relaxify.lconv.operators.images import ImageAlgebra, algebra
from relaxify.lconv.operators.low_rank import LowRank
from relaxify.lconv.operators.matrices import Dense, Sparse
from relaxify.lconv.operators.points import Points
from relaxify.lconv.operators.shifts import Shifts
from relaxify.lconv.operators.signals import SignalAlgebra

__all__ = [
    "Dense",
    "Generators",
    "Grid",
    "ImageAlgebra",
    "LowRank",
    "Points",
    "Shifts",
    "SignalAlgebra",
    "Sparse",
    "algebra",
    "exponential_action",
    "graph",
]
