"""Irreps under O(3) and SO(3): layers of e3nn, axes in other orders, other bases, features in and out, edge frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from e3nn import nn as enn
from e3nn import o3
from torch import Tensor, nn
from torch.nn import functional as F

from verdicts.actions import acting_on, along, first, fixed, irreps, irreps_matrix, through
from verdicts.entry import BROKEN, LATENT, SOUND, Action, Entry
from verdicts.parts import (
    generic_layer_norm,
    linear,
    made,
    mlp,
    normal,
    parameter,
    plain,
    trained,
)
from verdicts.vector_models import around, centred, complex_vector

HARMONICS = "1x0e+1x1o+1x2e"
HIDDEN = "3x0e+2x1o+1x2e"


def of_points(name: str, make: Callable[[], nn.Module], carry: Action = fixed, fault: str = "", **more: Any) -> Entry:
    """A model of eleven points of which it takes spherical harmonics."""
    given = {"group": "O(3)", "inputs": normal((11, 3)), "label": BROKEN if fault else SOUND, "fault": fault}
    return Entry(name, make=make, move=first(along(-1)), carry=carry, **(given | more))


def of_features(
    name: str, notation: str, make: Callable[[], nn.Module], carry: Action = fixed, fault: str = "", **more: Any
) -> Entry:
    """A model of features with these irreps, which a user names."""
    size = o3.Irreps(notation).dim
    given = {"group": "O(3)", "inputs": normal((9, size)), "label": BROKEN if fault else SOUND, "fault": fault}
    move = first(irreps(notation))
    return Entry(name, make=make, move=move, carry=carry, irreps={"x": notation}, **(given | more))


def harmonics(x: Tensor, degrees: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    return o3.spherical_harmonics(list(degrees), x, normalize=False, normalization="component")


def channels(*layers: tuple[str, str]) -> dict[str, Callable[[], nn.Module]]:
    return {f"lin{i}": made(o3.Linear, *pair) for i, pair in enumerate(layers)}


def tensor_product(self: nn.Module, x: Tensor) -> Tensor:
    y = harmonics(centred(x))
    return self.tp(self.lin0(y), y)


UP = {"lin0": made(o3.Linear, HARMONICS, HIDDEN)}
PRODUCT = {**UP, "tp": made(o3.FullyConnectedTensorProduct, HIDDEN, HARMONICS, HIDDEN)}


def gate() -> nn.Module:
    return enn.Gate("3x0e", [torch.tanh], "3x0e", [torch.sigmoid], "2x1o+1x2e")


def gated(self: nn.Module, x: Tensor) -> Tensor:
    return self.lin1(self.gate(self.lin0(harmonics(x))))


GATED = {"lin0": made(o3.Linear, HARMONICS, "6x0e+2x1o+1x2e"), "gate": gate, "lin1": made(o3.Linear, HIDDEN, HIDDEN)}


def reordered(order: list[int], function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda self, x: function(self, x[:, order])


def permuted(notation: str, order: list[int]) -> Action:
    """What features of these irreps become where the axes were handed over in another order."""
    p = torch.eye(3, dtype=torch.float64)[order]
    return through(lambda g: irreps_matrix(notation, p @ g @ p.mT), -1)


def textbook(x: Tensor) -> Tensor:
    """l = 2 by m = -2 .. 2 with z as the polar axis: xy, yz, 3 z^2 - r^2, xz, x^2 - y^2."""
    x, y, z = x.unbind(-1)
    parts = (x * y, y * z, (2 * z**2 - x**2 - y**2) / math.sqrt(12), x * z, (x**2 - y**2) / 2)
    return torch.stack(parts, -1)


def quadrupole(x: Tensor) -> Tensor:
    r = centred(x)
    return torch.einsum("ni,nj->nij", r, r) - torch.eye(3).to(x) * r.square().sum(-1)[:, None, None] / 3


def edge_frames(r: Tensor) -> Tensor:
    """A rotation of each edge that carries it to the last axis; where it turns about it is arbitrary."""
    e = F.normalize(r, dim=-1)
    helper = torch.where(e[..., :1].abs() < 0.7, torch.eye(3)[0].to(r), torch.eye(3)[1].to(r))
    a = F.normalize(torch.linalg.cross(e, helper), dim=-1)
    return torch.stack([a, torch.linalg.cross(e, a), e], -2)


def edge_convolution(weights: Callable[[nn.Module, Tensor], Tensor]) -> Callable[..., Tensor]:
    """eSCN's way: into the frames of the edges, a map there, and back."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        r = x[:, None] - x[None] + 1e-3 * torch.linalg.cross(x[:, None], x[None])
        frames = edge_frames(r)
        local = torch.einsum("ijab,jb->ija", frames, centred(x))
        keep = (~torch.eye(len(x), dtype=torch.bool))[..., None].to(x)
        return (keep * torch.einsum("ijab,ija->ijb", frames, weights(self, local))).sum(1)

    return forward


def about_the_axis(self: nn.Module, local: Tensor) -> Tensor:
    """What commutes with turns about the last axis."""
    a, b, c = local.unbind(-1)
    return torch.stack([self.w[0] * a - self.w[1] * b, self.w[1] * a + self.w[0] * b, self.w[2] * c], -1)


def any_map(self: nn.Module, local: Tensor) -> Tensor:
    return local @ self.w


def sign_of_one(x: Tensor) -> Tensor:
    """l = 2 with one component's sign as another library has it."""
    return harmonics(x) * torch.tensor([1, 1, 1, 1, -1, 1, 1, 1, 1]).to(x)


def biased(self: nn.Module, x: Tensor) -> Tensor:
    return self.lin1(self.lin0(harmonics(x)) + self.bias)


ENTRIES = (
    of_points("linear", plain(lambda self, x: self.lin0(harmonics(x)), **UP), irreps(HIDDEN)),
    of_points("tensor product", plain(tensor_product, **PRODUCT), irreps(HIDDEN)),
    of_points("gate", plain(gated, **GATED), irreps(HIDDEN)),
    of_points("gate trained", trained(plain(gated, **GATED), 5), irreps(HIDDEN)),
    of_points(
        "norm activation",
        plain(lambda self, x: self.act(self.lin0(harmonics(x))), **UP, act=made(enn.NormActivation, HIDDEN, torch.sigmoid)),
        irreps(HIDDEN),
    ),
    of_points(
        "batch norm of irreps",
        plain(
            lambda self, x: self.lin1(self.bn(self.lin0(harmonics(x)))),
            **UP,
            bn=made(enn.BatchNorm, HIDDEN),
            lin1=made(o3.Linear, HIDDEN, "1x1o"),
        ),
        irreps("1x1o"),
        training=True,
    ),
    of_points(
        "scalars of a product",
        plain(lambda self, x: self.out(tensor_product(self, x)).sum(0), **PRODUCT, out=made(o3.Linear, HIDDEN, "3x0e")),
    ),
    of_points(
        "parities that turn out right",
        plain(
            lambda self, x: self.tp(around(x)[..., 0], around(x)[..., 1]),
            tp=made(o3.FullyConnectedTensorProduct, "1o", "1o", "2x0e+1e+2e"),
        ),
        irreps("2x0e+1e+2e"),
    ),
    of_points(
        "e3nn fed y, z, x, scalars out",
        plain(
            reordered([1, 2, 0], lambda self, x: self.out(tensor_product(self, x))),
            **PRODUCT,
            out=made(o3.Linear, HIDDEN, "3x0e"),
        ),
    ),
    of_points(
        "e3nn fed y, z, x, features out", plain(reordered([1, 2, 0], tensor_product), **PRODUCT), permuted(HIDDEN, [1, 2, 0])
    ),
    of_points("e3nn fed z, y, x, features out", plain(reordered([2, 1, 0], gated), **GATED), permuted(HIDDEN, [2, 1, 0])),
    of_points(
        "textbook l = 2 out",
        plain(lambda self, x: self.mix(textbook(x)[..., None]), mix=linear(1, 3)),
        through(acting_on(textbook), -2),
    ),
    of_points(
        "textbook l = 2 by lengths",
        plain(lambda self, x: self.head(textbook(x).norm(dim=-1, keepdim=True)), head=lambda: mlp(1, 2)),
    ),
    of_points(
        "textbook l = 2 through channels of e3nn",
        plain(lambda self, x: self.lin0(textbook(x)), lin0=made(o3.Linear, "1x2e", "3x2e")),
        through(lambda g: torch.block_diag(*[acting_on(textbook)(g)] * 3), -1),
    ),
    of_points(
        "complex harmonics by lengths",
        plain(lambda self, x: self.head(complex_vector(x).abs().square().sum(-1, keepdim=True)), head=lambda: mlp(1, 2)),
    ),
    of_points(
        "power spectrum of complex harmonics",
        plain(lambda self, x: (complex_vector(x).sum(0) * complex_vector(x).sum(0).conj()).sum().real),
    ),
    of_points("traceless matrices", plain(lambda self, x: torch.matrix_exp(0.1 * quadrupole(x))), along(-1, -2)),
    of_points(
        "edge frames with turns about the edge",
        plain(edge_convolution(about_the_axis), w=lambda: parameter(3)),
        along(-1),
        group="SO(3)",
    ),
    of_points(
        "degree three",
        plain(
            lambda self, x: self.tp(harmonics(x, (1, 3)), harmonics(x, (2,))),
            tp=made(o3.FullyConnectedTensorProduct, "1o+3o", "2e", "0o+2x1o+3o"),
        ),
        irreps("0o+2x1o+3o"),
    ),
    of_features(
        "features in, features out",
        HIDDEN,
        plain(lambda self, x: self.lin0(x), lin0=made(o3.Linear, HIDDEN, HIDDEN)),
        irreps(HIDDEN),
    ),
    of_features(
        "features squared",
        HIDDEN,
        plain(lambda self, x: self.tp(x, x), tp=made(o3.FullyConnectedTensorProduct, HIDDEN, HIDDEN, "2x0e+1x1o+1x3o")),
        irreps("2x0e+1x1o+1x3o"),
    ),
    of_features(
        "features to scalars",
        "4x0e+4x1o",
        plain(
            lambda self, x: self.head(torch.cat([x[:, :4], x[:, 4:].unflatten(-1, (4, 3)).norm(dim=-1)], -1)),
            head=lambda: mlp(8, 2),
        ),
    ),
    of_features(
        "features gated",
        "2x0e+6x1e",
        plain(lambda self, x: x * self.gate(x[:, :2]), gate=lambda: mlp(2, 1)),
        irreps("2x0e+6x1e"),
    ),
    of_features(
        "irreps in training with their dropout",
        HIDDEN,
        plain(lambda self, x: self.drop(x), drop=made(enn.Dropout, HIDDEN, 0.5)),
        irreps(HIDDEN),
        training=True,
    ),
    of_points(
        "bias on irreps",
        plain(biased, **UP, bias=lambda: parameter(14), lin1=made(o3.Linear, HIDDEN, HIDDEN)),
        irreps(HIDDEN),
        ":add",
    ),
    of_points(
        "tanh on irreps",
        plain(lambda self, x: self.lin1(torch.tanh(self.lin0(harmonics(x)))), **UP, lin1=made(o3.Linear, HIDDEN, HIDDEN)),
        irreps(HIDDEN),
        ":tanh",
    ),
    of_points(
        "layer norm over irreps",
        plain(
            lambda self, x: self.lin1(self.norm(self.lin0(harmonics(x)))),
            **UP,
            norm=generic_layer_norm(14),
            lin1=made(o3.Linear, HIDDEN, HIDDEN),
        ),
        irreps(HIDDEN),
        "norm:layer_norm",
    ),
    of_points(
        "dense linear over irreps",
        plain(
            lambda self, x: self.lin1(self.dense(self.lin0(harmonics(x)))),
            **UP,
            dense=linear(14, 14),
            lin1=made(o3.Linear, HIDDEN, HIDDEN),
        ),
        irreps(HIDDEN),
        "dense:linear",
    ),
    of_points(
        "channels and components interchanged",
        plain(
            lambda self, x: self.head(self.lin0(x).unflatten(-1, (3, 4)).norm(dim=1)),
            lin0=made(o3.Linear, "1o", "4x1o"),
            head=lambda: mlp(4, 2),
        ),
        fixed,
        ":norm :unflatten :linalg_vector_norm",
    ),
    of_points(
        "textbook l = 2 in e3nn's product",
        plain(
            lambda self, x: self.tp(textbook(x), harmonics(x)),
            tp=made(o3.FullyConnectedTensorProduct, "2e", HARMONICS, "2x0e+2x1o"),
        ),
        irreps("2x0e+2x1o"),
        "tp._compiled_main_left_right:einsum tp._compiled_main_left_right:tensordot",
    ),
    of_points(
        "one sign of l = 2",
        plain(
            lambda self, x: self.tp(sign_of_one(x), sign_of_one(x)),
            tp=made(o3.FullyConnectedTensorProduct, HARMONICS, HARMONICS, "2x0e+2x1o"),
        ),
        irreps("2x0e+2x1o"),
        "tp._compiled_main_left_right:einsum tp._compiled_main_left_right:tensordot :mul",
    ),
    of_points(
        "y, z, x on one side alone",
        plain(
            lambda self, x: self.tp(harmonics(x[:, [1, 2, 0]]), harmonics(x)),
            tp=made(o3.FullyConnectedTensorProduct, HARMONICS, HARMONICS, "2x0e+2x1o"),
        ),
        irreps("2x0e+2x1o"),
        "tp._compiled_main_left_right:einsum :__getitem__",
    ),
    of_points(
        "wrong parity",
        plain(
            lambda self, x: self.lin0(torch.linalg.cross(*around(x).unbind(-1))) + self.lin1(x),
            lin0=made(o3.Linear, "1o", "1o"),
            lin1=made(o3.Linear, "1o", "1o"),
        ),
        irreps("1o"),
        ":add",
    ),
    of_points(
        "odd scalars in an mlp",
        plain(
            lambda self, x: self.head(self.tp(x, torch.linalg.cross(*around(x).unbind(-1)))),
            tp=made(o3.FullyConnectedTensorProduct, "1o", "1o", "4x0e"),
            head=lambda: mlp(4, 2),
        ),
        fixed,
        "head.0:linear head.1:silu",
    ),
    of_points(
        "activation on a coarse grid of the sphere",
        plain(lambda self, x: self.act(harmonics(x)), act=made(enn.S2Activation, HARMONICS, torch.relu, 6, lmax_out=2)),
        irreps(HARMONICS),
        "act:relu act.act:relu :relu act.from_s2:einsum act.to_s2:einsum",
    ),
    of_points(
        "norms of a slice across irreps",
        plain(lambda self, x: self.head(harmonics(x)[:, 2:5].norm(dim=-1, keepdim=True)), head=lambda: mlp(1, 2)),
        fixed,
        ":__getitem__ :norm",
    ),
    of_points(
        "edge frames with any map",
        plain(edge_convolution(any_map), w=lambda: parameter(3, 3)),
        along(-1),
        ":__getitem__ :where :linalg_cross :matmul :__matmul__ :einsum",
        group="SO(3)",
    ),
    of_points(
        "five numbers of a traceless matrix",
        plain(
            lambda self, x: self.head(
                torch.stack([quadrupole(x)[:, 0, 0], quadrupole(x)[:, 0, 1], quadrupole(x)[:, 1, 2]], -1)
            ),
            head=lambda: mlp(3, 2),
        ),
        fixed,
        ":__getitem__ :stack",
    ),
    of_points(
        "largest component of l = 2",
        plain(lambda self, x: self.head(harmonics(x, (2,)).amax(-1, keepdim=True)), head=lambda: mlp(1, 2)),
        fixed,
        ":amax",
    ),
    of_features(
        "features with a bias",
        HIDDEN,
        plain(lambda self, x: self.lin0(x + self.bias), bias=lambda: parameter(14), lin0=made(o3.Linear, HIDDEN, HIDDEN)),
        irreps(HIDDEN),
        ":add",
    ),
    of_features("features through relu", "4x0e+4x1o", plain(lambda self, x: torch.relu(x)), irreps("4x0e+4x1o"), ":relu"),
    of_features(
        "features read in another layout",
        "4x0e+4x1o",
        plain(lambda self, x: self.head(x[:, 4:].unflatten(-1, (3, 4)).norm(dim=1)), head=lambda: mlp(4, 2)),
        fixed,
        ":norm :unflatten :linalg_vector_norm",
    ),
    of_features(
        "a bias on irreps that is zero",
        "4x0e+4x1o",
        plain(
            lambda self, x: self.lin0(x + self.bias),
            bias=lambda: nn.Parameter(torch.zeros(16)),
            lin0=made(o3.Linear, "4x0e+4x1o", "2x1o"),
        ),
        irreps("2x1o"),
        ":add",
        label=LATENT,
    ),
)
