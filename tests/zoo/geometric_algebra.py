"""Multivectors of Clifford algebras: CGENN, GATr and L-GATr, with linear maps of a weight for each grade, or of a basis."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.entry import Entry, along, paths

Multivectors = Float[Tensor, "*batch channel blade"]


class Algebra:
    """Of vectors e_i with the squares `metric`; blade b is the product of the e_i whose bit i is set in b."""

    def __init__(self, *metric: float) -> None:
        self.metric, self.dim = metric, 2 ** len(metric)
        self.blades = sorted(range(self.dim), key=lambda b: (b.bit_count(), b))
        self.grades = torch.tensor([b.bit_count() for b in self.blades])

    def product(self, a: int, b: int) -> tuple[int, float]:
        """The product of two blades: which blade, times what."""
        swaps = sum((a >> shift & b).bit_count() for shift in range(1, len(self.metric)))
        squares = [m for i, m in enumerate(self.metric) if a >> i & b >> i & 1]
        return a ^ b, float((-1) ** swaps * torch.tensor(squares, dtype=torch.float64).prod())

    def table(self) -> Float[Tensor, "blade blade blade"]:
        """(x y)_i = sum_jk table[i, j, k] x_j y_k."""
        place = {blade: i for i, blade in enumerate(self.blades)}
        table = torch.zeros(self.dim, self.dim, self.dim)
        for j, a in enumerate(self.blades):
            for k, b in enumerate(self.blades):
                blade, factor = self.product(a, b)
                table[place[blade], j, k] = factor
        return table

    def squares(self) -> Float[Tensor, " blade"]:
        """<x~ x> = sum_i squares[i] x_i^2."""
        signs = [(-1) ** (grade * (grade - 1) // 2) for grade in self.grades.tolist()]
        return torch.tensor([sign * self.product(b, b)[1] for sign, b in zip(signs, self.blades, strict=True)])

    def embed(self, v: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch blade"]:
        """A vector as a multivector."""
        return nn.functional.pad(v, (1, self.dim - 1 - v.shape[-1]))


class GradeLinear(nn.Module):
    """Clifford-group networks (Ruhe et al. 2023, arXiv 2305.11141): a weight for each grade, repeated for its blades."""

    def __init__(self, algebra: Algebra, width_in: int, width_out: int) -> None:
        super().__init__()
        grades = int(algebra.grades.max()) + 1
        self.weight = nn.Parameter(torch.randn(width_out, width_in, grades) / width_in**0.5)
        self.register_buffer("subspaces", torch.bincount(algebra.grades))

    def forward(self, x: Multivectors) -> Multivectors:
        weight = self.weight.repeat_interleave(self.subspaces, dim=-1)
        return torch.einsum("...mi,nmi->...ni", x, weight)


class GradeGate(nn.Module):
    """Each grade times a sigmoid of its square; the scalar times that of itself."""

    def __init__(self, algebra: Algebra) -> None:
        super().__init__()
        self.register_buffer("squares", algebra.squares())
        self.register_buffer("grades", algebra.grades)
        self.register_buffer("sums", torch.eye(int(algebra.grades.max()) + 1)[algebra.grades])

    def forward(self, x: Multivectors) -> Multivectors:
        squares = torch.einsum("...i,ig->...g", x.square() * self.squares, self.sums)
        norms = torch.cat([x[..., :1], squares[..., 1:]], dim=-1)
        return x * torch.sigmoid(norms / (1 + norms.abs()))[..., self.grades]


class GeometricProduct(nn.Module):
    """x + x (W x), the product in the algebra."""

    def __init__(self, algebra: Algebra, linear: Callable[[int, int], nn.Module], width: int) -> None:
        super().__init__()
        self.right = linear(width, width)
        self.register_buffer("table", algebra.table())

    def forward(self, x: Multivectors) -> Multivectors:
        return x + torch.einsum("ijk,...j,...k->...i", self.table, x, self.right(x)) / x.shape[-1]


class CliffordNetwork(nn.Module):
    """Vectors [point, n] to a vector each."""

    def __init__(self, algebra: Algebra, linear: Callable[..., nn.Module] = GradeLinear, width: int = 4) -> None:
        super().__init__()
        self.algebra = algebra
        made = functools.partial(linear, algebra)
        self.up, self.out = made(2, width), made(width, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(made(width, width), GradeGate(algebra), GeometricProduct(algebra, made, width)) for _ in range(2)
        )

    def forward(self, v: Float[Tensor, "point n"]) -> Float[Tensor, "point n"]:
        x = self.algebra.embed(torch.stack([v, v.mean(0).expand_as(v)], dim=1))
        x = self.up(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.out(x)[:, 0, 1 : 1 + v.shape[-1]]


@functools.lru_cache(8)
def grade_projections(algebra: Algebra, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "basis blade blade"]:
    """The maps of multivectors to those of one grade, made once for each device and precision."""
    grades = algebra.grades.to(device)
    return torch.stack([torch.diag((grades == grade).to(dtype)) for grade in range(int(grades.max()) + 1)])


class BasisLinear(nn.Module):
    """L-GATr (Spinner et al. 2024, arXiv 2405.14806): one einsum of coefficients, a cached basis, and x."""

    def __init__(self, algebra: Algebra, width_in: int, width_out: int) -> None:
        super().__init__()
        self.algebra = algebra
        grades = int(algebra.grades.max()) + 1
        self.weight = nn.Parameter(torch.randn(width_out, width_in, grades) / width_in**0.5)

    def basis(self, x: Tensor) -> Float[Tensor, "basis blade blade"]:
        return grade_projections(self.algebra, x.device, x.dtype)

    def forward(self, x: Multivectors) -> Multivectors:
        return torch.einsum("yxa,aij,...xj->...yi", self.weight, self.basis(x), x)


class TwoStepLinear(BasisLinear):
    """The same, with the coefficients contracted with the basis first, as L-GATr does to save time."""

    def forward(self, x: Multivectors) -> Multivectors:
        basis = self.basis(x)
        matrix = (self.weight @ basis.flatten(1)).unflatten(-1, basis.shape[1:])
        return torch.einsum("yxij,...xj->...yi", matrix, x)


PROJECTIVE = Algebra(1.0, 1.0, 1.0, 0.0)
"""PGA: e0 is the last of the four vectors."""


@functools.lru_cache(8)
def projective_basis(device: torch.device, dtype: torch.dtype) -> Float[Tensor, "basis 16 16"]:
    """GATr's nine maps that commute with E(3): five projections to grades, and e0 times four of them."""
    algebra, table = PROJECTIVE, PROJECTIVE.table().to(device, dtype)
    grades = grade_projections(algebra, device, dtype)
    times_e0 = table[:, 1 + 3, :]
    return torch.stack([*grades, *(times_e0 @ grade for grade in grades[:4])])


class GATrLinear(nn.Module):
    """GATr (Brehmer et al. 2023, arXiv 2305.18415), eq. 5."""

    def __init__(self, algebra: Algebra, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in, 9) / width_in**0.5)

    def forward(self, x: Multivectors) -> Multivectors:
        basis = projective_basis(device=x.device, dtype=x.dtype)
        return torch.einsum("yxa,aij,...xj->...yi", self.weight, basis, x)


LAYERS = ("q", "k", "v", "o", "left", "right")


class GATr(nn.Module):
    """Attention among points as trivectors, gates, geometric products, and a point each."""

    def __init__(self, width: int = 4, depth: int = 2) -> None:
        super().__init__()
        made = functools.partial(GATrLinear, PROJECTIVE)
        self.up, self.out = made(1, width), made(width, 1)
        self.blocks = nn.ModuleList(nn.ModuleDict({name: made(width, width) for name in LAYERS}) for _ in range(depth))
        squares = PROJECTIVE.squares()
        self.register_buffer("inner", squares)
        self.register_buffer("table", PROJECTIVE.table())

    def forward(self, points: Float[Tensor, "point 3"]) -> Float[Tensor, "point 3"]:
        x = self.up(self.embed(points)[:, None])
        for block in self.blocks:
            q, k, v = (block[name](x) for name in "qkv")
            weights = torch.softmax(torch.einsum("nci,mci,i->nm", q, k, self.inner) / 4, dim=-1)
            x = x + block["o"](torch.einsum("nm,mci->nci", weights, v))
            y = torch.einsum("ijk,ncj,nck->nci", self.table, block["left"](x), block["right"](x)) / 4
            x = x + y * torch.sigmoid(y[..., :1])
        y = self.out(x)[:, 0, 12:15]
        return y.flip(-1) * y.new_tensor([1.0, -1.0, 1.0])

    @staticmethod
    def embed(points: Float[Tensor, "point 3"]) -> Float[Tensor, "point 16"]:
        """Points as multivectors: their coordinates on the trivectors with e0, up to a sign, and 1 on e123."""
        x = points.new_zeros(len(points), 16)
        x[:, 11] = 1.0
        x[:, 12:15] = points.flip(-1) * points.new_tensor([1.0, -1.0, 1.0])
        return x


SITES = paths("{at}.weight", at=("up", "out")) | paths("layers.{i}.{j}.weight", i=range(2), j=(0, "2.right"))


def entry(name: str, source: str, group: str, algebra: Algebra, linear: Callable[..., nn.Module]) -> Entry:
    return Entry(
        name=name,
        source=source,
        group=group,
        make=functools.partial(CliffordNetwork, algebra, linear),
        inputs=lambda: (torch.randn(20, len(algebra.metric)),),
        expected=SITES,
        input_action=lambda g, inputs: (along(-1)(g, inputs[0]),),
        output=along(-1),
    )


SPACE, MINKOWSKI = Algebra(1.0, 1.0, 1.0), Algebra(1.0, -1.0, -1.0, -1.0)
RUHE, SPINNER = "Ruhe et al. 2023, arXiv 2305.11141", "Spinner et al. 2024, arXiv 2405.14806"

ENTRIES = (
    entry("Clifford-group network", RUHE, "O(3)", SPACE, GradeLinear),
    entry("Clifford-group network, Lorentz", RUHE, "SO(1,3)", MINKOWSKI, GradeLinear),
    entry("L-GATr linear", SPINNER, "SO(1,3)", MINKOWSKI, BasisLinear),
    entry("L-GATr linear in two steps", SPINNER, "SO(1,3)", MINKOWSKI, TwoStepLinear),
    entry("Clifford basis", SPINNER, "O(3)", SPACE, BasisLinear),
    Entry(
        name="GATr",
        source="Brehmer et al. 2023, arXiv 2305.18415",
        group="SO(3)",
        make=GATr,
        inputs=lambda: (torch.randn(20, 3),),
        expected=paths("up.weight", "out.weight", "blocks.{i}.{k}.weight", i=range(2), k=LAYERS),
        input_action=lambda g, inputs: (along(-1)(g, inputs[0]),),
        output=along(-1),
    ),
)
