"""Symmetries read out of what was trained: so(3) and so(1,3) from a network's gradients, a scrambled ring's from its flow.

python -m relaxify_examples.lconv.discovery
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from relaxify import Group
from relaxify.lconv import Dense, Flow, Symmetry, generators, symmetries_of_model
from relaxify.lconv.symmetry import Overlap

METRICS = {"so(3)": torch.eye(3), "so(1,3)": torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))}


def invariant(x: Tensor, metric: Tensor, scale: float = 6.0) -> Tensor:
    """A function of two vectors' products under the metric, and so of nothing but what its group leaves alone."""
    products = torch.einsum("nad,de,nbe->nab", x, metric, x) / scale
    first, mixed, second = products[:, 0, 0], products[:, 0, 1], products[:, 1, 1]
    return torch.sin(first) + torch.tanh(mixed) + torch.cos(second - mixed)


def network(d: int) -> nn.Module:
    """A plain MLP of two vectors, that knows nothing of any group."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(2 * d, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1), nn.Flatten(0)
    )


def symmetry_of_a_network(algebra: Literal["so(3)", "so(1,3)"], seed: int, *, steps: int = 3000) -> Symmetry:
    """Fit the MLP to the invariant function, and ask it for its symmetry."""
    torch.manual_seed(seed)
    metric = METRICS[algebra]
    model = network(len(metric))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = torch.randn(512, 2, len(metric))
        loss = (model(x) - invariant(x, metric)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return symmetries_of_model(model, torch.randn(8000, 2, len(metric)))


@dataclass(frozen=True)
class Ring:
    """What was learned of a translation on scrambled points: the overlap with the true generator, and the report."""

    steps: int | Literal["exp"]
    overlap: Overlap
    symmetry: Symmetry
    loss: float


def translation(points: int, order: Tensor) -> Tensor:
    """The generator of translations of a ring, d/ds of its waves, on points in a scrambled order."""
    waves = torch.fft.fft(torch.eye(points, dtype=torch.float64), dim=0)
    frequencies = torch.fft.fftfreq(points, dtype=torch.float64) * points
    if points % 2 == 0:
        # the highest wave has no real derivative
        frequencies[points // 2] = 0
    matrix = torch.fft.ifft(-2j * torch.pi / points * frequencies[:, None] * waves, dim=0).real
    return matrix[order][:, order]


def ring(
    seed: int, steps: int | Literal["exp"] = "exp", *, points: int = 11, distance: float = 0.5, updates: int = 1000
) -> Ring:
    """Learn L from pairs (h, h moved by part of a point) alone, as `steps` L-convs I + L/steps or as exp(L), by SGD.

    The largest frequency of such a move is pi * distance * (1 - 1 / points), below pi, so L is identifiable.
    """
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(points, generator=random)
    true = distance * translation(points, order)
    moved = torch.linalg.matrix_exp(true).float()
    torch.manual_seed(seed)
    flow = Flow(Dense(0.01 * torch.randn(1, points, points)), steps=steps)
    flow.coefficients.requires_grad_(False)
    optimizer = torch.optim.SGD(flow.parameters(), lr=1.0, momentum=0.9)
    for _ in range(updates):
        h = torch.randn(64, 1, points, generator=random)
        loss = (flow(h) - h @ moved.mT).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 0.5)
        optimizer.step()
    symmetry = generators(flow)[""]
    return Ring(steps, symmetry.overlap(true[None]), symmetry, float(loss.detach()))


def lines(seeds: int) -> Iterator[str]:
    """Everything, a line a result."""
    algebras: tuple[Literal["so(3)", "so(1,3)"], ...] = ("so(3)", "so(1,3)")
    for algebra, seed in itertools.product(algebras, range(seeds)):
        found = symmetry_of_a_network(algebra, seed)
        gap = f"gap {found.gap:.2g}" if found.gap else "no gap"
        verdict = f"{found.name}, dimension {found.dimension}, {gap}, Killing {found.killing_signature}"
        yield f"{algebra:8} seed {seed}: {verdict}; {found.overlap(Group.parse(algebra))}"
    choices: tuple[int | Literal["exp"], ...] = (2, 16, "exp")
    for steps, seed in itertools.product(choices, range(seeds)):
        found_ring = ring(seed, steps)
        yield f"ring     seed {seed}, steps={steps}: {found_ring.overlap}; loss {found_ring.loss:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Read symmetries out of trained networks.")
    parser.add_argument("--seeds", type=int, default=5)
    torch.set_num_threads(1)
    for line in lines(parser.parse_args().seeds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
