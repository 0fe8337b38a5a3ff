"""escnn's groups in relaxify's terms: whose elements are whose, which axes are which, and what is refused in which words."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from escnn_layers import (
    CUBE,
    PLANAR,
    QUARTER_X,
    QUARTER_Z,
    SPATIAL,
    assert_respected,
    convolution,
    double,
    enn,
    field,
    group,
    group_of,
    gspaces,
    space,
    turn,
)
from torch import Tensor, nn

from relaxify import plan, relaxify
from relaxify.grids.taps import Equivariants, grid_action, kernel_representation
from relaxify.groups import Group
from relaxify.intertwiners import lie_derivative
from relaxify.representations import Block, Representation
from relaxify_adapters.escnn_groups import fibre_of
from relaxify_adapters.escnn_space import placement

_FIBRES = (group.cyclic_group(5), group.dihedral_group(3), group.o2_group(), group.so3_group(), group.o3_group(),
           group.octa_group(), group.full_octa_group(), group.ico_group())  # fmt: skip
NO_PLACE = [gspaces.no_base_space(fibre) for fibre in _FIBRES]


@pytest.mark.parametrize("gspace", [*map(space, [*PLANAR, *SPATIAL]), *NO_PLACE], ids=str)
def test_elements_and_matrices_are_each_others(gspace: Any) -> None:
    placed = placement(gspace)
    assert placed is not None
    elements = placed.fibre.elements if placed.fibre.order() > 0 else [placed.fibre.sample() for _ in range(4)]
    elements = elements[:: max(1, len(elements) // 8)]
    for g, h in itertools.product(elements[-4:], elements[:3]):
        torch.testing.assert_close(placed.matrix(g @ h), placed.matrix(g) @ placed.matrix(h), rtol=0, atol=1e-12)
    for g in elements:
        assert placed.element(placed.matrix(g)) == g
        if gspace.dimensionality:
            torch.testing.assert_close(placed.matrix(g), torch.tensor(gspace.basespace_action(g)).double())
    assert placed.element(1.5 * torch.eye(placed.dim, dtype=torch.float64)) is None


@pytest.mark.parametrize("degree", range(5))
def test_the_lie_algebra_of_irreps_is_so3(degree: int) -> None:
    """[J_x, J_y] = J_z and so on, and J_x^2 + J_y^2 + J_z^2 = -l (l + 1); of vectors, the matrices themselves."""
    fibre = fibre_of(space("SO(3)"), Group.parse("SO(3)"))
    j = fibre.action(group.so3_group().irrep(degree))
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        torch.testing.assert_close(j[a] @ j[b] - j[b] @ j[a], j[c], rtol=0, atol=1e-13)
    casimir = -degree * (degree + 1) * torch.eye(2 * degree + 1, dtype=torch.float64)
    torch.testing.assert_close((j @ j).sum(0), casimir, rtol=0, atol=1e-12)
    vectors = fibre.action(group.so3_group().standard_representation())
    torch.testing.assert_close(vectors, Group.parse("SO(3)").generators, rtol=0, atol=1e-13)


def test_generators_may_be_any_basis_of_the_algebra() -> None:
    """drho is linear, also where one generator turns faster than another and about an axis of its own."""
    mixed = torch.tensor([[2.0, 0, 0], [1, -1, 0.5], [0, 3, 1]], dtype=torch.float64)
    j = Group.parse("SO(3)").generators
    other = Group.from_generators(torch.einsum("ab,bij->aij", mixed, j), name="another basis")
    irrep = group.so3_group().irrep(2)
    ours, theirs = (fibre_of(space("SO(3)"), g).action(irrep) for g in (other, Group.parse("SO(3)")))
    torch.testing.assert_close(ours, torch.einsum("ab,bij->aij", mixed, theirs), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "axes"),
    [
        (QUARTER_Z, (-2, -1)),
        (QUARTER_X, (-2, -3)),
        (turn(1, math.pi / 2), (-1, -3)),
    ],
)
def test_volumes_turn_as_escnn_turns_them(matrix: Tensor, axes: tuple[int, int]) -> None:
    """x along the last axis, y up the one before it, z up the one before that: measured on a tensor of escnn's."""
    x = torch.randn(5, 5, 5, dtype=torch.float64)
    gspace = space("cube")
    element = placement(gspace).element(matrix)  # type: ignore[union-attr]
    kind = enn.FieldType(gspace, [gspace.trivial_repr])
    theirs = kind(x[None, None].float()).transform(element).tensor[0, 0].double()
    ours = (grid_action(matrix, x.shape) @ x.flatten()).view_as(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.round(decimals=9), x.rot90(1, axes).round(decimals=9))


@pytest.mark.parametrize("name", ["C(4)", "D(4)", "cube", "full cube", "cube in SO(3)", "pyramid", "prism", "mirror"])
def test_layers_commute_with_what_the_site_says(name: str) -> None:
    """On whole images and volumes: f(rho_in(g) x(g^-1 .)) = rho_out(g) f(x)(g^-1 .)."""
    gspace, own = space(name), group_of(name)
    into, out = field(gspace, ["trivial", "irrep_1"]), field(gspace, ["irrep", "trivial", "irrep_1"])
    layer = double((enn.R2Conv if gspace.dimensionality == 2 else enn.R3Conv)(into, out, 3, padding=1)).train()
    fibre = fibre_of(gspace, own)
    size = (5,) * gspace.dimensionality
    x = torch.randn(2, into.size, *size, dtype=torch.float64)
    for number, matrix in enumerate(fibre.matrices):
        grid = grid_action(matrix, size)
        rho_in, rho_out = (
            torch.block_diag(*(fibre.action(rep)[number] for rep in kind.representations)) for kind in (into, out)
        )
        moved = torch.einsum("ij,bjp,qp->biq", rho_in, x.flatten(2), grid).view_as(x)
        y = layer(into(x)).tensor
        expected = torch.einsum("ij,bjp,qp->biq", rho_out, y.flatten(2), grid).view_as(y)
        torch.testing.assert_close(layer(into(moved)).tensor, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("axis", [0.3, 0.0, math.pi / 4, math.pi / 2])
@pytest.mark.parametrize("rotations", [1, 3, 4])
def test_axes_of_reflection_lie_where_the_space_has_them(rotations: int, axis: float) -> None:
    """D(n) reflects in the x axis; a gspace may reflect in another, and its kernels are moved by that."""
    gspace = gspaces.flip2dOnR2(axis) if rotations == 1 else gspaces.flipRot2dOnR2(rotations, axis=axis)
    layer = convolution(gspace, [gspace.trivial_repr, gspace.regular_repr])
    assert_respected(layer, f"D({rotations})", exact=axis != 0.3 and rotations != 3)


@pytest.mark.parametrize("lie", [0, 1, 2])
def test_sides_are_the_lie_derivative(lie: int) -> None:
    """L(K) = A G - T, whatever G is: drho_out too is in T."""
    generators, elements = torch.randn(lie, 2, 2, dtype=torch.float64), torch.randn(2 - lie, 2, 2, dtype=torch.float64)
    own = Group("own", generators, elements)
    into, out, grid = (torch.randn(2, n, n, dtype=torch.float64) for n in (3, 2, 4))
    kernels = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    rep_in, rep_out = (Representation(own, (Block("fields", 1, len(action[0])),), (action,)) for action in (into, out))
    known = Equivariants(kernels, into, out)
    for generator in range(2):
        a, t = known.sides(generator, lie)
        sides = (a @ grid[generator] - t).view(5, 2, 12)
        for kernel, side in zip(kernels, sides, strict=True):
            expected = lie_derivative(kernel.flatten(1), kernel_representation(rep_in, grid), rep_out)[generator]
            torch.testing.assert_close(side, expected)


IN_SPACE = "; pass 'SO(3)', 'O(3)' or a Group.from_generators(...) of 3 x 3 matrices"


@pytest.mark.parametrize(
    ("name", "own", "words"),
    [
        ("C(8)", "SO(2)", "it is equivariant under C(8), which does not contain SO(2)"),
        ("C(8)", "C(3)", "it is equivariant under C(8), which does not contain C(3)"),
        ("C(4)", "D(4)", "it is equivariant under C(4), which does not contain D(4)"),
        ("D(1)", "C(2)", "it is equivariant under D(1), which does not contain C(2)"),
        ("D(4)", "SO(3)", "its features transform under D(4), on which SO(3) does not act"),
        ("SO(2)", "O(2)", "it is equivariant under SO(2), which does not contain O(2)"),
        ("SO(2)", "SL(2)", "it is equivariant under SO(2), which does not contain SL(2)"),
        ("SO(3)", "O(3)", "it is equivariant under SO(3), which does not contain O(3)"),
        ("cube", "SO(3)", "it is equivariant under Octa, which does not contain SO(3)"),
        ("icosahedron", CUBE, "it is equivariant under the icosahedron's rotation group, which does not contain cube"),
        ("O(3)", "T(2)", "it is equivariant under O(3), which does not contain T(2)"),
        ("cone", "SO(3)", "it is equivariant under a group O(2) of space, which does not contain SO(3)"),
        ("SO(3)", "C(4)", "its features transform under SO(3), on which C(4) does not act" + IN_SPACE),
    ],
)  # fmt: skip
def test_a_group_that_the_layers_do_not_have(name: str, own: Group | str, words: str) -> None:
    gspace = space(name)
    layer = convolution(gspace, [gspace.trivial_repr, gspace.fibergroup.irreps()[1]])
    (rejected,) = plan(layer, own).rejected
    assert rejected.reason == words
    with pytest.raises(ValueError, match="no layer of the model can be relaxed"):
        relaxify(layer, own)


@pytest.mark.parametrize(("gspace", "own"), [(gspaces.trivialOnR2(), "C(4)"), (gspaces.trivialOnR3(), "SO(3)")], ids=str)
def test_without_a_group_there_is_nothing_to_relax(gspace: Any, own: str) -> None:
    (rejected,) = plan(convolution(gspace, [gspace.trivial_repr]), own).rejected
    assert rejected.reason == f"it is equivariant under translations alone, and {own} is more"


def test_a_group_that_is_nowhere() -> None:
    """Without a base space nothing says which axis a cylinder has."""
    fibre = group.cylinder_group()
    kind = enn.FieldType(gspaces.no_base_space(fibre), [fibre.trivial_representation])
    (rejected,) = plan(enn.Linear(kind, kind), "SO(3)").rejected
    assert rejected.reason == "its group Cylindrical has no base space that would say how it moves points"


def test_others_are_named() -> None:
    class Mine(enn.R2Conv):
        pass

    kind = field(space("C(4)"), ["regular"])
    (rejected,) = plan(Mine(kind, kind, 3), "C(4)").rejected
    assert rejected.reason == "Mine is a subclass, which may compute something else"
    net = nn.Sequential(enn.R2Conv(kind, kind, 3), enn.R2Conv(kind, kind, 3))
    net[1].weights = net[0].weights
    with pytest.raises(ValueError, match="'0' shares its weights with '1': give each its own, or exclude them"):
        relaxify(net, "C(4)")


@pytest.mark.parametrize(("name", "own", "kind"), [("C(4)", "C(4)", "R2PointConv"), ("SO(3)", "SO(3)", "R3PointConv")])
def test_convolutions_of_points_have_no_taps(name: str, own: str, kind: str) -> None:
    if not hasattr(enn, kind):
        pytest.skip("needs torch_geometric")
    fields = field(space(name), ["trivial", "irrep_1"])
    (rejected,) = plan(getattr(enn, kind)(fields, fields, sigma=[0.6, 0.6], rings=[0.0, 1.0]), own).rejected
    assert rejected.reason.startswith("its kernel is a function of the points' offsets, which differ from edge to edge")


def test_what_is_quadratic_has_no_linear_term() -> None:
    fields = field(space("C(4)"), ["regular"])
    (rejected,) = plan(enn.TensorProductModule(fields, fields), "C(4)").rejected
    assert rejected.reason == "it is quadratic in its input, and a term is linear"


@pytest.mark.parametrize("fibre", _FIBRES, ids=str)
def test_copies_share_the_groups_that_exist_once(fibre: Any) -> None:
    assert copy.deepcopy(fibre) is fibre
    assert copy.deepcopy(fibre.identity).group is fibre


def test_a_group_of_ones_own_is_copied_by_value() -> None:
    """A group made past the library's factories may have another under its name, with other representations."""
    own = type(group.cyclic_group(3))(3)
    assert own is not group.cyclic_group(3)
    assert copy.deepcopy(own) is not group.cyclic_group(3)
