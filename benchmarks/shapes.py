"""Fifteen classes of procedural point clouds, each a surface with random proportions, in one pose: z is up."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Uniform = Callable[..., Tensor]
Shape = Callable[[int, Uniform], Tensor]


def _on_sphere(n: int, u: Uniform) -> Tensor:
    z, phi = u(-1, 1, n), u(0, 2 * math.pi, n)
    r = (1 - z.square()).clamp(min=0).sqrt()
    return torch.stack([r * phi.cos(), r * phi.sin(), z], dim=1)


def _on_box(n: int, u: Uniform, size: Tensor) -> Tensor:
    points, face = u(-1, 1, n, 3), u(0, 6, n).long().clamp(max=5)
    points[torch.arange(n), face % 3] = (face // 3) * 2.0 - 1
    return points * size


def _around(n: int, u: Uniform, radius: Callable[[Tensor], Tensor]) -> Tensor:
    """A surface of revolution of height 2."""
    z, phi = u(-1, 1, n), u(0, 2 * math.pi, n)
    return torch.stack([radius(z) * phi.cos(), radius(z) * phi.sin(), z], dim=1)


def _torus(n: int, u: Uniform, thick: float) -> Tensor:
    a, b = u(0, 2 * math.pi, n), u(0, 2 * math.pi, n)
    r = 1 + thick * b.cos()
    return torch.stack([r * a.cos(), r * a.sin(), thick * b.sin()], dim=1)


def _helix(n: int, u: Uniform, turns: float) -> Tensor:
    t = u(0, 1, n)
    angle = 2 * math.pi * turns * t
    return torch.stack([angle.cos(), angle.sin(), 2 * t - 1], dim=1)


def _halves(n: int, first: Callable[[int], Tensor], second: Callable[[int], Tensor]) -> Tensor:
    return torch.cat([first(n // 2), second(n - n // 2)])


def _disc(n: int, u: Uniform, height: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    r, phi = u(0, 1, n).sqrt(), u(0, 2 * math.pi, n)
    x, y = r * phi.cos(), r * phi.sin()
    return torch.stack([x, y, height(x, y)], dim=1)


_UP = torch.tensor([0.0, 0.0, 1.0])

SHAPES: dict[str, Shape] = {
    "sphere": _on_sphere,
    "egg": lambda n, u: _on_sphere(n, u) * torch.tensor([0.6, 0.6, 1.0]),
    "lens": lambda n, u: _on_sphere(n, u) * torch.tensor([1.0, 1.0, 0.4]),
    "cube": lambda n, u: _on_box(n, u, torch.ones(3)),
    "slab": lambda n, u: _on_box(n, u, torch.tensor([1.0, 0.7, 0.25])),
    "beam": lambda n, u: _on_box(n, u, torch.tensor([0.3, 0.3, 1.0])),
    "tube": lambda n, u: _around(n, u, lambda z: torch.full_like(z, 0.6)),
    "cone": lambda n, u: _around(n, u, lambda z: 0.5 * (1 - z)),
    "hourglass": lambda n, u: _around(n, u, lambda z: 0.2 + 0.7 * z.abs()),
    "thin torus": lambda n, u: _torus(n, u, 0.2),
    "thick torus": lambda n, u: _torus(n, u, 0.5),
    "helix": lambda n, u: _helix(n, u, 1.5),
    "long helix": lambda n, u: _helix(n, u, 3.0),
    "dumbbell": lambda n, u: _halves(
        n, lambda k: 0.5 * _on_sphere(k, u) + 0.7 * _UP, lambda k: 0.5 * _on_sphere(k, u) - 0.7 * _UP
    ),
    "saddle": lambda n, u: _disc(n, u, lambda x, y: x.square() - y.square()),
}


def clouds(count: int, points: int, seed: int) -> tuple[Float[Tensor, "count 3 points"], Tensor]:
    """Clouds of all classes in equal numbers, with their classes: stretched, scattered, centred, and of unit size.

    >>> x, y = clouds(30, 16, seed=0)
    >>> x.shape, y.bincount().tolist() == [2] * 15
    (torch.Size([30, 3, 16]), True)
    """
    generator = torch.Generator().manual_seed(seed)

    def u(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(*size, generator=generator)

    classes, made = torch.arange(count) % len(SHAPES), []
    kinds = list(SHAPES.values())
    for kind in classes.tolist():
        cloud = kinds[kind](points, u) * u(0.7, 1.3, 3)
        cloud = cloud + 0.06 * torch.randn(points, 3, generator=generator)
        cloud = cloud - cloud.mean(0)
        made.append((cloud / cloud.norm(dim=1).max()).T)
    return torch.stack(made), classes
