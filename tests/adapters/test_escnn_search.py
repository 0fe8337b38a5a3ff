"""The equations by which the tests let escnn search for Clebsch-Gordan coefficients are escnn's own."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from escnn_layers import group
from escnn_search import constraint
from scipy import sparse


@pytest.mark.parametrize("name", ["dihedral_group", "octa_group", "so3_group"])
def test_the_equations_are_escnns(name: str) -> None:
    own_group = getattr(group, name)(*([4] if name == "dihedral_group" else []))
    one, two = own_group.irreps()[1], max(own_group.irreps(), key=lambda irrep: irrep.size)
    samples = [own_group.sample() for _ in range(6)]
    matrices = [one(g) for g in samples], [two(g) for g in samples]
    # as the library has it, where nothing has been put in its place
    original = importlib.util.find_spec("escnn.group._numerical")
    assert original is not None
    assert original.loader is not None
    numerical = importlib.util.module_from_spec(original)
    original.loader.exec_module(numerical)
    own = numerical.build_sylvester_constraint(*matrices)
    for given in (matrices, (matrices[0], [sparse.csc_matrix(rho) for rho in matrices[1]])):
        np.testing.assert_allclose(constraint(*given).toarray(), own.toarray(), atol=1e-14)
