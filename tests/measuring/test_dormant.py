"""Faults of few directions are met, by more elements where an operation was seen from one side only, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from e3nn.nn import S2Activation
from measuring.models import Of
from torch import Tensor, nn

from relaxify import inspect
from relaxify.verdicts.measuring import measure
from relaxify.verdicts.verdict import Status


def z(x: Tensor) -> Tensor:
    return (x / x.norm(dim=-1, keepdim=True))[..., :1]


@torch.jit.script
def turned_over(x: Tensor, height: Tensor) -> Tensor:
    if bool((height > 0.98).any()):
        x = 2 * x
    return x


RARE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu, 5 % of directions": lambda x: x * (1 + torch.relu(z(x) - 0.9)),
    "branch, 1 in 400": lambda x: x * torch.where(z(x) > 0.995, 2.0, 1.0),
    "statement, 1 in 400": lambda x: x * 2 if bool((z(x) < -0.995).any()) else x,
    "saturated sigmoid": lambda x: x * (1 + torch.sigmoid(2000 * (z(x) - 0.97))),
    "clamped": lambda x: x * z(x).clamp(min=0.97),
    "in place": lambda x: x * (1 + (z(x) - 0.95).relu_()),
    "rounded": lambda x: x * (1 + (0.51 * z(x)).round()),
    "an item, 1 in 100": lambda x: x * 2 if z(x)[0, 0].item() > 0.98 else x,
    "a list, 1 in 100": lambda x: x * 2 if max(z(x).flatten().tolist()) > 0.98 else x,
    "an array, 1 in 100": lambda x: x * 2 if z(x).detach().numpy().max() > 0.98 else x,
    "TorchScript, 1 in 100": lambda x: turned_over(x, z(x)),
    "a box": lambda x: x * (1 + z(x) - torch.nn.functional.hardtanh(z(x), -1, 0.97)),
    "a bound": lambda x: x * (1 + z(x) - torch.minimum(z(x), torch.tensor(0.97).to(x))),
    "wrapped": lambda x: x * (1 + z(x) - (torch.remainder(z(x) + 1, 1.97) - 1)),
    "a threshold": lambda x: x * (1 + z(x) - (torch.nn.functional.threshold(z(x) + 0.97, 0, 7.0) - 0.97)),
    "within a gradient": torch.func.grad(lambda y: (y.square() * (1 + torch.relu(z(y) - 0.95))).sum()),
    "mapped": torch.func.vmap(lambda v: v * (1 + torch.relu(z(v) - 0.95))),
    "close to a direction": lambda x: x * (1 + torch.isclose(z(x), torch.ones_like(z(x)), atol=0.02)),
    "divided into whole ones": lambda x: x * (1 + torch.div(z(x) + 1, 1.97, rounding_mode="floor")),
    "one way of several": lambda x: x * (1 + torch.stack([z(x) - 0.98, torch.zeros_like(z(x))]).argmax(0)),
}


def points(count: int) -> Tensor:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(1))
    # so that nothing rare happens to the given ones
    return torch.where(z(x).abs() > 0.8, x.roll(1, -1), x)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("fault", RARE)
def test_a_fault_of_few_directions_is_met(fault: str, count: int) -> None:
    assert measure(Of(RARE[fault]), "SO(3)", (points(count),)).status is Status.BROKEN


def test_it_is_named() -> None:
    found = inspect(Of(RARE["branch, 1 in 400"]), "SO(3)", points(4)).fault
    assert found is not None
    assert found.op == "__getitem__"


def test_so_is_what_only_a_branch_of_the_program_reads() -> None:
    found = inspect(Of(RARE["statement, 1 in 400"]), "SO(3)", points(4)).fault
    assert found is not None
    assert found.op == "any"


class OnSphere(nn.Module):
    """Irreps as a function on the sphere, and relu of that: its values move, and what relu makes of them too."""

    def __init__(self) -> None:
        super().__init__()
        irreps = o3.Irreps("0e + 1o + 2e")
        self.activation = S2Activation(irreps, torch.relu, res=20)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(o3.spherical_harmonics([0, 1, 2], x, normalize=True))[..., 1:4]


USUAL: dict[str, nn.Module] = {
    "dead relu of lengths": Of(lambda x: x * torch.relu(-x.norm(dim=-1, keepdim=True)) + x),
    "angle within bounds": Of(lambda x: x * (x @ x.mT).clamp(-1e6, 1e6).sum()),
    "an index as wide as vectors": Of(lambda x: x.gather(0, torch.arange(len(x))[:, None].expand_as(x)) * len(x)),
    "whole numbers within bounds": Of(lambda x: x[torch.arange(len(x)).clamp(min=0)] * len(x)),
    "written elsewhere, within bounds": Of(lambda x: torch.clamp(x @ x.mT, -1e6, 1e6, out=torch.empty(5, 5).to(x)) @ x),
    "lengths that leave torch": Of(lambda x: x * 2 if x.norm().item() > 1 else x),
    "components of several vectors within bounds": Of(lambda x: torch.minimum(x, x.norm(dim=-1).max())),
    "components within bounds": Of(lambda x: (x / x.norm(dim=-1, keepdim=True)).clamp(-1, 1)),
}


@pytest.mark.parametrize("name", USUAL)
def test_what_moves_with_its_input_needs_no_more_elements(name: str) -> None:
    verdict = measure(USUAL[name], "SO(3)", (points(5),))
    assert verdict.is_sound
    assert verdict.elements == measure(Of(lambda x: 2 * x), "SO(3)", (points(5),)).elements


def test_nor_does_a_grid_on_the_sphere() -> None:
    verdict = measure(OnSphere(), "SO(3)", (points(5),))
    assert verdict.elements == measure(Of(lambda x: 2 * x), "SO(3)", (points(5),)).elements


def test_a_sound_model_stays_sound_where_more_were_tried() -> None:
    """A comparison that never comes out the other way, as it asks for what no element does."""
    verdict = measure(Of(lambda x: x * torch.where(z(x) > 1.5, 2.0, 1.0)), "SO(3)", (points(4),))
    assert verdict.is_sound
    assert verdict.elements > 80
