"""Faults of one line planted behind a layer of a sound model, each with the operation and the kind of its cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.degrees import ENTRIES as DEGREES
from zoo.entry import Entry
from zoo.gvp import ENTRIES as GVPS
from zoo.painn import ENTRIES as PAINN
from zoo.scripted import ENTRIES as SCRIPTED
from zoo.segnn import ENTRIES as SEGNN
from zoo.tensornet import ENTRIES as TENSORNET
from zoo.vectors import ENTRIES as VECTORS_OF_OTHERS
from zoo.vn_pointnet import ENTRIES as VN_POINTNET

ESCN = next(entry for entry in DEGREES if entry.name == "eSCN")
NEWTONNET = next(entry for entry in SCRIPTED if entry.name == "NewtonNet")
LORENTZNET = next(entry for entry in VECTORS_OF_OTHERS if entry.name == "LorentzNet")

Function = Callable[[Tensor], Tensor]


class Fault(nn.Module):
    """What a careless line does to the features that pass through."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, v: Tensor) -> Tensor:
        return self.function(v)


class Behind(nn.Module):
    """A layer, and a fault behind it."""

    def __init__(self, layer: nn.Module, function: Function) -> None:
        super().__init__()
        self.layer = layer
        self.fault = Fault(function)

    def forward(self, *args: Tensor) -> Tensor:
        return self.fault(self.layer(*args))


@dataclass(frozen=True)
class Planted:
    """A fault behind the module at `layer` of a model: it breaks at a call of `op`, for a cause of this kind."""

    entry: Entry
    layer: str
    function: Function
    op: str
    kind: str
    training: bool = False

    @property
    def where(self) -> str:
        return f"{self.layer}.fault"

    def make(self) -> nn.Module:
        model = self.entry.make()
        owner, _, name = self.layer.rpartition(".")
        holder = model.get_submodule(owner)
        setattr(holder, name, Behind(getattr(holder, name), self.function))
        return model


def pseudovector_added(v: Tensor) -> Tensor:
    return v + torch.linalg.cross(v, v.roll(1, -1), dim=1)


def mixed(v: Tensor) -> Tensor:
    return torch.einsum("ji,nic->njc", torch.arange(9.0).reshape(3, 3).to(v) + torch.eye(3).to(v), v)


def in_frame(v: Tensor) -> Tensor:
    """F (F v), with a frame F of three of the vectors, where F (F^T v) was meant."""
    frame = v[:, :, :3]
    return v + torch.bmm(frame, torch.bmm(frame, v))


def cancelled(v: Tensor) -> Tensor:
    return (v + 1e6) - 1e6


def along(axis: int, values: Tensor) -> Callable[[Tensor], Tensor]:
    """The values laid along an axis of a tensor."""

    def like(v: Tensor) -> Tensor:
        return values.to(v).reshape([-1 if i == axis % v.ndim else 1 for i in range(v.ndim)])

    return like


up, scale = along(1, torch.tensor([0.0, 0.0, 1.0])), along(1, torch.tensor([1.0, 2.0, 3.0]))

# behind U of PaiNN's first update: vectors [atoms, 3, channels]
VECTORS: dict[str, tuple[Function, str, str]] = {
    "relu": (F.relu, "relu", "nonlinearity"),
    "tanh": (torch.tanh, "tanh", "nonlinearity"),
    "gated by itself": (lambda v: v * torch.sigmoid(v), "sigmoid", "nonlinearity"),
    "clamped": (lambda v: v.clamp(-0.2, 0.2), "clamp", "nonlinearity"),
    "absolute value": (torch.abs, "abs", "nonlinearity"),
    "squared": (lambda v: v.square(), "square", "nonlinearity"),
    "fixed direction": (lambda v: v + up(v), "add", "bias"),
    "fixed scales": (lambda v: v * scale(v), "mul", "constant"),
    "layer norm over components": (lambda v: F.layer_norm(v.mT, (3,)).mT, "layer_norm", "normalisation"),
    "softmax over components": (lambda v: v.softmax(1), "softmax", "normalisation"),
    "one component": (lambda v: v[:, 2:].expand_as(v), "__getitem__", "selection"),
    "largest component": (lambda v: v.amax(1, keepdim=True).expand_as(v), "amax", "comparison"),
    "sorted components": (lambda v: v.sort(1)[0], "sort", "comparison"),
    "mean of components": (lambda v: v - v.mean(1, keepdim=True), "mean", "reduction"),
    "length over channels": (lambda v: v * v.norm(dim=2, keepdim=True), "norm", "reduction"),
    "components mixed": (mixed, "einsum", "mixing"),
    "pseudovector added": (pseudovector_added, "add", "parity"),
    "R for R^T": (in_frame, "bmm", "convention"),
    "rounded away": (cancelled, "sub", "rounding"),
}

FAULTS = {
    **{f"PaiNN, {name}": Planted(PAINN[0], "layers.0.update.U", *how) for name, how in VECTORS.items()},
    "PaiNN, dropout on components": Planted(
        PAINN[0], "layers.0.update.U", lambda v: F.dropout(v, 0.3), "dropout", "dropout", training=True
    ),
    "VN-PointNet, bias": Planted(
        VN_POINTNET[0], "feat.conv3", lambda x: x + along(2, torch.tensor([1.0, 0.0, 0.0]))(x), "add", "bias"
    ),
    "VN-PointNet, leaky relu": Planted(VN_POINTNET[0], "feat.conv2", F.leaky_relu, "leaky_relu", "nonlinearity"),
    "VN-PointNet, largest over points": Planted(
        VN_POINTNET[0], "feat.conv1", lambda x: x.amax(-1, keepdim=True).expand_as(x), "amax", "comparison"
    ),
    "GVP, gelu": Planted(GVPS[0], "layers.1.update.0.wu", F.gelu, "gelu", "nonlinearity"),
    "GVP, batch norm": Planted(
        GVPS[0], "layers.0.message.0.wh", lambda v: F.batch_norm(v, None, None, training=True), "batch_norm", "normalisation"
    ),
    "TensorNet, bias": Planted(TENSORNET[0], "layers.0.before.parts.2", lambda x: x + 0.1, "add", "bias"),
    "TensorNet, absolute value": Planted(TENSORNET[0], "layers.0.before.parts.1", torch.abs, "abs", "nonlinearity"),
    "TensorNet, upper triangle": Planted(
        TENSORNET[0], "layers.1.after.parts.2", lambda x: x.movedim(-1, 0).triu().movedim(0, -1), "triu", "selection"
    ),
    "eSCN, bias": Planted(ESCN, "mix", lambda v: v + 0.1, "add", "bias"),
    "NewtonNet, relu": Planted(NEWTONNET, "blocks.0.mix", F.relu, "relu", "nonlinearity"),
    "LorentzNet, relu": Planted(LORENTZNET, "total", F.relu, "relu", "nonlinearity"),
    "SEGNN, tanh": Planted(SEGNN[0], "layers.1.update_2", torch.tanh, "tanh", "nonlinearity"),
    "SEGNN, layer norm": Planted(
        SEGNN[0], "layers.0.update_2", lambda x: F.layer_norm(x, x.shape[-1:]), "layer_norm", "normalisation"
    ),
}
