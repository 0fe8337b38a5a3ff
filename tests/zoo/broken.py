"""Sound architectures of the zoo with one fault planted in each: they claim a group and do not commute with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.deepsets import ENTRIES as DEEPSETS
from zoo.entry import Entry
from zoo.equiformer import ENTRIES as EQUIFORMER
from zoo.gvp import ENTRIES as GVPS
from zoo.gvp import GVP, Tuple, length
from zoo.painn import ENTRIES as PAINN
from zoo.painn import Update
from zoo.segnn import ENTRIES as SEGNN
from zoo.vn_dgcnn import ENTRIES as VN_DGCNN
from zoo.vn_pointnet import ENTRIES as VN_POINTNET
from zoo.vn_transformer_like import ENTRIES as VN_TRANSFORMER
from zoo.weights import generic_norms


@dataclass(frozen=True)
class Broken:
    """A model that breaks the symmetry it claims.

    A person would say that it breaks where the forward of the module at `where` calls the torch function `op`. That does
    not reach `entry.expected` and `entry.invariant`; the other learned ops of `sound` read what it has `spoilt`.
    """

    entry: Entry
    sound: Entry
    where: str
    op: str
    spoilt: frozenset[str]


def broken(name: str, sound: Entry, plant: Callable[[nn.Module], None], *, where: str, op: str, untouched: str) -> Broken:
    """The model `sound` with the fault that `plant` puts in; `untouched` is a pattern of the ops that it does not reach."""

    def make() -> nn.Module:
        model = sound.make()
        plant(model)
        return model

    def before(paths: frozenset[str]) -> frozenset[str]:
        return frozenset(path for path in paths if re.fullmatch(untouched, path))

    without_effect = {path: reason for path, reason in sound.without_effect.items() if re.fullmatch(untouched, path)}
    entry = replace(
        sound,
        name=name,
        make=make,
        expected=before(sound.expected),
        invariant=before(sound.invariant),
        without_effect=without_effect,
        notes=f"{sound.name}, spoilt by {op} at {where}",
    )
    learned = sound.expected | sound.invariant
    return Broken(entry, sound, where, op, learned - entry.expected - entry.invariant - {where})


def bias_on_vectors(model: nn.Module) -> None:
    model.layers[0].update.U = nn.Linear(8, 8)


def layer_norm_over_components(model: nn.Module) -> None:
    model.layers[0].attention_norm = nn.LayerNorm(8)


class ReluGVP(GVP):
    def forward(self, s: Tensor, v: Tensor) -> Tuple:
        s, v = super().forward(s, v)
        return s, F.relu(v)


def relu_on_components(model: nn.Module) -> None:
    model.layers[0].update[0] = ReluGVP(8, 5, 16, 10)


class HighestNeighbour(nn.Module):
    """Of each point's neighbours the one with the largest z."""

    def forward(self, x: Tensor) -> Tensor:
        highest = x[:, :, 2].argmax(dim=-1)
        return torch.take_along_dim(x, highest[:, :, None, :, None], dim=-1).squeeze(-1)


def hard_coded_axis(model: nn.Module) -> None:
    model.feat.pool = HighestNeighbour()


class ComponentBatchNorm(nn.Module):
    """Batch norm of x, y and z as if they were channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x.flatten(1, 2)).view_as(x)


def batch_norm_over_components(model: nn.Module) -> None:
    model.conv3.batchnorm = generic_norms(ComponentBatchNorm(model.conv3.map_to_feat.out_features))


class UntransposedGVP(GVP):
    """W_h acts on components, not on channels, of which there are as many.

    It is invertible, so what it returns still transforms, by W_h g W_h^-1; lengths taken of that do not.
    """

    def forward(self, s: Tensor, v: Tensor) -> Tuple:
        vh = self.wh(v)
        vu = self.wu(vh).transpose(-1, -2)
        return self.ws(torch.cat([s, length(vh, dim=-2)], dim=-1)), vu


def swapped_axes(model: nn.Module) -> None:
    model.head = UntransposedGVP(8, 3, 4, 1)


class CrossUpdate(Update):
    """Adds U v x V v, which a reflection turns the other way, to v."""

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        cross = torch.linalg.cross(self.U(v), self.V(v), dim=1)
        s, v = super().forward(s, v)
        return s, v + cross


def wrong_parity(model: nn.Module) -> None:
    model.layers[0].update = CrossUpdate(8)


class ElementwiseGate(nn.Module):
    """The same activation on every component of every irrep; the gates are dropped."""

    def __init__(self, scalars: int, gates: int) -> None:
        super().__init__()
        self.scalars, self.gates = scalars, gates

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.cat([x[:, : self.scalars], x[:, self.scalars + self.gates :]], dim=1))


def activation_on_irreps(model: nn.Module) -> None:
    model.layers[0].message_2.gate = ElementwiseGate(scalars=4, gates=4)


class FullBias(nn.Module):
    """A bias on every component of every irrep."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def bias_on_irreps(model: nn.Module) -> None:
    model.blocks[0].attention.proj.bias = FullBias(model.norm.irreps.dim)


class SetAxisLinear(nn.Module):
    """A tanh of a free linear map W between the elements of the set, whose output still transforms, by W g W^-1."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n, n)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x.mT).mT)


def linear_on_the_set_axis(model: nn.Module) -> None:
    model.layers[1] = SetAxisLinear(5)


BROKEN = {
    case.entry.name: case
    for case in (
        broken(
            "bias on vectors",
            PAINN[0],
            bias_on_vectors,
            where="layers.0.update.U",
            op="linear",
            untouched=r".*\.filter|layers\.0\.(message.*|update\.(V|a\.0|a\.2))",
        ),
        broken(
            "layer norm over components",
            VN_TRANSFORMER[0],
            layer_norm_over_components,
            where="layers.0.attention_norm",
            op="layer_norm",
            untouched=r"embed\.weight|layers\.0\.attention\..*",
        ),
        broken(
            "relu on components",
            GVPS[0],
            relu_on_components,
            where="layers.0.update.0",
            op="relu",
            untouched=r"(node|edge|layers\.0\.message\.\d|layers\.0\.update\.0)\..*",
        ),
        broken(
            "hard coded axis",
            VN_POINTNET[0],
            hard_coded_axis,
            where="feat.pool",
            op="__getitem__",
            untouched=r"feat\.conv_pos\..*",
        ),
        broken(
            "batch norm over components",
            VN_DGCNN[1],
            batch_norm_over_components,
            where="conv3.batchnorm.bn",
            op="batch_norm",
            untouched=r"(conv[123]|pool[12])\..*",
        ),
        broken(
            "swapped axes",
            GVPS[1],
            swapped_axes,
            where="head.wh",
            op="linear",
            untouched=r"(node|edge|layers)\..*",
        ),
        broken(
            "wrong parity",
            PAINN[0],
            wrong_parity,
            where="layers.0.update",
            op="add",
            untouched=r".*\.message\..*|layers\.0\..*",
        ),
        broken(
            "activation on irreps",
            SEGNN[0],
            activation_on_irreps,
            where="layers.0.message_2.gate",
            op="relu",
            untouched=r"embedding\..*|layers\.0\.message_\d\..*",
        ),
        broken(
            "bias on irreps",
            EQUIFORMER[0],
            bias_on_irreps,
            where="blocks.0.attention.proj.bias",
            op="add",
            untouched=r"(embedding|edge_degree).*|.*\.radial\..*|blocks\.0\.attention\..*",
        ),
        broken(
            "free linear on the set axis",
            DEEPSETS[0],
            linear_on_the_set_axis,
            where="layers.1.linear",
            op="linear",
            untouched=r"layers\.0\..*",
        ),
    )
}
