"""f(x) = E[y | x] from labelled samples: one smooth network for each half of them, so that their noise is independent.

h = (A z)(B z) + C z gives quadratic forms, which most invariants of classical groups are made of; two SiLU layers follow.
Beside z the network sees directions, as what scaling leaves alone has no limit at zero: of all of z, of each vector, of the
differences of points, and in the plane the harmonics of the angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify.lconv.symmetry.rows import Kinds, shuffled

FORMS, WIDTH = 48, 64
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.1
# for 2,000 samples; more of them deserve longer training
STEPS, LONGER, BATCH, LARGE_BATCH = 1000, 0.4, 256, 512
# a short training is tried too, for labels with so much noise that a long one learns it
SHORT = 4
MOST_PAIRS, HIGHEST_HARMONIC = 28, 12
# what harmonics must explain more, as what is learned with them is less smooth
SMALLEST_GAIN = 0.01


@dataclass(frozen=True)
class Shape:
    """What the inputs are: vectors of d numbers, of which differences mean something (`points`) or which have an origin."""

    vectors: int
    d: int
    points: bool
    harmonics: bool = False

    def features(self, z: Float[Tensor, "*n inputs"]) -> Float[Tensor, "*n features"]:
        """The inputs and their directions."""
        each = z.unflatten(-1, (self.vectors, self.d))
        if self.points:
            i, j = torch.triu_indices(self.vectors, self.vectors, 1)
            chosen = min(len(i), MOST_PAIRS)
            each = each[..., i[:chosen], :] - each[..., j[:chosen], :]
        parts = [z, _direction(z), _direction(each).flatten(-2)]
        if self.harmonics:
            parts += [_harmonics(_direction(z))]
        return torch.cat(parts, -1)


def _direction(z: Tensor) -> Tensor:
    return z / z.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-30)


def _harmonics(u: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n k"]:
    """cos k phi and sin k phi, by powers of e^(i phi)."""
    turn = torch.complex(u[..., 0], u[..., 1]) / math.sqrt(2)
    powers = torch.cumprod(turn[..., None].expand(*turn.shape, HIGHEST_HARMONIC), -1)[..., 1:]
    return torch.cat([powers.real, powers.imag], -1)


class Networks(nn.Module):
    """One network for each half, trained together as one batch of matrices."""

    def __init__(self, halves: int, features: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [(features, 3 * FORMS), (FORMS, WIDTH), (WIDTH, WIDTH), (WIDTH, outputs)]
        drawn = [torch.randn(halves, a, b, generator=generator) / math.sqrt(3 * a) for a, b in sizes]
        self.weights = nn.ParameterList([nn.Parameter(weight) for weight in drawn])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(halves, 1, b)) for _, b in sizes])

    def forward(self, features: Float[Tensor, "halves n inputs"]) -> Float[Tensor, "halves n outputs"]:
        """Each half's values at its own rows."""
        a, b, c = self._layer(0, features).chunk(3, -1)
        hidden = nn.functional.silu(self._layer(1, a * b + c))
        return self._layer(3, nn.functional.silu(self._layer(2, hidden)))

    def _layer(self, i: int, x: Tensor) -> Tensor:
        return torch.baddbmm(self.biases[i], x, self.weights[i])


@dataclass(frozen=True, eq=False)
class LabelFits:
    """Two independent fits of E[y | x]; `explained` is the share of the other half's variance that each tells."""

    shape: Shape
    networks: Networks
    classes: bool
    mean: Float[Tensor, " c"]
    explained: float

    def values(self, z: Float[Tensor, "n inputs"]) -> Float[Tensor, "halves n c"]:
        """Both halves' f at the same points."""
        return self.each(z.expand(2, *z.shape))

    def each(self, z: Float[Tensor, "halves n inputs"]) -> Float[Tensor, "halves n c"]:
        """Each half's f at points of its own: labels, or probabilities of classes."""
        out: Tensor = self.networks(self.shape.features(z))
        return out.softmax(-1) if self.classes else out + self.mean


def fit_labels(
    z: Float[Tensor, "n vectors d"],
    y: Float[Tensor, "n c"],
    *,
    classes: bool,
    points: bool,
    seed: int,
    kinds: Kinds | None = None,
) -> LabelFits:
    """Of standardised inputs and of labels of unit size, or of classes as one-hot rows; the better of two trainings.

    Copies of a row, as `kinds` tells, are in one half.

    >>> z = torch.randn(1000, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> fit_labels(z, z.square().sum(2) / 2, classes=False, points=False, seed=0).explained > 0.98
    True
    """
    random = torch.Generator().manual_seed(seed)
    half = len(z) // 2
    order = shuffled(len(z), random, kinds)[: 2 * half].reshape(2, half)
    steps = round(STEPS * (len(z) / 2000) ** LONGER)
    plain = Shape(z.shape[1], z.shape[2], points)
    tries = [(plain, steps // SHORT), (plain, steps)]
    if z.shape[1:] == (1, 2) and not points:
        tries.append((replace(plain, harmonics=True), steps))
    z = z.flatten(1)
    tried = [_trained(shape, z[order], y[order], classes, count, random) for shape, count in tries]
    return max(tried, key=lambda fits: fits.explained - SMALLEST_GAIN * fits.shape.harmonics)


def _trained(
    shape: Shape,
    z: Float[Tensor, "halves n inputs"],
    y: Float[Tensor, "halves n c"],
    classes: bool,
    steps: int,
    random: torch.Generator,
) -> LabelFits:
    mean = y.mean((0, 1))
    inputs, targets = shape.features(z).float(), (y if classes else y - mean).float()
    networks = Networks(len(z), inputs.shape[-1], y.shape[-1], random)
    optimiser = torch.optim.AdamW(networks.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    size = min(LARGE_BATCH if z.shape[1] > 100 * BATCH else BATCH, z.shape[1])
    halves = torch.arange(len(z))[:, None]
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(z.shape[1], (len(z), size), generator=random)
            loss = _loss(networks(inputs[halves, rows]), targets[halves, rows], classes)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rates.step()
    fits = LabelFits(shape, networks.double().requires_grad_(False), classes, mean, 0.0)
    return replace(fits, explained=_explained(fits, z, y))


def _loss(out: Tensor, y: Tensor, classes: bool) -> Tensor:
    """Summed over halves, as they have no parameter in common."""
    each = -(out.log_softmax(-1) * y).sum(-1) if classes else (out - y).square().mean(-1)
    return each.mean(-1).sum()


def _explained(fits: LabelFits, z: Tensor, y: Tensor) -> float:
    """1 - E|y - f(x)|^2 / E|y - E y|^2, with the f of the half that these samples are not in."""
    errors = (y.flip(0) - fits.each(z.flip(0))).square().sum()
    return float(1 - errors / (y - y.mean((0, 1))).square().sum().clamp(min=1e-300))
