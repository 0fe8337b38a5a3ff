"""Axes of large values that a few samples rule out are those that do not fit, and no others."""

from __future__ import annotations

import pytest
import torch

from relaxify.evidence.fitting import Axes, Norms, Pairs, _Sampled, elements, fit, transformation
from relaxify.groups import Group
from relaxify.representations import Representation

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
    assert not _Sampled(pairs, Norms()).rules_out(axes) or fit(SO3, pairs, axes).kind == "none"


def test_most_of_what_does_not_fit_is_ruled_out() -> None:
    assert [_Sampled(vectors(), Norms()).rules_out(axes) for axes in ((), (-2,), (-1,))] == [True, False, True]


def test_a_value_that_transforms_in_no_way_is_told_by_the_residual_of_all_its_samples() -> None:
    pairs = vectors(0.1)
    found = transformation(SO3, pairs, sample_sizes={400})
    assert found.kind == "none"
    assert found.residual == min(fit(SO3, pairs, axes).residual for axes in ((), (-2,), (-1,)))
