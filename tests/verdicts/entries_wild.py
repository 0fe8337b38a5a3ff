"""What else people have: masks and padding, frames as inputs, stresses, derivatives within, functions of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from verdicts.actions import acting_on, along, each, first, fixed, through
from verdicts.entry import BROKEN, SOUND, Action, Entry, claimed, told
from verdicts.parts import (
    linear,
    made,
    mlp,
    normal,
    plain,
)
from verdicts.vector_models import after, centred, complex_vector, gated, norms, squared

VECTOR, CHANNELS = along(-1), along(-2)


def wild(
    name: str, make: Callable[[], nn.Module], carry: Action = fixed, fault: str = "", *, label: str = "", **more: Any
) -> Entry:
    """A model of nine points, and perhaps of more."""
    label = label or (BROKEN if fault else SOUND)
    given = {"group": "SO(3)", "inputs": normal((9, 3)), "move": first(VECTOR), "label": label, "fault": fault}
    return Entry(name, make=make, carry=carry, **(given | more))


def padded() -> tuple[Tensor, Tensor]:
    """Two clouds of up to six points, and which of these are there."""
    return torch.randn(2, 6, 3), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


def masked_pool(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    v = self.up(x[..., None])
    scores = self.score(v.square().sum(-2)).squeeze(-1).masked_fill(~mask, -torch.inf)
    return (torch.softmax(scores, -1)[..., None, None] * v).sum(1)


def masked_maximum(self: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask[..., None], -torch.inf).amax(1)


def frames() -> tuple[Tensor, Tensor]:
    """Orientations and places of residues."""
    return torch.linalg.qr(torch.randn(6, 3, 3)).Q, torch.randn(6, 3)


def point_attention(local: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Attention by points that are fixed in each residue's frame (AlphaFold's invariant point attention)."""

    def forward(self: nn.Module, rotations: Tensor, places: Tensor) -> Tensor:
        points = local(rotations, self.points) + places[:, None]
        distance = (points[:, None] - points[None]).square().sum((-1, -2))
        pooled = torch.einsum("ij,jp->ip", torch.softmax(-distance, -1), points.flatten(1)).unflatten(-1, (-1, 3))
        back = torch.einsum("iba,ipb->ipa", rotations, pooled - places[:, None])
        return self.head(back.flatten(1))

    return forward


def in_frames(rotations: Tensor, points: Tensor) -> Tensor:
    return torch.einsum("iab,pb->ipa", rotations, points)


def in_transposed_frames(rotations: Tensor, points: Tensor) -> Tensor:
    return torch.einsum("iba,pb->ipa", rotations, points)


RESIDUES = {"inputs": frames, "move": each(along(-2), VECTOR)}
POINTS = {"points": lambda: torch.randn(4, 3), "head": lambda: mlp(12, 3)}


def pair_energy(self: nn.Module, x: Tensor) -> Tensor:
    return self.phi(torch.exp(-squared(x[:, None], x[None]))).sum()


def stress(self: nn.Module, x: Tensor) -> Tensor:
    """The derivative of the energy by a strain."""

    def strained(strain: Tensor) -> Tensor:
        return pair_energy(self, x + x @ (strain + strain.mT) / 2)

    return torch.func.grad(strained)(torch.zeros(3, 3).to(x))


PAIRS = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


def voigt(matrix: Tensor) -> Tensor:
    """xx, yy, zz, yz, xz, xy of a symmetric matrix."""
    return torch.stack([matrix[..., i, j] for i, j in PAIRS], -1)


def voigt_action(g: Tensor) -> Tensor:
    """The matrix of g on the six numbers: not orthogonal."""
    basis = torch.zeros(6, 3, 3, dtype=g.dtype)
    for k, (i, j) in enumerate(PAIRS):
        basis[k, i, j] = basis[k, j, i] = 1
    return voigt(g @ basis @ g.mT).mT


def hessian(self: nn.Module, x: Tensor) -> Tensor:
    return torch.func.hessian(lambda y: pair_energy(self, y))(x)


def mapped_forces(act: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return -torch.func.vmap(torch.func.grad(lambda y: pair_energy(self, act(centred(y)))))(x)

    return forward


def directional(self: nn.Module, x: Tensor, v: Tensor) -> Tensor:
    energy, change = torch.func.jvp(lambda y: pair_energy(self, y), (x,), (v,))
    return torch.stack([energy, change])


class StraightThrough(torch.autograd.Function):
    """Rounds, and passes gradients on as if it did not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Doubled(torch.autograd.Function):
    """Twice its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def timed(act: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A denoiser: positions and the time of the noise, with a few options that are no tensors."""

    def forward(self: nn.Module, x: Tensor, t: Tensor, condition: None, mode: str, scale: float) -> Tensor:
        v = act(self.up(centred(x)[..., None]))
        return scale * (v * self.time(torch.stack([t.sin(), t.cos()], -1))).mean(-1)

    return forward


DENOISER = {"inputs": lambda: (torch.randn(9, 3), torch.rand(()), None, "mean", 0.5)}
TIMED = {"up": linear(1), "time": lambda: mlp(2, 4)}


def autocast(self: nn.Module, v: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return gated(self, v)


def in_place(self: nn.Module, x: Tensor) -> Tensor:
    v = x.clone()
    v -= v.mean(0)
    v[:3] *= 2
    out = torch.zeros_like(v)
    torch.mul(v, v.norm(dim=-1, keepdim=True), out=out)
    out[3:].add_(v[3:])
    return out


def in_place_on_a_column(self: nn.Module, x: Tensor) -> Tensor:
    v = centred(x).clone()
    v[:, 2] *= 2
    return v * v.norm(dim=-1, keepdim=True)


def recursive(depth: int, act: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """One layer many times over."""

    def forward(self: nn.Module, v: Tensor) -> Tensor:
        for _ in range(depth):
            v = v + act(self.mix(v)) / depth
        return v

    return after(forward, mix=linear())


def until_small(self: nn.Module, x: Tensor) -> Tensor:
    """As often as a length asks for."""
    v = centred(x)
    while v.norm() > 1:
        v = v * self.shrink.sigmoid()
    return v


def until_low(self: nn.Module, x: Tensor) -> Tensor:
    """As often as a coordinate asks for."""
    v = centred(x)
    while v[0, 2] > 0.1:
        v = v * self.shrink.sigmoid()
    return v


def by_length(v: Tensor) -> Tensor:
    return v * torch.tanh(norms(v)).unsqueeze(-2)


def group_norm_of_vectors(self: nn.Module, v: Tensor) -> Tensor:
    return self.norm(v.flatten(1)).view_as(v)


def group_norm_of_lengths(self: nn.Module, v: Tensor) -> Tensor:
    n = norms(v)
    return v * (self.norm(n) / n).unsqueeze(-2)


def transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)


def sequence_of_neighbours(self: nn.Module, x: Tensor) -> Tensor:
    """Neighbours in the order of their distance, through a recurrent layer."""
    d = torch.cdist(x, x).sort(-1).values[:, 1:5]
    return self.rnn(d[..., None])[0][:, -1]


def recurrent_vectors(self: nn.Module, x: Tensor) -> Tensor:
    return self.rnn(centred(x)[None])[0][0]


def displacement_table(self: nn.Module, x: Tensor) -> Tensor:
    r = x[:, None] - x[None]
    return r * self.phi(squared(x[:, None], x[None]))


def fourier_of_distances(self: nn.Module, x: Tensor) -> Tensor:
    d = torch.cdist(x, x)[..., None] * torch.arange(1, 5).to(x)
    return self.head(torch.cat([d.sin(), d.cos()], -1).mean((0, 1)))


def procrustes(self: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The rotation that brings y closest to x (Kabsch)."""
    u, _, vt = torch.linalg.svd(centred(x).mT @ centred(y))
    sign = torch.linalg.det(u @ vt).sign()
    return u @ torch.diag(torch.stack([sign**0, sign**0, sign])) @ vt


def without_the_sign(self: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The same without the check of its handedness, by the singular vectors' own signs."""
    u, _, vt = torch.linalg.svd(centred(x).mT @ centred(y))
    return u.abs() @ vt


def plane_normals(self: nn.Module, x: Tensor) -> Tensor:
    """Normals of triangles, on the side of positive z."""
    n = torch.linalg.cross(x[1:-1] - x[:-2], x[2:] - x[1:-1])
    return n * n[:, 2:].sign()


def spherical_coordinates(self: nn.Module, x: Tensor) -> Tensor:
    r = centred(x)
    theta = torch.acos(r[:, 2] / r.norm(dim=-1))
    return self.head(theta.sin()[:, None]).sum(0)


def farthest_points(self: nn.Module, x: Tensor) -> Tensor:
    """Sampled one by one, from the one that is farthest from the centre."""
    chosen = [int(centred(x).norm(dim=-1).argmax())]
    for _ in range(3):
        chosen.append(int(torch.cdist(x, x[chosen]).amin(-1).argmax()))
    return centred(x)[chosen]


def lowest_point_first(self: nn.Module, x: Tensor) -> Tensor:
    chosen = int(x[:, 2].argmin())
    return x - x[chosen]


def barycentres(self: nn.Module, x: Tensor) -> Tensor:
    """Means of voxels of a grid that stands still."""
    cell = (x / 1.5).floor().long()
    _, where = torch.unique(cell, dim=0, return_inverse=True)
    total = torch.zeros(int(where.max()) + 1, 3).to(x).index_add(0, where, x)
    return total / torch.bincount(where)[:, None]


def tokens(length: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Coordinates as words of a vocabulary."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        words = (length(centred(x)) * 4).long().clamp(-8, 7) + 8
        return self.words(words).mean(0)

    return forward


PHI = {"phi": lambda: mlp(1, 1)}

ENTRIES = (
    wild("padded clouds", plain(masked_pool, up=linear(1), score=linear(4, 1)), CHANNELS, inputs=padded),
    wild("padded clouds, largest components", plain(masked_maximum), VECTOR, ":masked_fill :amax", inputs=padded),
    told(wild("points in residues' frames", plain(point_attention(in_frames), **POINTS), **RESIDUES)),
    told(
        wild(
            "points in residues' transposed frames",
            plain(point_attention(in_transposed_frames), **POINTS),
            fixed,
            ":einsum",
            **RESIDUES,
        )
    ),
    wild("stress by a strain", plain(stress, **PHI), along(-1, -2), group="O(3)"),
    claimed(wild("stress in six numbers", plain(lambda self, x: voigt(stress(self, x)), **PHI), through(voigt_action, -1))),
    wild(
        "principal stresses",
        plain(lambda self, x: self.head(torch.linalg.eigvalsh(centred(x).mT @ centred(x))), head=lambda: mlp(3, 2)),
    ),
    wild(
        "stress along the axes",
        plain(lambda self, x: self.head(voigt(centred(x).mT @ centred(x))[:3]), head=lambda: mlp(3, 2)),
        fixed,
        ":__getitem__ :stack head.0:linear",
    ),
    wild("hessians", plain(hessian, **PHI), along(1, 3), inputs=normal((2, 3))),
    wild("forces of a batch by vmap", plain(mapped_forces(lambda r: r), **PHI), VECTOR, inputs=normal((2, 4, 3))),
    wild(
        "forces of a batch by vmap that break",
        plain(mapped_forces(torch.relu), **PHI),
        VECTOR,
        ":opaque :neg :__neg__",
        inputs=normal((2, 4, 3)),
    ),
    wild(
        "derivatives along a direction", plain(directional, **PHI), inputs=normal((4, 3), (4, 3)), move=each(VECTOR, VECTOR)
    ),
    wild(
        "complex harmonics out",
        plain(lambda self, x: complex_vector(x) * x.norm(dim=-1, keepdim=True)),
        through(acting_on(complex_vector), -1),
    ),
    wild(
        "complex harmonics the other way round",
        plain(lambda self, x: complex_vector(x).flip(-1).conj().resolve_conj() * 1j),
        through(acting_on(lambda x: complex_vector(x).flip(-1).conj().resolve_conj() * 1j), -1),
    ),
    wild(
        "a function with its own derivative", after(lambda self, v: gated(self, Doubled.apply(v)), gate=linear()), CHANNELS
    ),
    wild(
        "rounding that passes gradients",
        after(lambda self, v: gated(self, StraightThrough.apply(v)), gate=linear()),
        CHANNELS,
        ":round :apply",
    ),
    wild("a denoiser", plain(timed(by_length), **TIMED), VECTOR, **DENOISER),
    wild("a denoiser with softplus on components", plain(timed(F.softplus), **TIMED), VECTOR, ":softplus", **DENOISER),
    wild("autocast within", after(autocast, gate=linear()), CHANNELS),
    wild(
        "activation checkpoints",
        after(lambda self, v: checkpoint(gated, self, v, use_reentrant=False), gate=linear()),
        CHANNELS,
    ),
    wild(
        "activation checkpoints around relu",
        after(lambda self, v: checkpoint(torch.relu, v, use_reentrant=False)),
        CHANNELS,
        ":relu",
    ),
    wild("operations in place", plain(in_place), VECTOR),
    wild("one column in place", plain(in_place_on_a_column), VECTOR, ":__getitem__ :__setitem__ :mul :imul :__imul__"),
    wild("one layer eight times", recursive(8, by_length), CHANNELS),
    wild("one layer eight times with tanh", recursive(8, torch.tanh), CHANNELS, ":tanh"),
    wild("as often as a length asks for", plain(until_small, shrink=lambda: nn.Parameter(torch.tensor(0.3))), VECTOR),
    wild(
        "as often as a coordinate asks for",
        plain(until_low, shrink=lambda: nn.Parameter(torch.tensor(0.3))),
        VECTOR,
        ":__getitem__ :gt :__gt__",
    ),
    wild("group norm of lengths", after(group_norm_of_lengths, norm=made(nn.GroupNorm, 2, 4)), CHANNELS),
    wild("group norm of vectors", after(group_norm_of_vectors, norm=made(nn.GroupNorm, 2, 12)), CHANNELS, "norm:group_norm"),
    wild("a transformer of lengths", after(lambda self, v: self.encoder(norms(v)[None])[0], encoder=transformer)),
    wild(
        "a transformer of components",
        after(lambda self, v: self.encoder(v)[:], encoder=transformer),
        CHANNELS,
        "encoder:_transformer_encoder_layer_fwd encoder.self_attn:multi_head_attention_forward encoder.self_attn:linear",
    ),
    wild(
        "neighbours in the order of their distance", plain(sequence_of_neighbours, rnn=made(nn.GRU, 1, 4, batch_first=True))
    ),
    wild(
        "vectors through a recurrent layer",
        plain(recurrent_vectors, rnn=made(nn.GRU, 3, 3, batch_first=True)),
        VECTOR,
        "rnn:gru",
    ),
    wild("a table of displacements", plain(displacement_table, **PHI), VECTOR),
    wild("waves of distances", plain(fourier_of_distances, head=made(nn.Linear, 8, 2))),
    wild(
        "the rotation between two clouds",
        plain(procrustes),
        along(-2, -1),
        inputs=normal((9, 3), (9, 3)),
        move=each(VECTOR, VECTOR),
    ),
    wild(
        "singular vectors without their signs",
        plain(without_the_sign),
        along(-2, -1),
        ":abs",
        inputs=normal((9, 3), (9, 3)),
        move=each(VECTOR, VECTOR),
    ),
    wild("normals turned upwards", plain(plane_normals), VECTOR, ":__getitem__ :sign :mul"),
    wild("polar angles", plain(spherical_coordinates, head=lambda: mlp(1, 2)), fixed, ":__getitem__ :acos"),
    wild("farthest points", plain(farthest_points), VECTOR),
    wild("relative to the lowest point", plain(lowest_point_first), VECTOR, ":__getitem__ :argmin :sub"),
    wild("means of voxels", plain(barycentres), VECTOR, ":floor :unique :long :div :__truediv__"),
    wild("lengths as words", plain(tokens(lambda x: x.norm(dim=-1)), words=made(nn.Embedding, 16, 4)), fixed),
    wild(
        "coordinates as words",
        plain(tokens(lambda x: x[:, 0]), words=made(nn.Embedding, 16, 4)),
        fixed,
        ":__getitem__ :long",
    ),
    wild(
        "a batch of one",
        plain(lambda self, x: gated(self, self.up(x[..., None])), up=linear(1), gate=linear()),
        CHANNELS,
        inputs=normal((1, 3)),
    ),
    wild(
        "a batch of one with relu",
        plain(lambda self, x: torch.relu(self.up(x[..., None])), up=linear(1)),
        CHANNELS,
        ":relu",
        inputs=normal((1, 3)),
    ),
    wild("one vector", plain(lambda self, x: x * self.phi(x.norm()[None]), **PHI), VECTOR, inputs=normal((3,))),
    wild("one vector with tanh", plain(lambda self, x: 2 * torch.tanh(x)), VECTOR, ":tanh", inputs=normal((3,))),
    wild(
        "far from the origin",
        plain(lambda self, x: gated(self, self.up(centred(x)[..., None])), up=linear(1), gate=linear()),
        CHANNELS,
        inputs=lambda: (torch.randn(9, 3) + 100,),
    ),
    wild(
        "very small inputs",
        plain(lambda self, x: self.head(1e8 * x.square().sum(-1, keepdim=True)), head=lambda: mlp(1, 2)),
        inputs=lambda: (1e-4 * torch.randn(9, 3),),
    ),
    wild(
        "very small inputs, fourth powers",
        plain(lambda self, x: self.head((1e4 * x).pow(4).sum(-1, keepdim=True)), head=lambda: mlp(1, 2)),
        fixed,
        ":pow",
        inputs=lambda: (1e-4 * torch.randn(9, 3),),
    ),
    wild(
        "positions in nanometres, an energy in eV",
        plain(lambda self, x: -7e4 + 1e-3 * self.head(torch.cdist(x, x).flatten()), head=made(nn.Linear, 81, 1)),
    ),
    wild(
        "a large constant over a broken part",
        plain(lambda self, x: -7e4 + 1e-3 * self.head(centred(x).abs().flatten()), head=made(nn.Linear, 27, 1)),
        fixed,
        ":abs",
    ),
)
