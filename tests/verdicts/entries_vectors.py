"""Vectors of points (atoms, 3) under SO(3) and O(3): Vector Neurons, PaiNN, EGNN, frames, cross products, forces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from verdicts.actions import along, each, first, fixed, pseudoscalar, pseudovector
from verdicts.entry import BROKEN, Action, Entry, claimed
from verdicts.parts import (
    generic_batch_norm,
    generic_layer_norm,
    linear,
    made,
    mlp,
    normal,
    parameter,
    plain,
    trained,
)
from verdicts.vector_models import (
    EGNN,
    Forces,
    PaiNN,
    after,
    around,
    attention,
    beyond_an_angle,
    centred,
    component_batch_norm,
    first_component_positive,
    gated,
    local_frame,
    log_classes,
    manhattan,
    octants,
    one_frame,
    over_frames,
    principal_axes,
    signed_frame,
    squared,
    third_moment_positive,
    triple,
    two_heads,
    vn_batch_norm,
    vn_relu,
)

POINTS = 11
VECTORS = along(-2)
"""Channels come last."""


def cloud(
    name: str,
    make: Callable[[], nn.Module],
    carry: Action = fixed,
    fault: str = "",
    *,
    group: str = "SO(3)",
    points: int = POINTS,
    **more: Any,
) -> Entry:
    """A model of points; broken if a fault is named."""
    label = BROKEN if fault else "sound"
    more = {"label": label, "fault": fault, "move": first(along(-1)), "inputs": normal((points, 3))} | more
    return Entry(name, group, make, carry=carry, **more)


SOUND_CLOUDS = (
    cloud("vn leaky relu", after(lambda self, v: self.out(vn_relu(self, v)), q=linear(), k=linear(), out=linear()), VECTORS),
    cloud("vn batch norm on lengths", after(vn_batch_norm, bn=generic_batch_norm()), VECTORS),
    cloud(
        "vn max pool along learned directions",
        after(
            lambda self, v: torch.take_along_dim(v, (v * self.k(v)).sum(1, keepdim=True).argmax(0, keepdim=True), 0)[0],
            k=linear(),
        ),
        VECTORS,
    ),
    cloud("painn", PaiNN, each(fixed, VECTORS), group="O(3)"),
    cloud("painn trained", trained(PaiNN), each(fixed, VECTORS), group="O(3)"),
    cloud("egnn", lambda: EGNN(squared), along(-1), group="O(3)"),
    cloud("egnn trained", trained(lambda: EGNN(squared)), along(-1), group="O(3)"),
    cloud("attention over points", after(attention, q=linear(), k=linear(), w=linear()), VECTORS, group="O(3)"),
    cloud("gated by lengths", after(gated, gate=made(nn.Linear, 4, 4)), VECTORS, group="O(3)"),
    cloud(
        "cross product of learned vectors",
        plain(lambda self, x: torch.linalg.cross(*self.out(around(x)).unbind(-1)), out=linear(2, 2)),
        along(-1),
    ),
    cloud(
        "length of a cross product",
        plain(
            lambda self, x: self.head(torch.linalg.cross(*around(x).unbind(-1)).norm(dim=-1, keepdim=True)),
            head=lambda: mlp(1, 2),
        ),
        group="O(3)",
    ),
    cloud("pseudovector out", plain(lambda self, x: torch.linalg.cross(*around(x).unbind(-1))), pseudovector, group="O(3)"),
    cloud(
        "pseudoscalar out", plain(lambda self, x: self.head(triple(x)).tanh(), head=linear(1, 4)), pseudoscalar, group="O(3)"
    ),
    cloud(
        "pseudoscalar squared", plain(lambda self, x: self.head(triple(x).square()), head=lambda: mlp(1, 2)), group="O(3)"
    ),
    cloud(
        "cross product of a cross product",
        plain(lambda self, x: torch.linalg.cross(x, torch.linalg.cross(*around(x).unbind(-1)))),
        along(-1),
        group="O(3)",
    ),
    cloud("chirality by SO(3) alone", plain(lambda self, x: self.head(triple(x)), head=lambda: mlp(1, 2))),
    cloud("inertia tensor", plain(lambda self, x: centred(x).mT @ centred(x)), along(-1, -2), group="O(3)"),
    cloud(
        "outer products of learned vectors",
        after(lambda self, v: torch.einsum("nic,njc->nijc", v, self.out(v)), out=linear()),
        along(-2, -3),
        group="O(3)",
    ),
    cloud("forces", lambda: Forces(squared), each(fixed, along(-1)), group="O(3)"),
    cloud("forces with their graph kept", lambda: Forces(squared, keep_graph=True), each(fixed, along(-1)), group="O(3)"),
    cloud("frame averaging", plain(over_frames, head=lambda: mlp(3, 5))),
    cloud("frame with signs from third moments", plain(signed_frame, head=lambda: mlp(3, 5))),
    cloud("local frame and back", plain(local_frame, head=lambda: mlp(3, 3)), along(-1)),
    cloud("principal axis with an intrinsic sign", plain(third_moment_positive), along(-1), group="O(3)"),
    cloud(
        "projector on the principal axis",
        plain(lambda self, x: (e := principal_axes(centred(x))[:, 2]).outer(e)),
        along(-1, -2),
        group="O(3)",
    ),
    cloud("tiny outputs", after(lambda self, v: 1e-12 * gated(self, v), gate=linear()), VECTORS),
    cloud("huge outputs", after(lambda self, v: 1e12 * gated(self, v), gate=linear()), VECTORS),
    cloud("constant-dominated scores", log_classes(1e-4, lambda v: v)),
    cloud(
        "an offset that loses digits",
        plain(
            lambda self, x: gated(
                self, self.up(((x + 3e3 * F.normalize(x[:1], dim=-1)) - 3e3 * F.normalize(x[:1], dim=-1))[..., None])
            ),
            up=linear(1),
            gate=linear(),
        ),
        VECTORS,
    ),
    cloud("sorted lengths", plain(lambda self, x: self.head(centred(x).norm(dim=-1).sort().values), head=linear(POINTS))),
    cloud(
        "convolution of points with a window of one",
        plain(lambda self, x: self.conv(x.mT[:, None, :]), conv=lambda: nn.Conv1d(1, 4, 1, bias=False)),
        along(0),
        points=7,
    ),
    cloud(
        "two positions that differ by a gate",
        plain(lambda self, x, y: x + self.gate((x - y).norm(dim=-1, keepdim=True)) * (y - x), gate=lambda: mlp(1, 1)),
        along(-1),
        move=each(along(-1), along(-1)),
        inputs=normal((9, 3), (9, 3)),
    ),
    cloud(
        "charges and positions: a dipole",
        plain(lambda self, x, q: (self.mix(q) * x).sum(0), mix=lambda: mlp(1, 1)),
        along(-1),
        inputs=normal((9, 3), (9, 1)),
        group="O(3)",
    ),
)


BROKEN_CLOUDS = (
    cloud("relu on components", after(lambda self, v: self.out(F.relu(v)), out=linear()), VECTORS, ":relu"),
    cloud("abs of components", after(lambda self, v: self.out(v.abs()), out=linear()), VECTORS, ":abs"),
    cloud("clamped components", after(lambda self, v: self.out(v.clamp(-0.5, 0.5)), out=linear()), VECTORS, ":clamp"),
    cloud("painn with tanh on vectors", lambda: PaiNN(torch.tanh), each(fixed, VECTORS), ":tanh", group="O(3)"),
    cloud(
        "painn with relu on vectors trained", trained(lambda: PaiNN(torch.relu)), each(fixed, VECTORS), ":relu", group="O(3)"
    ),
    cloud("egnn with manhattan distances", lambda: EGNN(manhattan), along(-1), ":abs", group="O(3)"),
    cloud("egnn with manhattan distances trained", trained(lambda: EGNN(manhattan)), along(-1), ":abs"),
    cloud(
        "bias on vectors",
        after(lambda self, v: gated(self, self.out(v)), out=linear(bias=True), gate=linear()),
        VECTORS,
        "out:linear",
        group="O(3)",
    ),
    cloud(
        "layer norm over components",
        after(lambda self, v: self.norm(v.mT), norm=generic_layer_norm(3)),
        along(-1),
        "norm:layer_norm",
    ),
    cloud(
        "layer norm over channels",
        after(lambda self, v: self.out(self.norm(v)), norm=generic_layer_norm(4), out=linear()),
        VECTORS,
        "norm:layer_norm",
    ),
    cloud("batch norm of components", after(component_batch_norm, bn=generic_batch_norm(12)), VECTORS, "bn:batch_norm"),
    cloud(
        "batch norm of components in training",
        after(component_batch_norm, bn=generic_batch_norm(12)),
        VECTORS,
        "bn:batch_norm",
        training=True,
    ),
    cloud(
        "dropout of components in training",
        after(lambda self, v: self.drop(self.out(v)), out=linear(), drop=made(nn.Dropout, 0.5)),
        VECTORS,
        "drop:dropout",
        training=True,
    ),
    cloud(
        "sign of one coordinate",
        after(lambda self, v: torch.where(v[:1, :1] > 0, 2 * v, v)),
        VECTORS,
        ":where :gt :__gt__ :__getitem__",
    ),
    cloud(
        "coordinates rounded to a grid",
        plain(lambda self, x: gated(self, self.up((x / 0.1).round()[..., None] * 0.1)), up=linear(1), gate=linear()),
        VECTORS,
        ":round",
    ),
    cloud(
        "largest coordinate picks the branch",
        plain(lambda self, x: x * self.scale[x.abs().mean(0).argmax()], scale=lambda: parameter(3)),
        along(-1),
        ":argmax :abs :__getitem__ :mul",
    ),
    cloud("octants", plain(octants, head=made(nn.Linear, 8, 3)), fixed, ":gt :__gt__"),
    cloud("beyond an angle", plain(beyond_an_angle, up=linear(1)), VECTORS, ":where :lt :__lt__ :__getitem__"),
    cloud(
        "components pooled one by one",
        after(lambda self, v: gated(self, v.amax(0, keepdim=True)), gate=linear()),
        VECTORS,
        ":amax",
    ),
    cloud("median of components", plain(lambda self, x: x - x.median(0).values), along(-1), ":median"),
    cloud(
        "rows picked by a coordinate", plain(lambda self, x: x[x[:, 0] > 0].sum(0)), along(-1), ":__getitem__ :gt :__gt__"
    ),
    cloud(
        "sorted along an axis",
        plain(lambda self, x: self.head(x.sort(0).values.flatten()), head=made(nn.Linear, 3 * POINTS, 2)),
        fixed,
        ":sort",
    ),
    cloud("softmax over components", after(lambda self, v: torch.softmax(v, 1)), VECTORS, ":softmax"),
    cloud("spread over components", after(lambda self, v: v / v.std(1, keepdim=True)), VECTORS, ":std"),
    cloud(
        "angle around one axis",
        plain(lambda self, x: self.head(torch.atan2(x[:, 1:2], x[:, :1]).cos()), head=made(nn.Linear, 1, 2)),
        fixed,
        ":atan2 :__getitem__",
    ),
    cloud(
        "positional encoding of coordinates",
        plain(lambda self, x: self.head(torch.cat([x.sin(), x.cos()], -1)), head=made(nn.Linear, 6, 4)),
        fixed,
        ":sin",
    ),
    cloud(
        "coordinates fed to an mlp",
        plain(lambda self, x: self.head(centred(x)).sum(0), head=lambda: mlp(3, 2)),
        fixed,
        "head.0:linear",
    ),
    cloud(
        "gravity",
        plain(
            lambda self, x: gated(self, self.up(x[..., None])) + self.down,
            up=linear(1),
            gate=linear(),
            down=lambda: torch.tensor([[0.0], [0.0], [-9.8]]),
        ),
        VECTORS,
        ":add",
    ),
    cloud("manhattan length", after(lambda self, v: self.head(v.abs().sum(1)), head=made(nn.Linear, 4, 2)), fixed, ":abs"),
    cloud(
        "fourth powers of components",
        plain(lambda self, x: self.head(x.pow(4).sum(-1, keepdim=True)), head=lambda: mlp(1, 1)),
        fixed,
        ":pow",
    ),
    cloud(
        "cross product added to vectors",
        plain(lambda self, x: centred(x) + torch.linalg.cross(*around(x).unbind(-1))),
        along(-1),
        ":add",
        group="O(3)",
    ),
    cloud(
        "chirality through a bias",
        plain(lambda self, x: self.head(triple(x)).tanh(), head=made(nn.Linear, 1, 4)),
        fixed,
        "head:linear",
        group="O(3)",
    ),
    cloud(
        "one principal frame of four",
        plain(one_frame, head=lambda: mlp(3, 5)),
        fixed,
        ":__getitem__ :linalg_eigh head.0:linear :eigh",
    ),
    cloud(
        "principal axis with its first component positive",
        plain(first_component_positive),
        along(-1),
        ":linalg_eigh :eigh :where :__gt__ :gt :__getitem__",
    ),
    cloud(
        "local frame under reflections",
        plain(local_frame, head=lambda: mlp(3, 3)),
        along(-1),
        "head.0:linear :linalg_cross :stack",
        group="O(3)",
    ),
    cloud("tiny broken outputs", after(lambda self, v: 1e-12 * self.out(F.relu(v)), out=linear()), VECTORS, ":relu"),
    cloud("huge broken outputs", after(lambda self, v: 1e12 * self.out(F.relu(v)), out=linear()), VECTORS, ":relu"),
    cloud("constant-dominated broken scores", log_classes(1e-4, F.relu), fixed, ":relu"),
    cloud("saturated broken scores", log_classes(1e-6, F.relu), fixed, ":relu"),
    cloud(
        "a small broken output beside a sound one",
        after(two_heads, gate=linear(), head=made(nn.Linear, 4, 2)),
        each(VECTORS, fixed),
        ":__getitem__ head:linear",
    ),
    cloud("a broken branch of small scale", after(lambda self, v: v + 1e-4 * F.relu(v)), VECTORS, ":relu"),
    cloud("forces of manhattan distances", lambda: Forces(manhattan), each(fixed, along(-1)), ":abs"),
    cloud(
        "forces of a torn energy",
        plain(lambda self, x: torch.func.grad(lambda y: (centred(y).tanh() ** 2).sum())(x)),
        along(-1),
        ":tanh :grad :opaque",
    ),
    claimed(
        cloud(
            "a convolution over the axes",
            plain(lambda self, x: self.conv(x[:, None])[:, 0], conv=lambda: nn.Conv1d(1, 1, 3, padding=1, bias=False)),
            along(-1),
            "conv:conv1d",
        )
    ),
    claimed(
        cloud(
            "components in another order",
            plain(lambda self, x: centred(x)[:, [1, 2, 0]] + centred(x)),
            along(-1),
            ":add :__getitem__",
        )
    ),
    claimed(
        cloud(
            "vectors through a matrix of its own",
            plain(lambda self, x: centred(x) @ self.W, W=lambda: parameter(3, 3)),
            along(-1),
            ":matmul :__matmul__",
        )
    ),
    cloud(
        "eight bits",
        plain(lambda self, x: gated(self, self.up(((x * 16).round() / 16)[..., None])), up=linear(1), gate=linear()),
        VECTORS,
        ":round",
    ),
)

ENTRIES = (*SOUND_CLOUDS, *BROKEN_CLOUDS)
