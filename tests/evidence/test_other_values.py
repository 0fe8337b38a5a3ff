"""What a value's own runs leave open is told by what other values carry, and by nothing else."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3
from torch import Tensor, nn

from relaxify import Group, inspect, plan
from relaxify.evidence.other_values import by_other_values, representations_of
from relaxify.evidence.transformations import Norms, elements
from relaxify.graph.recording import record
from relaxify.representations import Representation
from relaxify_adapters.e3nn import so3_generators

GROUP = Group.parse("SO(3)")


def moved(value: Tensor, *spins: int) -> tuple[Tensor, list[Tensor]]:
    """A value with these irreps on its last axes, and what each element makes of it."""
    runs = []
    for g in elements(GROUP):
        run = value
        for axis, spin in zip(range(-len(spins), 0), spins, strict=True):
            matrix = Representation.of(GROUP, "irrep", 1, so3_generators(spin)).rho(g)
            run = (run.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
        runs.append(run)
    return value, runs


def known(size: int) -> list[Tensor]:
    return {3: [so3_generators(1)], 5: [so3_generators(2)]}.get(size, [])


@pytest.mark.parametrize("spins", [(2,), (2, 2), (1, 2, 2)])
def test_irreps_are_told_on_one_axis_two_and_three(spins: tuple[int, ...]) -> None:
    pairs = [moved(torch.randn(4, *(2 * spin + 1 for spin in spins), dtype=torch.float64), *spins)]
    found = by_other_values(GROUP, pairs, known, {4}, Norms())
    assert found is not None
    assert found.axes == tuple(range(-len(spins), 0))
    assert found.actions is not None
    ((base, runs),) = pairs
    g = Representation.of(GROUP, "found", 1, found.actions).rho(elements(GROUP)[0])
    assert torch.allclose(base.flatten(1) @ g.mT, runs[0].flatten(1))


def test_what_is_bent_is_told_by_none() -> None:
    base, runs = moved(torch.randn(40, 5, 5, dtype=torch.float64), 2, 2)
    assert by_other_values(GROUP, [(base.tanh(), [run.tanh() for run in runs])], known, {40}, Norms()) is None


def test_on_what_a_value_does_not_reach_nothing_acts() -> None:
    base, runs = moved(torch.randn(40, 3, dtype=torch.float64), 1)
    padded = [nn.functional.pad(value, (1, 2)) for value in (base, *runs)]
    found = by_other_values(GROUP, [(padded[0], padded[1:])], lambda size: [], {40}, Norms())
    assert found is not None
    assert (found.axes, found.unreached) == ((-1,), 3)
    assert torch.allclose(found.actions[:, 1:4, 1:4], so3_generators(1), atol=1e-9)
    assert not found.actions[:, [0, 4, 5]].abs().max() > 1e-9


def test_vectors_with_a_constant_added_carry_no_representation_that_is_meant() -> None:
    base, runs = moved(torch.randn(60, 3, dtype=torch.float64), 1)
    mix, bias = torch.randn(3, 9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    values = [value @ mix + bias for value in (base, *runs)]
    assert by_other_values(GROUP, [(values[0], values[1:])], lambda size: [], {60}, Norms()) is None
    assert representations_of(GROUP, 9, [(-1, (values[0], values[1:]))][:0]) == []


class Products(nn.Module):
    """Products of irreps of degree 2, mixed over their channels: the mix reads irreps on two axes."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.up, self.mix = o3.Linear("1x2e", f"{width}x2e"), nn.Parameter(torch.randn(width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(o3.spherical_harmonics(2, x - x.mean(0), normalize=False)).unflatten(-1, (-1, 5))
        products = torch.einsum("oc,ncij->noij", self.mix, y[..., :, None] * y[..., None, :])
        return torch.einsum("ncij,nci,ncj->n", products, y, y)


def test_a_map_of_irreps_on_two_axes_is_relaxed() -> None:
    found = plan(Products(), "O(3)", example_inputs=(torch.randn(12, 3),))
    assert {site.path: str(site.map.rep_in) for site in found.sites} == {"up": "1x2e", "mix": "3xfitted25"}


@torch.jit.script
def scripted_sum(x: Tensor) -> Tensor:
    return x.sum(0)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.mix = nn.Linear(1, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        v = self.mix(torch.relu(self.up((x - x.mean(0)).unsqueeze(-1))))
        return scripted_sum(torch.tanh(v.square().sum((1, 2))))


def test_a_fault_is_traced_back_through_torchscript() -> None:
    model, x = Pooled(), torch.randn(9, 3)
    report = inspect(model, "SO(3)", x)
    assert report.fault is not None
    assert report.fault.op == "relu"
    opaque = [node for node in record(model, (x,)).nodes if node.op == "call_function" and node.target.__name__ == "opaque"]
    assert [len(node.all_input_nodes) for node in opaque] == [1]


class Powers(nn.Module):
    """v (x) v (x) ..., its channels mixed twice: a tensor on so many axes."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.axes, self.mix, self.out = axes, nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        vectors = torch.stack([x, x * x.norm(dim=-1, keepdim=True)], 1)
        power = vectors
        for _ in range(self.axes - 1):
            power = torch.einsum("pc...,pci->pc...i", power, vectors)
        power = torch.einsum("pc...,oc->po...", torch.einsum("pc...,oc->po...", power, self.mix), self.out)[:, 0]
        for _ in range(self.axes - 1):
            power = torch.einsum("p...i,pi->p...", power, x)
        return power


def test_of_what_is_beyond_all_that_is_looked_at_more_samples_are_not_asked_for() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    assert [site.path for site in plan(Powers(3), "O(3)", example_inputs=x).sites] == ["mix", "out"]
    found = plan(Powers(7), "O(3)", example_inputs=x)
    assert not found.sites
    assert [rejected.path for rejected in found.rejected] == ["mix", "out"]
    assert all("may transform on larger axes than are looked at" in rejected.reason for rejected in found.rejected)


def test_features_as_many_as_the_matrices_of_an_affine_group_are_no_vectors() -> None:
    """E(3) has matrices of 4 x 4, which act on points as on (x, 1), and on no axis of size 4."""
    x = torch.randn(16, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False))
    assert [rejected.path for rejected in plan(net, "E(3)", example_inputs=x).rejected][-1] == "0"
