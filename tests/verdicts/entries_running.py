"""How models run: compiled, wrapped, scripted, made in their first run, in one precision alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from verdicts.actions import along, first
from verdicts.entry import BROKEN, SOUND, Entry
from verdicts.parts import linear, normal, parameter
from verdicts.vector_models import after, gated

VECTORS = along(-2)


def running(name: str, make: Callable[[], nn.Module], fault: str = "", **more: Any) -> Entry:
    label = BROKEN if fault else SOUND
    given = {"inputs": normal((11, 3)), "move": first(along(-1)), "label": label, "fault": fault, "group": "SO(3)"}
    return Entry(name, make=make, carry=VECTORS, **(given | more))


GATED = after(lambda self, v: gated(self, self.out(v)), out=linear(), gate=linear(bias=True))
RELU = after(lambda self, v: self.out(torch.relu(v)), out=linear())


def made_at_first(self: nn.Module, v: Tensor) -> Tensor:
    if not hasattr(self, "out"):
        self.out = nn.Linear(v.shape[-1], 4, bias=False, dtype=v.dtype)
    return self.out(v)


def made_at_first_with_a_bias(self: nn.Module, v: Tensor) -> Tensor:
    if not hasattr(self, "out"):
        self.out = nn.Linear(v.shape[-1], 4, dtype=v.dtype)
    return self.out(v)


@torch.compile(backend="eager")
def compiled(v: Tensor) -> Tensor:
    return v * v.square().sum(1, keepdim=True).sqrt()


@torch.compile(backend="eager")
def compiled_relu(v: Tensor) -> Tensor:
    return torch.relu(v)


def in_float32_alone(self: nn.Module, v: Tensor) -> Tensor:
    if v.dtype != torch.float32:
        raise TypeError("this kernel takes float32")
    return gated(self, v)


def by_an_old_constructor(self: nn.Module, v: Tensor) -> Tensor:
    return torch.FloatTensor(v.shape).zero_().add_(gated(self, v).float())


def leaking(size: float) -> Callable[[], nn.Module]:
    """Components of different sizes by a small part."""
    return after(lambda self, v: v * (1 + size * self.w[:, None]), w=lambda: parameter(3))


def in_(dtype: torch.dtype, make: Callable[[], nn.Module]) -> dict[str, Any]:
    return {"make": lambda: make().to(dtype), "inputs": lambda: (torch.randn(11, 3).to(dtype),), "refusal": "too coarse"}


ENTRIES = (
    running("compiled", lambda: torch.compile(GATED(), backend="eager"), refusal="already wrapped by torch.compile"),
    running("compiled, with relu", lambda: torch.compile(RELU(), backend="eager"), ":relu", refusal="already wrapped"),
    running("wrapped for data parallelism", lambda: nn.DataParallel(GATED()), refusal="already wrapped by DataParallel"),
    running("wrapped for data parallelism, with relu", lambda: nn.DataParallel(RELU()), ":relu", refusal="already wrapped"),
    running("a compiled function within", after(lambda self, v: compiled(v))),
    running("a compiled function within that breaks", after(lambda self, v: compiled_relu(v)), ":relu"),
    running("traced", lambda: torch.jit.trace(GATED(), torch.randn(11, 3)), refusal="TorchScript"),
    running("a layer made in the first run", after(made_at_first)),
    running("a layer made in the first run, with a bias", after(made_at_first_with_a_bias), "out:linear"),
    running("float32 alone", after(in_float32_alone, gate=linear()), precision=torch.float32),
    running("an old constructor of float32", after(by_an_old_constructor, gate=linear()), precision=torch.float32),
    running("bfloat16 with a small fault", fault=":mul", **in_(torch.bfloat16, leaking(1e-2))),
    running("float16 with a small fault", fault=":mul", **in_(torch.float16, leaking(3e-3))),
)
