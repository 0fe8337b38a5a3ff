"""Vectors of other groups and layouts: LorentzNet, harmonic networks, Vector Neurons of more kinds, graphs handed over."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from zoo.entry import Entry, along, each, paths


class LorentzLayer(nn.Module):
    """LorentzNet (Gong et al. 2022, arXiv 2201.08187) with several four-vectors for each particle."""

    def __init__(self, width: int, vectors: int) -> None:
        super().__init__()
        self.register_buffer("metric", torch.tensor([1.0, -1.0, -1.0, -1.0]))
        self.edge = nn.Sequential(nn.Linear(2 * width + 2 * vectors, width), nn.Tanh(), nn.Linear(width, vectors))
        self.mix = nn.Linear(vectors, vectors, bias=False)
        self.node = nn.Linear(width + vectors, width)

    def psi(self, x: Tensor) -> Tensor:
        return x.sign() * torch.log(x.abs() + 1)

    def forward(self, h: Tensor, p: Float[Tensor, "particle vector 4"]) -> tuple[Tensor, Tensor]:
        n = len(p)
        inner = torch.einsum("ivm,jvm,m->ijv", p, p, self.metric)
        difference = p[:, None] - p[None]
        square = (difference.square() * self.metric).sum(-1)
        pairs = torch.cat([h[:, None].expand(-1, n, -1), h[None].expand(n, -1, -1), self.psi(inner), self.psi(square)], -1)
        messages = self.edge(pairs)
        p = self.mix(p.mT).mT + torch.einsum("ijv,ijvm->ivm", messages, difference) / n
        return h + torch.tanh(self.node(torch.cat([h, messages.mean(1)], -1))), p


class LorentzNet(nn.Module):
    """Four-momenta and masses of a jet's particles to a label."""

    def __init__(self, width: int = 4, vectors: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Linear(1, width)
        self.up = nn.Linear(1, vectors, bias=False)
        self.layers = nn.ModuleList(LorentzLayer(width, vectors) for _ in range(2))
        self.head = nn.Linear(width, 2)
        self.total = nn.Linear(vectors, 1, bias=False)

    def forward(self, p: Float[Tensor, "particle 4"], mass: Float[Tensor, "particle 1"]) -> tuple[Tensor, Tensor]:
        h, p = self.embedding(mass), self.up(p[..., None]).mT
        for layer in self.layers:
            h, p = layer(h, p)
        return self.head(h.mean(0)), self.total(p.mT).squeeze(-1).sum(0)


class HarmonicMix(nn.Module):
    """A complex matrix of channels for each angular frequency, as real 2 x 2 blocks on [point, channel, 2]."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, width_out, width_in) / width_in**0.5)
        self.register_buffer("blocks", torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, -1.0], [1.0, 0.0]]]))

    def forward(self, z: Float[Tensor, "point channel 2"]) -> Float[Tensor, "point channel 2"]:
        return torch.einsum("kpq,koi,niq->nop", self.blocks, self.weight, z)


class Harmonic(nn.Module):
    """Frequencies 1 and 2 of SO(2) (Worrall et al. 2017, arXiv 1612.04642): products, mixing, gates by size."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.one, self.two = HarmonicMix(2, width), HarmonicMix(2, width)
        self.back = HarmonicMix(2 * width, width)
        self.gate = nn.Linear(width, width)
        self.out = HarmonicMix(width, 1)

    @staticmethod
    def times(a: Tensor, b: Tensor, *, conjugate: bool = False) -> Tensor:
        sign = -1.0 if conjugate else 1.0
        (ar, ai), (br, bi) = a.unbind(-1), b.unbind(-1)
        return torch.stack([ar * br - sign * ai * bi, sign * ar * bi + ai * br], -1)

    def forward(self, x: Float[Tensor, "point 2"]) -> Float[Tensor, "point 2"]:
        z = torch.stack([x, x - x.mean(0)], dim=1)
        squares = torch.stack([self.times(z[:, 0], z[:, 1]), self.times(z[:, 1], z[:, 1])], dim=1)
        one, two = self.one(z), self.two(squares)
        h = self.back(torch.cat([one, self.times(two, one, conjugate=True)], dim=1))
        return self.out(h * torch.sigmoid(self.gate(h.norm(dim=-1)))[..., None]).squeeze(1)


class ComplexHarmonic(nn.Module):
    """The same in complex numbers, with torch's own layers and a weight for each frequency."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        exact = torch.get_default_dtype() == torch.float64
        dtype = torch.complex128 if exact else torch.complex64
        self.up = nn.Parameter(torch.randn(2, 2, width, dtype=dtype))
        self.back, self.out = (nn.Linear(n, m, bias=False, dtype=dtype) for n, m in ((2 * width, width), (width, 1)))
        self.gate = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "point 2"]) -> Float[Tensor, "point 2"]:
        z = torch.view_as_complex(torch.stack([x, x - x.mean(0)], dim=1))
        powers = torch.stack([z, z[:, 1:] * z], dim=1)
        one, two = torch.einsum("pfi,fio->pfo", powers, self.up).unbind(1)
        h = self.back(torch.cat([one, two * one.conj()], dim=1))
        return torch.view_as_real(self.out(h * torch.sigmoid(self.gate(h.abs()))).squeeze(1))


class VNLinear(nn.Module):
    """Vector Neurons (Deng et al. 2021, arXiv 2104.12229) on [batch, channel, 3], by a matrix product from the left."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in) / width_in**0.5)

    def forward(self, v: Tensor) -> Tensor:
        return self.weight @ v


class VNResidual(nn.Module):
    """VN-OccNet's residual block; the last of its layers starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.direction, self.last = VNLinear(width, width), VNLinear(width, width), VNLinear(width, width)
        nn.init.zeros_(self.last.weight)

    def forward(self, v: Tensor) -> Tensor:
        q, k = self.first(v), self.direction(v)
        inner = (q * k).sum(-1, keepdim=True)
        q = torch.where(inner >= 0, q, q - inner * k / (k.square().sum(-1, keepdim=True) + 1e-6))
        return v + self.last(q)


class VNResNet(nn.Module):
    """Points to an invariant code and a vector."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.up = VNLinear(3, width)
        self.blocks = nn.ModuleList(VNResidual(width) for _ in range(2))
        self.std = VNLinear(width, 3)
        self.code = nn.Linear(3 * width, 4)
        self.out = VNLinear(width, 1)

    def forward(self, x: Float[Tensor, "batch point 3"]) -> tuple[Tensor, Tensor]:
        mean = x.mean(1, keepdim=True).expand_as(x)
        v = self.up(torch.stack([x, mean, torch.linalg.cross(x, mean)], dim=2))
        for block in self.blocks:
            v = block(v)
        v = v.mean(1)
        frame = self.std(v)
        return self.code((v @ frame.mT).flatten(1)), self.out(v).squeeze(1)


class VNGRU(nn.Module):
    """A recurrent cell of vectors, gates from their lengths (Luo et al. 2022, arXiv 2206.09102's kind)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.input, self.state = nn.Linear(1, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.gates = nn.Linear(4 * width, 2 * width)
        self.out = nn.Linear(width, 1, bias=False)

    def forward(self, path: Float[Tensor, "batch step 3"]) -> Float[Tensor, "batch 3"]:
        h = path.new_zeros(len(path), 3, self.width)
        for step in (path[:, 1:] - path[:, :-1]).unbind(1):
            x, s = self.input(step[..., None]), self.state(h)
            update, reset = torch.sigmoid(
                self.gates(torch.cat([x.norm(dim=1), (s.square().sum(1) + 1e-6).sqrt()], -1))
            ).chunk(2, -1)
            new = x[..., : self.width] + reset[:, None] * s[..., : self.width]
            h = update[:, None] * h + (1 - update[:, None]) * new * torch.tanh(new.norm(dim=1, keepdim=True))
        return self.out(h).squeeze(-1)


class Gated(nn.Module):
    """Vectors [point, 3, channel], gated by their lengths: what is traced and exported."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.up, self.mix = nn.Linear(2, width, bias=False), nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width)
        self.out = nn.Parameter(torch.randn(width, 1))

    def forward(self, x: Float[Tensor, "point 3"]) -> Float[Tensor, "point 3"]:
        v = self.up(torch.stack([x, x - x.mean(0)], dim=-1))
        v = self.mix(v * torch.sigmoid(self.gate(v.norm(dim=1)))[:, None])
        return torch.einsum("nic,co->nio", v, self.out).squeeze(-1)


def traced() -> nn.Module:
    return fx.symbolic_trace(Gated())


def exported() -> nn.Module:
    module = torch.export.export(Gated(), points()).module()
    # torch.export's own module has no train and eval, and specs of its inputs of which torch's own copies warn
    module.graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(module, module.graph)


def points() -> tuple[Tensor, ...]:
    return (torch.randn(20, 3),)


def entry(name: str, source: str, group: str, make: Callable[[], nn.Module], **more: object) -> Entry:
    given: dict[str, object] = {"inputs": points, "input_action": each(along(-1)), "output": along(-1)}
    return Entry(name=name, source=source, group=group, make=make, **(given | more))  # type: ignore[arg-type]


GATED = functools.partial(entry, source="torch.fx, of vectors gated by their lengths", group="O(3)")
IDLE = ("blocks.{i}.first.weight", "blocks.{i}.direction.weight")
DENG = "Deng et al. 2021, arXiv 2104.12229"

ENTRIES = (
    entry(
        "LorentzNet",
        "Gong et al. 2022, arXiv 2201.08187",
        "SO(1,3)",
        LorentzNet,
        inputs=lambda: (torch.randn(9, 4), torch.rand(9, 1)),
        input_action=each(along(-1), None),
        output=each(None, along(-1)),
        expected=paths("up", "layers.{i}.mix", "total", i=range(2)),
        invariant=paths("embedding", "layers.{i}.edge.{j}", "layers.{i}.node", "head", i=range(2), j=(0, 2)),
    ),
    entry(
        "Harmonic network",
        "Worrall et al. 2017, arXiv 1612.04642",
        "SO(2)",
        Harmonic,
        inputs=lambda: (torch.randn(20, 2),),
        expected=paths("{k}.weight", k=("one", "two", "back", "out")),
        invariant=frozenset({"gate"}),
    ),
    entry(
        "Harmonic network in complex numbers",
        "Worrall et al. 2017, arXiv 1612.04642",
        "SO(2)",
        ComplexHarmonic,
        inputs=lambda: (torch.randn(20, 2),),
        expected=paths("up", "back", "out"),
        invariant=frozenset({"gate"}),
    ),
    entry(
        "VN residual blocks from zero",
        DENG,
        "SO(3)",
        VNResNet,
        inputs=lambda: (torch.randn(4, 9, 3),),
        output=each(None, along(-1)),
        expected=paths(
            "{k}.weight", "blocks.{i}.{l}.weight", k=("up", "std", "out"), i=range(2), l=("first", "direction", "last")
        ),
        without_effect=dict.fromkeys(paths(*IDLE, i=range(2)), "what reads it starts at zero"),
        invariant=frozenset({"code"}),
    ),
    entry(
        "VN recurrent cell",
        DENG,
        "O(3)",
        VNGRU,
        inputs=lambda: (torch.randn(8, 4, 3),),
        expected=frozenset({"input", "state", "out"}),
        invariant=frozenset({"gates"}),
    ),
    GATED(name="Gated vectors, traced", make=traced, expected=paths("up", "mix", "out"), invariant=paths("gate")),
    GATED(
        name="Gated vectors, exported",
        make=exported,
        output=each(along(-1)),
        expected=paths("up.weight", "mix.weight", "out"),
        invariant=paths("gate.weight"),
    ),
)
