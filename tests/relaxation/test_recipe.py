"""The recipe of the README does no harm: what it projects is as good as what plain training of the same length makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.vector_neurons import VNLeakyReLU, VNLinear
from relaxify import RelaxConfig, Triangle, penalty, project, relaxify

STEPS = 120
SEEDS = range(4)


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


def trained(seed: int, config: RelaxConfig | None, *, until: float = 0.5, relative: bool = True) -> float:
    """The loss of the projected model after training with a learning rate that falls to 0, or of the plain one."""
    torch.manual_seed(seed)
    (x, y), model = aligned(seed), Net().double()
    theta = None
    if config is not None:
        relaxify(model, "SO(3)", config=config)
        theta = Triangle(model, STEPS, until=until)
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        loss = (model(x) - y).square().mean()
        total = loss
        if theta is not None:
            total = loss + (penalty(model, relative_to=loss) if relative else penalty(model))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        if theta is not None:
            theta.step()
    clean = (model if theta is None else project(model)).eval()
    return float((clean(x) - y).square().mean().detach())


def summed(config: RelaxConfig | None, **ways: Any) -> float:
    return sum(trained(seed, config, **ways) for seed in SEEDS)


def test_the_recipe_of_the_readme_does_no_harm_where_the_one_as_printed_does() -> None:
    plain = summed(None)
    assert summed(RelaxConfig()) < 1.03 * plain
    assert summed(RelaxConfig(share=None), until=1, relative=False) > 1.1 * plain
