"""What the tests of escnn's layers share: its groups of the plane and of space, layers drawn over them, and their inputs."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from typing import Any

import pytest
import torch
from escnn_search import hasten
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn

from relaxify import RelaxConfig, penalties, relaxify
from relaxify.groups import Group
from relaxify.intertwiners import lie_derivative
from relaxify.relaxation.penalties import LayerPenalty
from relaxify.relaxation.terms.convolution import ConvolutionTerm
from relaxify_adapters.escnn_space import share_groups

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    enn = pytest.importorskip("escnn.nn")
    from escnn import group, gspaces

# without it, escnn's layers over SO(3) cannot be copied
share_groups()
hasten()

PLANAR = {
    "C(4)": lambda: gspaces.rot2dOnR2(4),
    "C(8)": lambda: gspaces.rot2dOnR2(8),
    "C(3)": lambda: gspaces.rot2dOnR2(3),
    "D(4)": lambda: gspaces.flipRot2dOnR2(4),
    "D(3)": lambda: gspaces.flipRot2dOnR2(3),
    "D(1)": gspaces.flip2dOnR2,
    "SO(2)": lambda: gspaces.rot2dOnR2(-1),
    "O(2)": lambda: gspaces.flipRot2dOnR2(-1),
}
SUBGROUPS = [("C(8)", "C(4)"), ("C(8)", "C(2)"), ("D(4)", "C(4)"), ("D(4)", "D(2)"), ("D(3)", "D(1)"), ("SO(2)", "C(6)"),
             ("O(2)", "SO(2)"), ("O(2)", "D(5)"), ("O(2)", "C(4)")]  # fmt: skip

J = Group.parse("SO(3)").generators
INVERSION = -torch.eye(3, dtype=torch.float64)
MIRROR = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))


def turn(axis: int, angle: float) -> Tensor:
    """A rotation about x, y or z."""
    return torch.linalg.matrix_exp(angle * J[axis])


def finite(*matrices: Tensor, name: str) -> Group:
    return Group.from_generators(finite=torch.stack(matrices), name=name)


def about_z(*matrices: Tensor, name: str) -> Group:
    return Group.from_generators(J[2:], finite=torch.stack(matrices) if matrices else None, name=name)


QUARTER_Z, QUARTER_X = turn(2, math.pi / 2), turn(0, math.pi / 2)
CUBE = finite(QUARTER_Z, QUARTER_X, name="cube")
FULL_CUBE = finite(QUARTER_Z, QUARTER_X, INVERSION, name="full cube")

SPATIAL: dict[str, tuple[Any, Group | None]] = {
    "SO(3)": (gspaces.rot3dOnR3, Group.parse("SO(3)")),
    "O(3)": (gspaces.flipRot3dOnR3, Group.parse("O(3)")),
    "SO(3) in O(3)": (gspaces.flipRot3dOnR3, Group.parse("SO(3)")),
    "cube": (gspaces.octaOnR3, CUBE),
    "cube in SO(3)": (gspaces.rot3dOnR3, CUBE),
    "full cube": (gspaces.fullOctaOnR3, FULL_CUBE),
    "icosahedron": (gspaces.icoOnR3, None),
    "inversion": (gspaces.invOnR3, finite(INVERSION, name="inversion")),
    "mirror": (gspaces.mirOnR3, finite(MIRROR, name="mirror")),
    "cone": (gspaces.conicalOnR3, about_z(MIRROR, name="cone")),
    "pyramid": (lambda: gspaces.conicalOnR3(4), finite(QUARTER_Z, MIRROR, name="pyramid")),
    "cylinder": (gspaces.cylindricalOnR3, about_z(INVERSION, name="cylinder")),
    "prism": (lambda: gspaces.fullCylindricalOnR3(4), finite(QUARTER_Z, turn(1, math.pi), INVERSION, name="prism")),
    "turns about z": (gspaces.rot2dOnR3, about_z(name="turns about z")),
    "thirds about z": (lambda: gspaces.rot2dOnR3(3), finite(turn(2, 2 * math.pi / 3), name="thirds about z")),
    "turned over": (gspaces.dihedralOnR3, about_z(turn(1, math.pi), name="turned over")),
}


@functools.cache
def space(name: str) -> Any:
    return PLANAR[name]() if name in PLANAR else SPATIAL[name][0]()


@functools.cache
def group_of(name: str) -> Group:
    """The group that acts on the space of this name."""
    if name != "icosahedron":
        return SPATIAL[name][1] if name in SPATIAL else Group.parse(name)
    action, elements = space(name).basespace_action, space(name).fibergroup.elements
    return finite(*(torch.tensor(action(g)) for g in elements[1:60:14]), name=name)


def field(gspace: Any, kinds: list[str]) -> Any:
    """A field type: trivial, regular, quotient or the first irreps."""
    fibre, reps = gspace.fibergroup, []
    irreps = fibre.irreps()
    for kind in kinds:
        if kind == "regular" and 1 < fibre.order() <= 16:
            reps.append(gspace.regular_repr)
        elif kind == "regular" and type(fibre).__name__ in ("SO2", "O2", "SO3"):
            reps.append(fibre.bl_regular_representation(1))
        elif kind == "quotient" and type(fibre).__name__ in _QUOTIENTS:
            reps.append(_QUOTIENTS[type(fibre).__name__](gspace))
        elif kind == "irrep":
            reps.append(irreps[min(2, len(irreps) - 1)])
        elif kind == "irrep_1" and len(irreps) > 1:
            reps.append(irreps[1])
        else:
            reps.append(gspace.trivial_repr)
    return enn.FieldType(gspace, reps)


_QUOTIENTS = {
    "DihedralGroup": lambda gspace: gspace.quotient_repr((None, gspace.fibergroup.rotation_order)),
    "Octahedral": lambda gspace: gspace.quotient_repr((False, 4)),
    "SO3": lambda gspace: gspace.fibergroup.bl_sphere_representation(1),
    "O3": lambda gspace: gspace.fibergroup.bl_sphere_representation(1),
}

KINDS = st.lists(st.sampled_from(["trivial", "regular", "quotient", "irrep", "irrep_1"]), min_size=1, max_size=3)
PLANES = st.sampled_from([*zip(PLANAR, PLANAR, strict=True), *SUBGROUPS])
ROOMS = st.sampled_from([(name, name) for name in SPATIAL])


@st.composite
def layers(draw: st.DrawFn) -> tuple[Group, Any]:
    """A group and a convolution in float64 with random weights, in training mode."""
    torch.manual_seed(draw(st.integers(0, 99)))
    is_planar = draw(st.booleans())
    name, subgroup = draw(PLANES if is_planar else ROOMS)
    gspace, groups = space(name), draw(st.sampled_from([1, 1, 2]))
    kinds = (draw(KINDS), draw(KINDS)) if is_planar else (draw(KINDS)[:1], draw(KINDS)[:2])
    dilation, stride, padding = (draw(st.integers(low, high)) for low, high in ((1, 2), (1, 2), (0, 2)))
    # escnn has no kernels of two taps: its rings lie between them
    size = draw(st.sampled_from([1, 3, 4, 5] if is_planar else [1, 3, 3]))
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": draw(st.booleans())}
    if draw(st.sampled_from(["plain", "plain", "transposed"])) == "plain":
        kind = enn.R2Conv if is_planar else enn.R3Conv
        arguments["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    else:
        kind = enn.R2ConvTransposed if is_planar else enn.R3ConvTransposed
        arguments["padding"] = min(padding, dilation * (size - 1))
    types = tuple(field(gspace, ["trivial", *own] * groups) for own in kinds)
    # an irrep other than the trivial one makes any layer of its group worth relaxing
    assume(any(not rep.is_trivial() for kind in types for rep in kind.representations))
    # kernels of one tap may be such that a subgroup leaves everything alone
    assume(size > 1 or (subgroup == name and " in " not in name))
    # taps that are further apart than the kernels' detail
    assume(dilation * size < 8)
    try:
        layer = double(kind(*types, size, **arguments))
    except ValueError as error:
        # of one tap, there may be no steerable kernel
        assume("basis for the steerable filter is empty" not in str(error))
        raise
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    # drops the caches that a layer is made with
    return group_of(subgroup), layer.train()


def double(layer: Any) -> Any:
    """In float64; a copy, for layers of one kind share the tensors of their basis."""
    return copy.deepcopy(layer).double()


def images(layer: Any, batch: int = 2) -> Any:
    """An input of the layer; of a volume, a small one."""
    pixels = (11, 11) if layer.d == 2 else (6, 7, 5)
    return layer.in_type(torch.randn(batch, layer.in_type.size, *pixels, dtype=layer.weights.dtype))


def scores(layer: Any) -> LayerPenalty:
    with torch.no_grad():
        (score,) = penalties(layer).values()
    return score


def with_kernel(layer: Any, kernel: Tensor) -> ConvolutionTerm:
    """Set a relaxed layer's term to a kernel."""
    term = layer.relaxation
    with torch.no_grad():
        term.weight.copy_(term.convolution.as_matrix(kernel))
    return term


def plain_convolution(layer: Any, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """By torch's own layers, which know the padding modes."""
    if hasattr(layer, "output_padding"):
        transposed = {2: nn.functional.conv_transpose2d, 3: nn.functional.conv_transpose3d}[layer.d]
        return transposed(x, kernel, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
    other = {2: nn.Conv2d, 3: nn.Conv3d}[layer.d](
        layer.in_type.size, layer.out_type.size, layer.kernel_size, layer.stride, layer.padding,
        layer.dilation, layer.groups, bias is not None, layer.padding_mode)  # fmt: skip
    values = {"weight": kernel} if bias is None else {"weight": kernel, "bias": bias}
    return torch.func.functional_call(other, values, (x,))


def convolution(gspace: Any, reps: list[Any], size: int = 3, **options: Any) -> Any:
    kind = enn.FieldType(gspace, reps)
    layer = double((enn.R2Conv if gspace.dimensionality == 2 else enn.R3Conv)(kind, kind, size, **options))
    return layer.train()


def penalty_of_own_kernel(layer: Any, own: Group | str) -> tuple[float, ConvolutionTerm]:
    """The largest |L(K)| / |K| on the layer's own equivariant kernel, and the term that holds it."""
    relaxify(layer, own, config=RelaxConfig(rows=None))
    term = with_kernel(layer, layer.expand_parameters()[0].detach())
    matrix = term.matrix.detach()
    derivative = lie_derivative(matrix, term.map.rep_in, term.map.rep_out)
    return float(derivative.flatten(1).norm(dim=1).max() / matrix.norm()), term


def assert_respected(layer: Any, own: Group | str, *, exact: bool | None = None) -> None:
    """Equivariant kernels have no penalty, as far as taps can tell; random ones have."""
    error, term = penalty_of_own_kernel(layer, own)
    assert term.map.interpolation < 1e-5
    assert exact is None or (term.map.interpolation == 0) == exact
    assert error <= max(1e-6, 2 * term.map.interpolation)
    with torch.no_grad():
        term.weight.normal_()
    layer(images(layer))
    score = scores(layer)
    assert float(score.lie.max() / score.norm) > 0.03


__all__ = ["enn", "group", "gspaces"]
