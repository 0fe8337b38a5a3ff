"""The recipe of the README does no harm: what it projects is as good as what plain training of the same length makes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.arms import Budget, Task, fitted
from benchmarks.evidence.ways import WAYS
from relaxify_examples.models.vector_neurons import VNLeakyReLU, VNLinear

SEEDS = range(4)
BUDGET = Budget(steps=120, batch=64, rate=3e-2)


def aligned(seed: int) -> tuple[Tensor, Tensor]:
    """Vectors in one pose, and labels that depend on it: what a term can learn and no equivariant layer can."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 4, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.5, 1, 2])
    return x, x[:, :2].square().sum(1).sqrt() + x[:, 2:].sum(1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(VNLinear(4, 8), VNLeakyReLU(8), VNLinear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        vectors: Tensor = self.layers(x).squeeze(1)
        return vectors


def summed(way: str) -> float:
    """The losses of the projected models after training with a learning rate that falls to 0, or of the plain ones."""
    return sum(error(way, seed) for seed in SEEDS)


def error(way: str, seed: int) -> float:
    torch.manual_seed(seed)
    x, y = aligned(seed)
    model = fitted(Net().double(), WAYS[way].arm(BUDGET.steps), BUDGET, Task((x,), y, mse_loss), seed).model
    return float(mse_loss(model(x), y).detach())


def test_the_recipe_of_the_readme_does_no_harm_where_the_one_as_printed_does() -> None:
    plain = summed("plain")
    assert summed("default") < 1.03 * plain
    assert summed("as printed") > 1.1 * plain
