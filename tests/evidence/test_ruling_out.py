"""Axes of large values that a few samples rule out are those that do not fit, and no others."""

from __future__ import annotations

import pytest
import torch

from relaxify.evidence.fitting import dense, fit, transformation
from relaxify.evidence.generators import bracket_sign
from relaxify.evidence.ruling_out import Sampled
from relaxify.evidence.transformations import Axes, Norms, Pairs, elements
from relaxify.groups import Group
from relaxify.representations import Layout, Representation

SO3 = Group.parse("SO(3)")


def vectors(spoilt: float = 0.0) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        x = torch.randn(400, 3, 2, generator=generator, dtype=torch.float64)
        moved = [torch.einsum("ij,njk->nik", Representation.defining(SO3).rho(g), x) for g in elements(SO3)]
        found.append((x, [run + spoilt * run.square() for run in moved]))
    return found


@pytest.mark.parametrize("axes", [(), (-3,), (-2,), (-1,)])
@pytest.mark.parametrize("spoilt", [0.0, 1e-9, 1e-4, 1.0])
def test_what_is_ruled_out_does_not_fit(axes: Axes, spoilt: float) -> None:
    pairs = vectors(spoilt)
    assert Sampled(pairs, Norms(), 3).misfit(axes) is None or fit(SO3, pairs, axes).kind == "none"


def test_most_of_what_does_not_fit_is_ruled_out() -> None:
    assert [Sampled(vectors(), Norms(), 3).misfit(axes) is None for axes in ((), (-2,), (-1,))] == [False, True, False]


@pytest.mark.parametrize("spoilt", [1e-3, 0.1])
def test_a_value_that_transforms_in_no_way_is_told_by_the_residual_of_the_nearest_that_it_might(spoilt: float) -> None:
    """A few samples tell how far it is; here, of all of them."""
    pairs = vectors(spoilt)
    found = transformation(SO3, pairs, sample_sizes={400})
    before = torch.cat([x.mT.reshape(-1, 3) for x, _ in pairs])
    of_all = []
    for e in range(3):
        after = torch.cat([runs[e].mT.reshape(-1, 3) for _, runs in pairs])
        left = after - before @ torch.linalg.lstsq(before, after).solution
        of_all.append(float(left.norm() / after.norm()))
    assert found.kind == "none"
    assert found.residual == pytest.approx(max(of_all), rel=0.25)


@pytest.mark.parametrize("layout", ["channel_major", "component_major"])
def test_vectors_along_one_axis_are_told_from_few_samples(layout: Layout) -> None:
    several = Representation.defining(SO3, 4, layout)
    x = torch.randn(13, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fit(SO3, [(x, [several.move(g, x) for g in elements(SO3)])], (-1,))
    assert found.kind == "linear"
    assert torch.equal(torch.as_tensor(found.actions), several.act(torch.eye(12, dtype=torch.float64)).mT)


def test_what_moves_otherwise_is_not_told_from_few_samples() -> None:
    x = torch.randn(13, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert fit(SO3, [(x, [torch.roll(x, 1, dims=-1) for _ in elements(SO3)])], (-1,)).kind != "linear"


@pytest.mark.parametrize("left", [0.0, 1e-54])
def test_what_vanishes_on_moved_inputs_carries_no_representation(left: float) -> None:
    """A linear map takes the one run to the other exactly; it has no inverse."""
    pairs = [(x, [left * run for run in runs]) for x, runs in vectors()]
    assert [fit(SO3, pairs, axes).kind for axes in ((), (-2,))] == ["none", "none"]
    matrix = torch.diag(torch.tensor([1.0, 1.0, left], dtype=torch.float64))
    flattened = [(x, [torch.einsum("ij,njk->nik", matrix, run) for run in runs]) for x, runs in vectors()]
    assert fit(SO3, flattened, (-2,)).kind == "none"


@pytest.mark.parametrize("partial", [False, True])
def test_a_value_without_entries_tells_nothing(partial: bool) -> None:
    empty = [(x[:0], [run[:0] for run in runs]) for x, runs in vectors()]
    assert fit(SO3, empty, (-2,), partial=partial).kind == "undecided"


@pytest.mark.parametrize(("strength", "sign"), [(1.0, 1.0), (-1.0, -1.0), (1e-5, None)])
def test_what_hardly_moves_reverses_no_products(strength: float, sign: float | None) -> None:
    noise = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    group = Group.parse("SO(3)")
    actions = strength * dense(Representation.vectors(group)) if sign else strength * noise
    assert bracket_sign(group, actions) == sign
