"""Networks of tensor products: Tensor Field Networks, NequIP, Allegro, DeepH-E3 and Cormorant.

The first in e3nn's layers, the last with its own complex Clebsch-Gordan products, features [node, channel, m] by degree.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from e3nn import nn as enn
from e3nn import o3
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.entry import Entry, along, each, paths
from zoo.graphs import neighbours

Edges = Int[Tensor, "2 edge"]


def atoms(count: int = 14) -> tuple[Tensor, ...]:
    positions = 1.5 * torch.randn(count, 3)
    return torch.randint(4, (count,)), positions, neighbours(positions, 3.0)


def moved(g: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return inputs[0], along(-1)(g, inputs[1]), inputs[2]


def geometry(positions: Tensor, edges: Edges, radial: int, largest: int) -> tuple[Tensor, Tensor]:
    """Gaussians of the distances, and spherical harmonics of the directions."""
    r = positions[edges[0]] - positions[edges[1]]
    y = o3.spherical_harmonics(list(range(largest + 1)), r, normalize=True, normalization="component")
    return torch.exp(-((r.norm(dim=-1, keepdim=True) - torch.linspace(0, 3, radial).to(r)) ** 2)), y


class NequIPLayer(nn.Module):
    """NequIP (Batzner et al. 2022, arXiv 2101.03164): self-interaction, convolution with a radial network, gate."""

    def __init__(self, irreps_in: str, irreps_out: str, types: int, radial: int) -> None:
        super().__init__()
        harmonics = o3.Irreps("0e+1o+2e")
        scalars = o3.Irreps([(mul, ir) for mul, ir in o3.Irreps(irreps_out) if ir.l == 0])
        gated = o3.Irreps([(mul, ir) for mul, ir in o3.Irreps(irreps_out) if ir.l > 0])
        gates = o3.Irreps(f"{gated.num_irreps}x0e") if len(gated) else o3.Irreps("")
        self.gate = enn.Gate(scalars, [torch.nn.functional.silu], gates, [torch.sigmoid] if len(gated) else [], gated)
        instructions, middle = [], []
        for i, (mul, ir) in enumerate(o3.Irreps(irreps_in)):
            for j, (_, other) in enumerate(harmonics):
                for out in ir * other:
                    if out in self.gate.irreps_in:
                        instructions.append((i, j, len(middle), "uvu", True))
                        middle.append((mul, out))
        self.linear_1 = o3.Linear(irreps_in, irreps_in)
        self.tp = o3.TensorProduct(
            irreps_in, harmonics, o3.Irreps(middle), instructions, shared_weights=False, internal_weights=False
        )
        self.fc = nn.Sequential(nn.Linear(radial, 8), nn.SiLU(), nn.Linear(8, self.tp.weight_numel))
        self.linear_2 = o3.Linear(self.tp.irreps_out, self.gate.irreps_in)
        self.sc = o3.FullyConnectedTensorProduct(irreps_in, f"{types}x0e", self.gate.irreps_in)

    def forward(self, x: Tensor, attrs: Tensor, edges: Edges, radial: Tensor, y: Tensor) -> Tensor:
        messages = self.tp(self.linear_1(x)[edges[0]], y, self.fc(radial))
        gathered = messages.new_zeros(len(x), messages.shape[-1]).index_add(0, edges[1], messages)
        return self.gate(self.linear_2(gathered / 3.0) + self.sc(x, attrs))


class NequIP(nn.Module):
    """An energy, and forces by autograd inside forward."""

    def __init__(self, types: int = 4, radial: int = 4) -> None:
        super().__init__()
        self.types, self.radial = types, radial
        self.embedding = o3.Linear(f"{types}x0e", "3x0e")
        self.layers = nn.ModuleList(
            [
                NequIPLayer("3x0e", "3x0e+2x1o+1x2e", types, radial),
                NequIPLayer("3x0e+2x1o+1x2e", "3x0e+2x1o+1x2e", types, radial),
            ]
        )
        self.head_1 = o3.Linear("3x0e+2x1o+1x2e", "4x0e")
        self.head_2 = o3.Linear("4x0e", "1x0e")

    def forward(self, numbers: Tensor, positions: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            positions = positions if positions.requires_grad else positions.detach().requires_grad_()
            radial, y = geometry(positions, edges, self.radial, 2)
            attrs = torch.nn.functional.one_hot(numbers, self.types).to(positions)
            x = self.embedding(attrs)
            for layer in self.layers:
                x = layer(x, attrs, edges, radial, y)
            energy = self.head_2(self.head_1(x)).sum()
            forces = -torch.autograd.grad(energy, positions, create_graph=True)[0]
        return energy, forces


class Allegro(nn.Module):
    """Allegro (Musaelian et al. 2023, arXiv 2204.05249): pairs carry scalars and tensors [edge, channel, irreps]."""

    def __init__(self, types: int = 4, radial: int = 4, width: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.types, self.radial = types, radial
        self.two_body = nn.Sequential(nn.Linear(2 * types + radial, 8), nn.SiLU(), nn.Linear(8, 8))
        self.env = nn.ModuleList(nn.Linear(8, width) for _ in range(depth + 1))
        irreps = o3.Irreps("0e+1o+2e")
        self.products = nn.ModuleList(
            o3.TensorProduct(
                irreps, irreps, irreps,
                [(i, j, k, "uuu", True) for i, j, k in [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2), (2, 0, 2)]],
            ) for _ in range(depth)
        )  # fmt: skip
        self.linears = nn.ParameterList(torch.randn(3, width, width) / width**0.5 for _ in range(depth))
        self.register_buffer("degrees", torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2]))
        self.latents = nn.ModuleList(
            nn.Sequential(nn.Linear(8 + width, 8), nn.SiLU(), nn.Linear(8, 8)) for _ in range(depth)
        )
        self.head = nn.Linear(8, 1)

    def forward(self, numbers: Tensor, positions: Tensor, edges: Edges) -> Tensor:
        radial, y = geometry(positions, edges, self.radial, 2)
        types = torch.nn.functional.one_hot(numbers, self.types).to(positions)
        scalars = self.two_body(torch.cat([types[edges[0]], types[edges[1]], radial], dim=-1))
        tensors = self.env[0](scalars)[..., None] * y[:, None]
        for product, weight, env, latent in zip(self.products, self.linears, self.env[1:], self.latents, strict=True):
            around = y.new_zeros(len(numbers), *tensors.shape[1:])
            around = around.index_add(0, edges[0], env(scalars)[..., None] * y[:, None])[edges[0]]
            tensors = product(tensors, around)
            tensors = torch.einsum("ecm,mcd->edm", tensors, weight[self.degrees])
            scalars = scalars + latent(torch.cat([scalars, tensors[..., 0]], dim=-1))
        return self.head(scalars).sum()


class TFNLayer(nn.Module):
    """Tensor Field Networks (Thomas et al. 2018, arXiv 1802.08219): filters R(r) Y, self-interaction, norm nonlinearity."""

    def __init__(self, width: int, radial: int) -> None:
        super().__init__()
        self.filters = nn.ModuleList(nn.Sequential(nn.Linear(radial, 6), nn.ReLU(), nn.Linear(6, width)) for _ in range(5))
        self.mix_0, self.mix_1 = nn.Linear(2 * width, width), nn.Linear(3 * width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, s: Tensor, v: Tensor, edges: Edges, radial: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        sender, receiver = edges
        a, b, c, d, e = (filter_(radial) for filter_ in self.filters)
        si, vi, u = s[sender], v[sender], u[:, :, None]
        zeros = torch.cat([a * si, b * (u * vi).sum(1)], dim=-1)
        # 1 x 2 -> 1, Y_2 as the traceless part of u u^T
        twos = (u * vi).sum(1, keepdim=True) * u - vi / 3
        ones = torch.cat([c[:, None] * si[:, None] * u, d[:, None] * vi, e[:, None] * twos], dim=-1)
        s = self.mix_0(zeros.new_zeros(len(s), zeros.shape[-1]).index_add(0, receiver, zeros))
        v = self.mix_1(ones.new_zeros(len(s), *ones.shape[1:]).index_add(0, receiver, ones))
        norm = (v.square().sum(1, keepdim=True) + 1e-8).sqrt()
        return torch.nn.functional.silu(s), v * torch.nn.functional.softplus(norm + self.bias) / norm


class TFN(nn.Module):
    """A vector for each point."""

    def __init__(self, width: int = 4, radial: int = 4) -> None:
        super().__init__()
        self.radial = radial
        self.embedding = nn.Embedding(4, width)
        self.layers = nn.ModuleList(TFNLayer(width, radial) for _ in range(2))
        self.head = nn.Linear(width, 1, bias=False)

    def forward(self, numbers: Tensor, positions: Tensor, edges: Edges) -> Tensor:
        r = positions[edges[0]] - positions[edges[1]]
        distance = r.norm(dim=-1, keepdim=True)
        radial = torch.exp(-((distance - torch.linspace(0, 3, self.radial).to(r)) ** 2))
        s = self.embedding(numbers)
        v = s.new_zeros(len(s), 3, s.shape[-1])
        for layer in self.layers:
            s, v = layer(s, v, edges, radial, r / distance)
        return self.head(v).squeeze(-1)


class EquiLinear(o3.Linear):
    """A subclass of e3nn's, as DeepH-E3 has."""


class SeparateTP(nn.Module):
    """DeepH-E3's separate weight tensor product: a product without weights between two linear layers."""

    def __init__(self, irreps_in: str, irreps_out: str) -> None:
        super().__init__()
        self.tp = o3.FullTensorProduct(irreps_in, "0e+1o", filter_ir_out=["0e", "1o", "2e"])
        self.linear_in = EquiLinear(irreps_in, irreps_in)
        self.linear_out = EquiLinear(self.tp.irreps_out.simplify(), irreps_out, biases=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.linear_out(self.tp(self.linear_in(x), y))


class DeepHE3(nn.Module):
    """DeepH-E3 (Gong et al. 2023, arXiv 2210.13955): edge features from those of both nodes; blocks of a Hamiltonian.

    Spherical harmonics of (y, z, x), and a block of the Hamiltonian between an s and a p orbital, and two p orbitals.
    """

    def __init__(self, radial: int = 4) -> None:
        super().__init__()
        self.radial = radial
        irreps = "4x0e+3x1o+2x2e"
        self.embedding = nn.Linear(4, 4)
        self.distance = nn.Linear(radial, 4)
        self.first = SeparateTP("4x0e", irreps)
        self.update = SeparateTP(irreps, irreps)
        self.edge = EquiLinear(f"{irreps}+{irreps}", irreps)
        self.onto = EquiLinear(irreps, "1x0e+1x1o+1x2e")
        self.register_buffer("w3j", o3.wigner_3j(1, 1, 2))

    def forward(self, numbers: Tensor, positions: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        r = (positions[edges[0]] - positions[edges[1]])[:, [1, 2, 0]]
        y = o3.spherical_harmonics([0, 1], r, normalize=True, normalization="component")
        radial = torch.exp(-((r.norm(dim=-1, keepdim=True) - torch.linspace(0, 3, self.radial).to(r)) ** 2))
        s = self.embedding(torch.nn.functional.one_hot(numbers, 4).to(positions))
        x = self.first(s[edges[0]] * torch.sigmoid(self.distance(radial)), y)
        nodes = x.new_zeros(len(s), x.shape[-1]).index_add(0, edges[1], x)
        x = x + self.update(torch.tanh(x[:, :1]) * x, y)
        blocks = self.onto(self.edge(torch.cat([nodes[edges[0]], x], dim=-1)))
        pp = torch.einsum("ijk,ek->eij", self.w3j, blocks[:, 4:]) + blocks[:, :1, None] * torch.eye(3).to(x)
        back = [2, 0, 1]
        return blocks[:, 1:4][:, back], pp[:, back][:, :, back]


def clebsch_gordan(a: int, b: int, c: int) -> Float[Tensor, "2a+1 2b+1 2c+1"]:
    """<a m, b n | c k> of Condon and Shortley, by Racah's formula."""

    def f(n: int) -> float:
        return float(math.factorial(n))

    table = torch.zeros(2 * a + 1, 2 * b + 1, 2 * c + 1, dtype=torch.float64)
    for m in range(-a, a + 1):
        for n in range(-b, b + 1):
            k = m + n
            if abs(k) > c:
                continue
            size = (2 * c + 1) * f(a + b - c) * f(a - b + c) * f(b - a + c) / f(a + b + c + 1)
            size *= f(c + k) * f(c - k) * f(a + m) * f(a - m) * f(b + n) * f(b - n)
            total = 0.0
            for z in range(a + b - c + 1):
                terms = (z, a + b - c - z, a - m - z, b + n - z, c - b + m + z, c - a - n + z)
                if min(terms) >= 0:
                    total += (-1) ** z / math.prod(map(f, terms))
            table[m + a, n + b, k + c] = size**0.5 * total
    return table


def complex_harmonics(r: Float[Tensor, "edge 3"]) -> list[Float[Tensor, "edge m 2"]]:
    """Solid harmonics of degrees 0 and 1 in the complex basis, real and imaginary parts last."""
    x, y, z = r.unbind(-1)
    one, half = torch.ones_like(x), 0.5**0.5
    first = torch.stack([torch.stack([x, -y], -1) * half, torch.stack([z, 0 * z], -1), torch.stack([-x, -y], -1) * half], 1)
    return [torch.stack([one, 0 * one], -1)[:, None], first]


Parts = list[Float[Tensor, "node channel m 2"]]


class Cormorant(nn.Module):
    """Cormorant (Anderson et al. 2019, arXiv 1906.04015): complex Clebsch-Gordan products, then mixing by degree."""

    def __init__(self, width: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 2 * width)
        self.radial = nn.ModuleList(nn.Linear(4, width) for _ in range(depth))
        tau = [[1, 1], [3, 3]]
        self.mix = nn.ModuleList(
            nn.ParameterList(torch.randn(width, many * width, 2) / (2 * many * width) ** 0.5 for many in counts)
            for counts in tau[:depth]
        )
        for a, b, c in [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)]:
            self.register_buffer(f"cg_{a}{b}{c}", clebsch_gordan(a, b, c).to(torch.get_default_dtype()))
        self.head = nn.Linear(2 * width, 1)

    def product(self, x: Tensor, y: Tensor, a: int, b: int, c: int) -> Tensor:
        """(x y)_k = sum_mn <m n | k> x_m y_n, complex."""
        table = getattr(self, f"cg_{a}{b}{c}")
        parts = torch.einsum("mnk,ecmp,ecnq->eckpq", table, x, y)
        return torch.stack([parts[..., 0, 0] - parts[..., 1, 1], parts[..., 0, 1] + parts[..., 1, 0]], dim=-1)

    def mixed(self, weight: Tensor, x: Tensor) -> Tensor:
        """A complex matrix of channels, in four real products."""
        (wr, wi), (xr, xi) = weight.unbind(-1), x.unbind(-1)
        real = torch.einsum("dc,ncm->ndm", wr, xr) - torch.einsum("dc,ncm->ndm", wi, xi)
        imaginary = torch.einsum("dc,ncm->ndm", wr, xi) + torch.einsum("dc,ncm->ndm", wi, xr)
        return torch.stack([real, imaginary], dim=-1)

    def forward(self, numbers: Tensor, positions: Tensor, edges: Edges) -> Tensor:
        sender, receiver = edges
        r = positions[sender] - positions[receiver]
        radial = torch.exp(-((r.norm(dim=-1, keepdim=True) - torch.linspace(0, 3, 4).to(r)) ** 2))
        x: Parts = [self.embedding(numbers).unflatten(-1, (-1, 1, 2))]
        for mix, envelope in zip(self.mix, self.radial, strict=True):
            scale = envelope(radial)[..., None, None]
            y = [scale * harmonic[:, None] for harmonic in complex_harmonics(r)]
            pairs = {0: [(0, 0), (1, 1)], 1: [(0, 1), (1, 0), (1, 1)]}
            new: Parts = []
            for degree in (0, 1):
                made = [self.product(x[a][sender], y[b], a, b, degree) for a, b in pairs[degree] if a < len(x)]
                gathered = [each.new_zeros(len(numbers), *each.shape[1:]).index_add(0, receiver, each) for each in made]
                own = [x[degree]] if degree < len(x) and len(x) > 1 and degree == 0 else []
                new.append(self.mixed(mix[degree], torch.cat(gathered + own, dim=1)))
            x = new
        return self.head(x[0].flatten(1)).sum()


class BlockCormorant(Cormorant):
    """The same, where the complex matrix is one of real blocks [[Re, -Im], [Im, Re]]."""

    def mixed(self, weight: Tensor, x: Tensor) -> Tensor:
        real, imaginary = weight.unbind(-1)
        blocks = torch.stack([torch.stack([real, -imaginary], -1), torch.stack([imaginary, real], -1)], -2)
        return torch.einsum("dcpq,ncmq->ndmp", blocks, x)


class ComplexCormorant(Cormorant):
    """The same, in torch's complex numbers."""

    def mixed(self, weight: Tensor, x: Tensor) -> Tensor:
        mixed = torch.einsum("dc,ncm->ndm", torch.view_as_complex(weight), torch.view_as_complex(x.contiguous()))
        return torch.view_as_real(mixed)


def entry(
    name: str, source: str, make: Callable[[], nn.Module], output: Callable[..., object] | None, **more: object
) -> Entry:
    shown = {"group": "O(3)"} if output is None else {"group": "O(3)", "output": output}
    return Entry(name=name, source=source, make=make, inputs=atoms, input_action=moved, **(shown | more))  # type: ignore[arg-type]


COMPLEX_INVARIANT = paths("radial.{i}", "mix.{i}.0", "head", i=range(2))
EDGE_WEIGHTS = "a network of edge lengths makes its weights, one set an edge"


ENTRIES = (
    entry(
        "NequIP",
        "Batzner et al. 2022, arXiv 2101.03164",
        NequIP,
        lambda g, y: (y[0], along(-1)(g, y[1])),
        expected=paths("layers.0.linear_2", "layers.1.{k}", "layers.0.sc", "head_1", k=("linear_1", "linear_2", "sc")),
        invariant=paths("embedding", "layers.0.linear_1", "head_2", "layers.{i}.fc.{j}", i=range(2), j=(0, 2)),
        impossible=dict.fromkeys(paths("layers.{i}.tp", i=range(2)), EDGE_WEIGHTS),
    ),
    entry(
        "Allegro",
        "Musaelian et al. 2023, arXiv 2204.05249",
        Allegro,
        None,
        expected=paths("linears.{i}", "products.{i}", i=range(2)),
        invariant=paths("two_body.{j}", "env.{k}", "latents.{i}.{j}", "head", i=range(2), j=(0, 2), k=range(3)),
    ),
    entry(
        "Tensor Field Network",
        "Thomas et al. 2018, arXiv 1802.08219",
        TFN,
        along(-1),
        expected=paths("layers.{i}.mix_1", "head", i=range(2)),
        invariant=paths("layers.{i}.mix_0", "layers.{i}.filters.{k}.{j}", i=range(2), j=(0, 2), k=range(5)),
    ),
    entry(
        "DeepH-E3",
        "Gong et al. 2023, arXiv 2210.13955",
        DeepHE3,
        each(along(-1), along(-1, -2)),
        expected=paths("first.linear_out", "update.linear_in", "update.linear_out", "edge", "onto"),
        invariant=paths("first.linear_in", "embedding", "distance"),
    ),
    entry(
        "Cormorant",
        "Anderson et al. 2019, arXiv 1906.04015",
        Cormorant,
        None,
        invariant=COMPLEX_INVARIANT,
        impossible=dict.fromkeys(paths("mix.{i}.1", i=range(2)), "real and imaginary parts apart carry no representation"),
        expected=frozenset(),
        group="SO(3)",
    ),
    entry(
        "Cormorant in real blocks",
        "Anderson et al. 2019, arXiv 1906.04015",
        BlockCormorant,
        None,
        expected=paths("mix.{i}.1", i=range(2)),
        without_effect={"mix.1.1": "its output is not used"},
        invariant=COMPLEX_INVARIANT,
        group="SO(3)",
    ),
    entry(
        "Cormorant in complex numbers",
        "Anderson et al. 2019, arXiv 1906.04015",
        ComplexCormorant,
        None,
        expected=paths("mix.{i}.1", i=range(2)),
        without_effect={"mix.1.1": "its output is not used"},
        invariant=COMPLEX_INVARIANT,
        group="SO(3)",
    ),
)
