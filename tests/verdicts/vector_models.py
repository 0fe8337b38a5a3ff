"""Models of points (atoms, 3): Vector Neurons, PaiNN, EGNN, frames, cross products, forces, and what breaks them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verdicts.parts import linear, made, mix, mlp, net, plain

Forward = Callable[..., Any]


def up(self: nn.Module, x: Tensor) -> Tensor:
    """Vectors with channels of positions around their centre."""
    return self.up(centred(x)[..., None])


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-2, keepdim=True)


def after(function: Forward, **parts: Any) -> Callable[[], nn.Module]:
    """Positions, channels, then `function(self, v)`; parts that are made of nothing are made anew in each model."""
    return lambda: net(
        lambda self, x: function(self, up(self, x)), up=mix(1, 4), **{name: part() for name, part in parts.items()}
    )


def vn_relu(self: nn.Module, v: Tensor) -> Tensor:
    q, k = self.q(v), self.k(v)
    along_k = (q * k).sum(-2, keepdim=True)
    return q - along_k.clamp(max=0) / (k.square().sum(-2, keepdim=True) + 1e-6) * k


class PaiNN(nn.Module):
    """Message and update of PaiNN over all pairs; `act` is applied to the vectors."""

    def __init__(self, act: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.embed, self.filter, self.phi = nn.Parameter(torch.randn(4)), nn.Linear(1, 8), nn.Linear(4, 8)
        self.U, self.V, self.a = mix(4, 4), mix(4, 4), nn.Linear(8, 12)
        self.act = act

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r = x[:, None] - x[None]
        d = (r.square().sum(-1, keepdim=True) + 1e-2).sqrt()
        s = self.embed.expand(len(x), 4)
        ds, dr = (self.phi(s)[None] * self.filter(torch.exp(-d))).chunk(2, -1)
        s, v = s + ds.sum(1), (dr[..., None, :] * (r / d)[..., None]).sum(1)
        if self.act is not None:
            v = self.act(v)
        u, w = self.U(v), self.V(v)
        a_vv, a_sv, a_ss = self.a(torch.cat([s, (w.square().sum(1) + 1e-8).sqrt()], -1)).chunk(3, -1)
        return s + a_ss + a_sv * (u * w).sum(1), v + u * a_vv[:, None]


class EGNN(nn.Module):
    """Coordinates updated along differences; `weight` of a pair is computed from `what(x_i, x_j)`."""

    def __init__(self, what: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.phi, self.what = mlp(1, 1), what

    def forward(self, x: Tensor) -> Tensor:
        return x + ((x[:, None] - x[None]) * self.phi(self.what(x[:, None], x[None]))).mean(1)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1, keepdim=True)


def manhattan(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(-1, keepdim=True)


class Forces(nn.Module):
    """Energies of pairs and their negative gradient."""

    def __init__(self, distance: Forward, keep_graph: bool = False) -> None:
        super().__init__()
        self.energy, self.distance, self.keep_graph = mlp(1, 1), distance, keep_graph

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            total = self.energy(torch.exp(-self.distance(x[:, None], x[None]))).sum()
            (gradient,) = torch.autograd.grad(total, x, create_graph=self.keep_graph)
        return total, -gradient


def principal_axes(x: Tensor) -> Tensor:
    return torch.linalg.eigh(x.mT @ x).eigenvectors


def right_handed(e: Tensor) -> Tensor:
    return torch.stack([e[:, 2], e[:, 1], torch.linalg.cross(e[:, 2], e[:, 1])], 1)


def over_frames(self: nn.Module, x: Tensor) -> Tensor:
    """Frame averaging (Puny et al. 2022): over the signs of the axes that keep their handedness."""
    e, c = right_handed(principal_axes(centred(x))), centred(x)
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=x.dtype)
    return torch.stack([self.head(c @ (e * s)).mean(0) for s in signs]).mean(0)


def one_frame(self: nn.Module, x: Tensor) -> Tensor:
    e = right_handed(principal_axes(centred(x)))
    return self.head(centred(x) @ e).mean(0)


def signed_frame(self: nn.Module, x: Tensor) -> Tensor:
    """Signs from the third moments along the axes; the third axis is the product of the others."""
    c = centred(x)
    e = principal_axes(c)
    e = e * (c @ e).pow(3).sum(0).sign()
    return self.head(c @ right_handed(e)).mean(0)


def first_component_positive(self: nn.Module, x: Tensor) -> Tensor:
    e = principal_axes(centred(x))[:, 2]
    return e * torch.where(e[0] > 0, 1.0, -1.0).to(e)


def third_moment_positive(self: nn.Module, x: Tensor) -> Tensor:
    c = centred(x)
    e = principal_axes(c)[:, 2]
    return e * (c @ e).pow(3).sum().sign()


def gram_schmidt(x: Tensor) -> Tensor:
    a, b = centred(x)[0], centred(x)[1]
    first_axis = F.normalize(a, dim=0)
    second = F.normalize(b - (b @ first_axis) * first_axis, dim=0)
    return torch.stack([first_axis, second, torch.linalg.cross(first_axis, second)], 1)


def local_frame(self: nn.Module, x: Tensor) -> Tensor:
    frame = gram_schmidt(x)
    return self.head(centred(x) @ frame) @ frame.mT


def around(x: Tensor) -> Tensor:
    """Two vectors of each point that are not parallel: to its predecessor and to the one before."""
    return torch.stack([x - x.roll(1, 0), x - x.roll(2, 0)], -1)


def triple(x: Tensor) -> Tensor:
    a, b = around(x).unbind(-1)
    return (torch.linalg.cross(a, b) * (x - x.roll(3, 0))).sum(-1, keepdim=True)


def norms(v: Tensor) -> Tensor:
    return (v.square().sum(-2) + 1e-6).sqrt()


def vn_batch_norm(self: nn.Module, v: Tensor) -> Tensor:
    n = norms(v)
    return v * (self.bn(n) / n).unsqueeze(-2)


def attention(self: nn.Module, v: Tensor) -> Tensor:
    q, k, w = self.q(v).flatten(1), self.k(v).flatten(1), self.w(v)
    return torch.einsum("ij,jdc->idc", torch.softmax(q @ k.mT, -1), w)


def gated(self: nn.Module, v: Tensor) -> Tensor:
    return v * self.gate(norms(v)).unsqueeze(-2)


def log_classes(gain: float, forward: Forward) -> Callable[[], nn.Module]:
    def scores(self: nn.Module, x: Tensor) -> Tensor:
        v = forward(self.up(centred(x)[..., None]))
        return torch.log_softmax(self.head(gain * norms(v).mean(0)), -1)

    return plain(scores, up=linear(1, 8), head=made(nn.Linear, 8, 5))


def beyond_an_angle(self: nn.Module, x: Tensor) -> Tensor:
    """Right as long as the first point stays away from the south pole."""
    v = up(self, x)
    return torch.where(F.normalize(x[:1], dim=-1)[..., 2:] < -0.8, v.square(), v)


def octants(self: nn.Module, x: Tensor) -> Tensor:
    code = ((centred(x) > 0) * torch.tensor([1, 2, 4])).sum(-1)
    return self.head(F.one_hot(code, 8).to(x).mean(0))


def component_batch_norm(self: nn.Module, v: Tensor) -> Tensor:
    return self.bn(v.flatten(1)).view_as(v)


def two_heads(self: nn.Module, v: Tensor) -> tuple[Tensor, Tensor]:
    return gated(self, v), 1e-6 * self.head(v[:, 0])


def complex_vector(x: Tensor) -> Tensor:
    """l = 1 by m = -1, 0, 1, with Condon and Shortley's phase."""
    x, y, z = x.unbind(-1)
    return torch.stack(
        [torch.complex(x, -y) / math.sqrt(2), torch.complex(z, 0 * z), torch.complex(-x, -y) / math.sqrt(2)], -1
    )
