"""escnn's networks under quarter turns and flips: images and vector fields in and out, and faults between its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from escnn import gspaces
from escnn import nn as enn
from torch import Tensor, nn
from torch.nn import functional as F

from verdicts.actions import field, first, fixed, pixels
from verdicts.entry import BROKEN, SOUND, Action, Entry, told
from verdicts.parts import (
    made,
    normal,
)

SPACES = {"C(4)": gspaces.rot2dOnR2(4), "D(4)": gspaces.flipRot2dOnR2(4, axis=0.0)}
FIELD = field()


def types(group: str) -> dict[str, enn.FieldType]:
    space = SPACES[group]
    vector = space.irrep(1) if group == "C(4)" else space.irrep(1, 1)
    return {
        "scalar": enn.FieldType(space, [space.trivial_repr]),
        "vector": enn.FieldType(space, [vector]),
        "regular": enn.FieldType(space, 2 * [space.regular_repr]),
    }


class Steerable(nn.Module):
    """Two convolutions through regular fields; `act` is what stands between, `last` what is done to the output's pixels."""

    def __init__(self, group: str, source: str, target: str, act: Any = None, last: Any = None, **convolution: Any) -> None:
        super().__init__()
        kinds = types(group)
        self.source, hidden = kinds[source], kinds["regular"]
        settings = {"padding": 1} | convolution
        self.first = enn.R2Conv(self.source, hidden, 3, **settings)
        self.act = act or enn.ReLU(hidden)
        self.second = enn.R2Conv(hidden, kinds[target], 3, padding=1)
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(enn.GeometricTensor(x, self.source)))
        return self.last(self.second(h).tensor)


class OnChannels(nn.Module):
    """A function of the channels of a field, whatever their type."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleDict(parts)

    def forward(self, x: enn.GeometricTensor) -> enn.GeometricTensor:
        return enn.GeometricTensor(self.function(self, x.tensor), x.type)


class Typed(nn.Module):
    """One convolution to a representation on which quarter turns act as -1, or said to be to another `kind`."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        space = SPACES["C(4)"]
        self.source, self.target = types("C(4)")["scalar"], enn.FieldType(space, 2 * [space.irrep(2)])
        self.kind = enn.FieldType(space, 2 * [getattr(space, kind)]) if kind else self.target
        self.mix = enn.R2Conv(self.source, self.target, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, enn.GeometricTensor]:
        return {"field": enn.GeometricTensor(self.mix(enn.GeometricTensor(x, self.source)).tensor, self.kind)}


def flipped(g: Tensor, output: Any) -> Tensor:
    """A field whose sign quarter turns flip."""
    return pixels(g, output["field"].tensor) * (2 * float(g[0, 0]) ** 2 - 1)


def typed(name: str, kind: str = "", carry: Action = flipped, fault: str = "") -> Entry:
    inputs, label = normal((3, 1, 5, 5)), BROKEN if fault else SOUND
    return Entry(name, "C(4)", lambda: Typed(kind), inputs, first(pixels), carry, label, fault)


def steerable(
    name: str, source: str, target: str, fault: str = "", *, group: str = "C(4)", size: int = 9, **more: Any
) -> Entry:
    """A network of a batch of three; fields of vectors are told to be such."""
    kinds = {"scalar": pixels, "vector": FIELD, "pooled": fixed}
    channels = {"scalar": 1, "vector": 2}[source]
    carry = kinds["pooled" if "last" in more and target == "scalar" else target]
    entry = Entry(
        name,
        group,
        lambda: Steerable(group, source, target, **{key: make() for key, make in more.items()}),
        normal((3, channels, size, size)),
        first(kinds[source]),
        carry,
        BROKEN if fault else SOUND,
        fault,
    )
    return told(entry) if source == "vector" else entry


def head() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 4))


def flattened() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(81, 4))


def shuffled() -> nn.Module:
    return OnChannels(lambda self, x: torch.relu(x[:, [1, 0, 2, 3, 4, 5, 6, 7]]))


ENTRIES = (
    typed("a field that quarter turns flip"),
    typed(
        "a field that quarter turns flip, said to be of scalars",
        "trivial_repr",
        lambda g, output: pixels(g, output["field"].tensor),
        "mix:conv2d",
    ),
    steerable("image to image", "scalar", "scalar"),
    steerable("image to image under flips", "scalar", "scalar", group="D(4)"),
    steerable("image to classes", "scalar", "scalar", last=head),
    steerable("image to vectors", "scalar", "vector"),
    steerable("vectors to image", "vector", "scalar"),
    steerable("vectors to vectors", "vector", "vector"),
    steerable("vectors to vectors under flips", "vector", "vector", group="D(4)"),
    steerable("batch norm of fields", "scalar", "vector", act=lambda: enn.InnerBatchNorm(types("C(4)")["regular"])),
    steerable(
        "layers between that mix orientations",
        "scalar",
        "scalar",
        "act.parts.mix:conv2d",
        act=lambda: OnChannels(lambda self, x: self.parts["mix"](x).relu(), mix=nn.Conv2d(8, 8, 1)),
    ),
    steerable(
        "a free convolution between",
        "scalar",
        "vector",
        "act.parts.conv:conv2d",
        act=lambda: OnChannels(lambda self, x: self.parts["conv"](x), conv=nn.Conv2d(8, 8, 3, padding=1)),
    ),
    steerable("orientations in another order", "scalar", "scalar", "act:__getitem__ second:conv2d act:relu", act=shuffled),
    steerable("stride two on an even size", "scalar", "scalar", "first:conv2d", size=8, stride=lambda: 2),
    steerable("flattened at the end", "scalar", "scalar", "last.1:linear", last=flattened),
    steerable("relu on vectors at the end", "vector", "vector", "last:relu", last=nn.ReLU),
    steerable("max pooling on an odd size", "vector", "vector", "last:max_pool2d", last=made(nn.MaxPool2d, 2)),
    steerable(
        "a border of one side",
        "scalar",
        "scalar",
        "act:pad :pad",
        act=lambda: OnChannels(lambda self, x: F.pad(x, (1, 0, 1, 0))),
    ),
)
