"""Elements are found from their matrices, exactly near half turns too."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from relaxify import Group, Representation, irreps
from relaxify.elements import element_of

NAMES = ["SO(2)", "O(2)", "SO(3)", "O(3)", "C(5)", "D(6)", "S(4)", "Octa", "FullOcta"]


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 99))
def test_the_element_has_the_matrix_that_it_was_found_from(name: str, seed: int) -> None:
    group = Group.parse(name)
    defining = Representation.defining(group)
    g = defining.rho(group.random(torch.Generator().manual_seed(seed)))
    # torch.linalg.matrix_exp is as exact as this
    torch.testing.assert_close(defining.rho(element_of(group, g)), g, atol=1e-11, rtol=0)


@pytest.mark.parametrize("missing", [0.0, 1e-12, 1e-8, 1e-5, 1e-3])
@pytest.mark.parametrize("full", [0.0, math.pi])
def test_turns_by_next_to_nothing_and_next_to_a_half_are_exact(full: float, missing: float) -> None:
    group, axis = Group.parse("SO(3)"), torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64).numpy()
    once, twice = (torch.as_tensor(Rotation.from_rotvec((full - missing) * axis * k).as_matrix()) for k in (1, 2))
    rep = irreps(group, "4")
    found = rep.rho(element_of(group, once))
    torch.testing.assert_close(found @ found, rep.rho(element_of(group, twice)), atol=1e-10, rtol=0)


def test_matrices_of_other_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"is no element of SO\(3\)"):
        element_of(Group.parse("SO(3)"), -torch.eye(3))
    with pytest.raises(ValueError, match=r"an element of SO\(1,3\) is not found from its matrix"):
        # the identity is known of any group
        element_of(Group.parse("SO(1,3)"), torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])))
