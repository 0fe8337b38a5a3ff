"""What escnn's layers map between and are made with: field types, restrictions, nonlinearities, options, polyhedra."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from escnn_layers import (
    CUBE,
    FULL_CUBE,
    INVERSION,
    MIRROR,
    QUARTER_Z,
    about_z,
    assert_respected,
    convolution,
    double,
    enn,
    field,
    finite,
    group,
    group_of,
    space,
    turn,
)

from relaxify import RelaxConfig, plan, project, relaxify, set_theta
from relaxify.groups import Group
from relaxify_adapters.escnn_groups import fibre_of
from relaxify_adapters.escnn_kernels import blocks_of, steerability_error


def mixed(gspace: Any) -> list[Any]:
    """A direct sum in a basis of its own."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    reps = [gspace.irrep(1), gspace.irrep(2), gspace.trivial_repr]
    return [group.directsum(reps, name="mixed", change_of_basis=basis)]


def skewed(gspace: Any) -> list[Any]:
    """A representation that is not orthogonal."""
    basis = np.array([[1.0, 0.5], [-0.3, 1.2]])
    return [group.directsum([gspace.irrep(1)], name="skewed", change_of_basis=basis), gspace.trivial_repr]


FIELDS = {
    "quotients": ("C(8)", "C(8)", lambda s: [s.quotient_repr(2), s.quotient_repr(4)]),
    "quotients, of a subgroup": ("C(8)", "C(4)", lambda s: [s.quotient_repr(4), s.quotient_repr(2)]),
    "quotients by flips": ("D(4)", "D(4)", lambda s: [s.quotient_repr((0, 1)), s.quotient_repr((None, 2))]),
    "induced": ("D(4)", "D(4)", lambda s: [s.induced_repr((None, 4), space("C(4)").irrep(1))]),
    "mixed": ("C(8)", "C(8)", mixed),
    "skewed": ("C(8)", "C(8)", skewed),
    "tensor product": ("C(8)", "C(8)", lambda s: [s.irrep(1).tensor(s.irrep(2))]),
    "band-limited": ("O(2)", "O(2)", lambda s: [s.fibergroup.bl_regular_representation(2)]),
    "spectral": ("SO(3)", "SO(3)", lambda s: [s.fibergroup.bl_regular_representation(1)]),
    "functions on a sphere": ("SO(3)", "SO(3)", lambda s: [s.fibergroup.bl_sphere_representation(2)]),
    "quotient by SO(2)": ("SO(3)", "SO(3)", lambda s: [s.fibergroup.bl_quotient_representation(1, (False, -1))]),
    "functions on a sphere, O(3)": ("O(3)", "O(3)", lambda s: [s.fibergroup.bl_sphere_representation(2)]),
    "cosets of a cube": ("cube", "cube", lambda s: [s.quotient_repr((False, 4))]),
    "the cube in itself": ("full cube", "cube", lambda s: [s.fibergroup.irreps()[1], s.trivial_repr]),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_every_representation_is_a_field_type(kind: str) -> None:
    name, own, reps = FIELDS[kind]
    assert_respected(convolution(space(name), reps(space(name))), group_of(own))


def test_restricted_and_disentangled_fields() -> None:
    whole = enn.FieldType(space("D(4)"), [space("D(4)").regular_repr])
    to_turns, to_flips = enn.RestrictionModule(whole, (None, 4)), enn.RestrictionModule(whole, (0, 1))
    disentangled = enn.DisentangleModule(to_turns.out_type)
    for kind, name in ((to_turns.out_type, "C(4)"), (disentangled.out_type, "C(4)"), (to_flips.out_type, "D(1)")):
        assert_respected(double(enn.R2Conv(kind, kind, 3)).train(), name, exact=True)


@pytest.mark.parametrize(
    ("name", "id_", "own"),
    [
        ("SO(3)", (False, 4), finite(QUARTER_Z, name="quarters")),
        ("SO(3)", (False, -1), about_z(name="turns about z")),
        ("O(3)", (False, "octa"), CUBE),
        ("O(3)", (True, "octa"), FULL_CUBE),
        ("O(3)", (True, False, 1), finite(INVERSION, name="inversion")),
        ("O(3)", ("cone", -1), about_z(MIRROR @ turn(2, math.pi), name="cone")),
    ],
)
def test_restricted_spaces(name: str, id_: tuple[Any, ...], own: Group) -> None:
    gspace, _, _ = space(name).restrict(id_)
    vector = space(name).fibergroup.standard_representation().restrict(id_)
    assert_respected(convolution(gspace, [vector, gspace.trivial_repr]), own)


def test_nonlinearities_between_the_layers() -> None:
    """Norm and gated nonlinearities, pooling of norms, batch norm, masks: a whole model, relaxed, trained and projected."""
    gspace = space("O(2)")
    scalar, vector = gspace.trivial_repr, gspace.irrep(1, 1)
    into, gated = enn.FieldType(gspace, [scalar]), enn.FieldType(gspace, [scalar] * 2 + [vector] * 2)
    vectors = enn.FieldType(gspace, [vector] * 2)
    net = enn.SequentialModule(
        enn.MaskModule(into, 9),
        enn.R2Conv(into, gated, 3, padding=1),
        enn.GatedNonLinearity1(gated),
        enn.R2Conv(vectors, vectors, 3, padding=1),
        enn.NormBatchNorm(vectors),
        enn.NormNonLinearity(vectors),
        enn.NormPool(vectors),
    )
    relaxed = relaxify(net, "O(2)", config=RelaxConfig(theta=0.5))
    x = into(torch.randn(2, 1, 9, 9))
    assert [site for site, part in net.named_modules() if "relaxation" in part._modules] == ["1", "3"]
    relaxed(x).tensor.square().mean().backward()
    with torch.no_grad():
        net[1].relaxation.weight.normal_()
    clean = project(relaxed)
    set_theta(relaxed, 0.0)
    torch.testing.assert_close(clean(x).tensor, relaxed(x).tensor)


def test_a_volume_network() -> None:
    """In escnn's own style, over SO(3): trained relaxed in float32, its eval mode and its projection agree."""
    gspace = space("SO(3)")
    one, two = field(gspace, ["trivial"]), field(gspace, ["trivial", "irrep_1"])
    net = enn.SequentialModule(
        enn.R3Conv(one, two, 3, padding=1), enn.NormNonLinearity(two, bias=False), enn.R3Conv(two, one, 3)
    )
    relaxify(net, "SO(3)", config=RelaxConfig(theta=0.5))
    x = one(torch.randn(2, 1, 5, 5, 5))
    net(x).tensor.square().mean().backward()
    with torch.no_grad():
        net[0].relaxation.weight.normal_()
    assert not torch.allclose(project(net)(x).tensor, net(x).tensor)
    torch.testing.assert_close(project(net).eval()(x).tensor, net.eval()(x).tensor, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(net)(x).tensor, net(x).tensor, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["R3IcoConv", "R3IcoConvTransposed"])
@pytest.mark.parametrize("samples", ["ico", "dodeca"])
def test_kernels_on_the_vertices_of_polyhedra(kind: str, samples: str) -> None:
    gspace = space("icosahedron")
    fields = field(gspace, ["trivial", "irrep_1"])
    layer = double(getattr(enn, kind)(fields, fields, 3, samples=samples)).train()
    assert_respected(layer, group_of("icosahedron"))


@pytest.mark.parametrize(
    "options",
    [
        {"frequencies_cutoff": 1.0},
        {"frequencies_cutoff": lambda radius: int(3 * radius)},
        {"rings": [0.0, 1.0]},
        {"sigma": [0.3, 0.3, 0.3]},
        {"recompute": True},
        {"maximum_offset": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_basis(options: dict[str, Any]) -> None:
    gspace = space("C(8)")
    assert_respected(convolution(gspace, [gspace.regular_repr], size=5, **options), "C(8)")


def test_taps_too_far_apart() -> None:
    """Dilated kernels have detail that falls between the taps; moves onto taps remain."""
    gspace = space("C(8)")
    (rejected,) = plan(convolution(gspace, [gspace.regular_repr], size=5, dilation=2), "C(8)").rejected
    assert rejected.reason.startswith(
        "its taps are too far apart to tell where C(8) moves its kernels (interpolation error 1"
    )
    assert_respected(convolution(gspace, [gspace.regular_repr], size=5, dilation=2), "C(4)", exact=True)


@pytest.mark.parametrize("name", ["D(4)", "C(8)", "cube", "SO(3)"])
def test_kernels_that_are_not_steerable_fail_the_proof(name: str) -> None:
    gspace = space(name)
    layer = convolution(gspace, [gspace.trivial_repr, gspace.fibergroup.irreps()[1]])
    for block in layer.basisexpansion.children():
        block.sampled_basis += 1e-3 * torch.randn_like(block.sampled_basis)
    assert len(plan(layer, group_of(name)).unsound) == 1


@pytest.mark.parametrize(("name", "one", "other"), [("SO(2)", (1,), (2,)), ("cube", (1,), (-1,)), ("O(3)", (0, 1), (1, 1))])
def test_kernels_are_steerable_between_their_own_representations_only(name: str, one: Any, other: Any) -> None:
    own, wrong = (space(name).fibergroup.irrep(*index) for index in (one, other))
    layer = convolution(space(name), [own])
    fibre = fibre_of(space(name), group_of(name))
    ((_, _, block),) = blocks_of(layer)
    assert steerability_error(own, own, block, layer, fibre) < 1e-6
    assert steerability_error(own, wrong, block, layer, fibre) > 0.1
