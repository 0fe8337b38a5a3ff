"""escnn's search for Clebsch-Gordan coefficients, as it is but for how its equations are written down.

The first tests of escnn in a new environment search for some 1,600 of them, which escnn then keeps on disk. Most of that
goes into sparse Kronecker sums of matrices of three rows, one for each group element; all at once they are one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse


def constraint(rho_1: Sequence[Any], rho_2: Sequence[Any]) -> sparse.csc_matrix:
    """(1 (x) rho_1(g) - rho_2(g)^T (x) 1) vec(X) = 0 of each g, one below the other: X commutes with them all."""
    one, two = (np.stack([rho.toarray() if sparse.issparse(rho) else rho for rho in rhos]) for rhos in (rho_1, rho_2))
    (count, m, _), n = one.shape, two.shape[1]
    acted = np.einsum("ij,gab->giajb", np.eye(n), one) - np.einsum("gji,ab->giajb", two, np.eye(m))
    return sparse.csc_matrix(acted.reshape(count * n * m, n * m))


def hasten() -> None:
    """Let escnn write its equations down in this way."""
    from escnn.group import _clebsh_gordan, _numerical

    _clebsh_gordan.build_sylvester_constraint = _numerical.build_sylvester_constraint = constraint
