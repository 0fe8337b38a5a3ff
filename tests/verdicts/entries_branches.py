"""What shows in few directions alone: branches, bounds and boxes, numbers that leave torch; and the same by lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verdicts.actions import along, elements, first
from verdicts.entry import BROKEN, SOUND, Entry
from verdicts.parts import constant, net

POINTS = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
POLE = F.normalize(elements("SO(3)", 0)[5].float() @ POINTS[0], dim=0)
"""A direction to which an element of the oracle's takes a point, and few others do."""
LENGTH = POINTS.norm(dim=-1).max()
LIMIT = 0.97


def height(x: Tensor) -> Tensor:
    """How close each point is to the pole: 1 at most."""
    return F.normalize(x, dim=-1) @ POLE.to(x)[:, None]


def size(x: Tensor) -> Tensor:
    """1 of the point that is farthest away."""
    return x.norm(dim=-1, keepdim=True) / LENGTH.to(x)


@torch.jit.script
def scripted(score: Tensor) -> Tensor:
    factor = torch.ones_like(score)
    if bool((score > 0.97).any()):
        factor = 2 * factor
    return factor


class Scripted(nn.Module):
    def forward(self, score: Tensor) -> Tensor:
        factor = torch.ones_like(score)
        if score[0, 0].item() > 0.97:
            factor = 2 * factor
        return factor


def one_of_two(self: nn.Module, score: Tensor) -> Tensor:
    return self.ways[int(score[0, 0] > LIMIT)](torch.ones_like(score))


def limit(score: Tensor) -> Tensor:
    return torch.tensor(LIMIT).to(score)


def without_nan(value: Tensor) -> Tensor:
    return torch.where(torch.isnan(value), 3.0, value)


Factor = Callable[[nn.Module, Tensor], Any]

FACTORS: dict[str, tuple[Factor, str]] = {
    # 1 as long as the score is below the limit, and where it is named beside the score itself
    "an item": (lambda self, s: 2.0 if s[0, 0].item() > LIMIT else 1.0, ":__getitem__ :mul"),
    "a list": (lambda self, s: 2.0 if max(s.flatten().tolist()) > LIMIT else 1.0, ":flatten :mul"),
    "an array": (lambda self, s: torch.from_numpy(np.where(s.detach().numpy() > LIMIT, 2.0, 1.0)).to(s), ":opaque :detach"),
    "any of several": (lambda self, s: 2.0 if (s > LIMIT).any() else 1.0, ":gt :__gt__ :any :mul"),
    "a count": (lambda self, s: 1 + (s > LIMIT).sum(), ":gt :__gt__"),
    "both of two": (lambda self, s: 1 + torch.logical_and(s > LIMIT, s.flip(0) > -LIMIT), ":gt :__gt__ :logical_and"),
    "a layer": (one_of_two, ":__getitem__ :gt :__gt__"),
    "a function of TorchScript": (lambda self, s: scripted(s), ":opaque"),
    "a module of TorchScript": (lambda self, s: self.branch(s), "branch:opaque"),
    "a box": (lambda self, s: 1 + s - F.hardtanh(s, -1.0, LIMIT), ":hardtanh :add :sub"),
    "a bound": (lambda self, s: 1 + s - torch.minimum(s, limit(s)), ":minimum :add :sub"),
    "a remainder": (lambda self, s: 2 + s - torch.remainder(s + 1, 1 + LIMIT), ":remainder :add :sub"),
    "a threshold": (
        lambda self, s: 1 + (LIMIT - s) - F.threshold(LIMIT - s, 0.0, 7.0),
        ":threshold :_threshold :add :sub :rsub",
    ),
    "whole ones": (lambda self, s: 1 + torch.div(s + 1, 1 + LIMIT, rounding_mode="floor"), ":div :add"),
    "a root": (lambda self, s: 1 + torch.sqrt(LIMIT - s).nan_to_num(3.0).pow(2) - (LIMIT - s), ":nan_to_num :pow :add :sub"),
    "a power": (lambda self, s: 1 + without_nan((LIMIT - s) ** 0.5) ** 2 - (LIMIT - s), ":where :pow :add :sub"),
    "a logarithm": (lambda self, s: 1 + without_nan(torch.log(LIMIT - s)).exp() - (LIMIT - s), ":where :exp :add :sub"),
    "an angle": (lambda self, s: 1 + torch.acos(s / LIMIT).nan_to_num(3.0).cos() - s / LIMIT, ":nan_to_num :cos :add :sub"),
    "a derivative": (lambda self, s: torch.func.grad(lambda y: (y + F.relu(y - LIMIT)).sum())(s), ":opaque"),
    "a map": (lambda self, s: torch.func.vmap(lambda y: 1 + F.relu(y - LIMIT))(s), ":opaque"),
}


def scaled(factor: Factor, score: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        ways = nn.ModuleList([nn.Identity(), nn.Softplus()])
        return net(lambda self, x: x * factor(self, score(x)), ways=ways, branch=torch.jit.script(Scripted()))

    return make


def pairs() -> Iterator[Entry]:
    """Each by the lengths, and by the directions."""
    given: dict[str, Any] = {"inputs": constant(POINTS), "move": first(along(-1)), "carry": along(-1)}
    for name, (factor, fault) in FACTORS.items():
        yield Entry(f"{name} by lengths", "SO(3)", scaled(factor, size), label=SOUND, **given)
        named = f":matmul :__matmul__ {fault}"
        yield Entry(f"{name} by a direction", "SO(3)", scaled(factor, height), label=BROKEN, fault=named, **given)


ENTRIES = tuple(pairs())
