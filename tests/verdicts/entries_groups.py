"""Groups other than rotations of space: translations, motions, the plane's, Lorentz, scalings, the cube's, quaternions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verdicts.actions import along, each, first, fixed, shifted, through, times
from verdicts.entry import BROKEN, SOUND, Action, Entry, Matrices, claimed, told
from verdicts.parts import (
    linear,
    made,
    mlp,
    normal,
    parameter,
    plain,
)
from verdicts.vector_models import EGNN, Forces, centred, manhattan, squared


def under(
    group: str | Matrices, move: Action, shape: tuple[int, ...], *, tell: bool = False, tell_output: bool = False
) -> Callable[..., Entry]:
    """A constructor of entries under one group, of models of one tensor."""

    def entry(name: str, make: Callable[[], nn.Module], carry: Action = fixed, fault: str = "", **more: Any) -> Entry:
        given = {"inputs": normal(shape), "label": BROKEN if fault else SOUND, "fault": fault} | more
        found = Entry(name, group, make, move=first(move), carry=carry, **given)
        return told(found, output=tell_output) if tell else found

    return entry


T3 = under("T(3)", shifted, (9, 3), tell=True)
T3_TOLD = under("T(3)", shifted, (9, 3), tell=True, tell_output=True)

TRANSLATIONS = (
    T3("differences alone", plain(lambda self, x: self.head(centred(x)), head=lambda: mlp(3, 2))),
    T3("positions in, positions out", lambda: EGNN(squared), shifted),
    T3(
        "positions by an mlp of relative ones",
        plain(lambda self, x: x + self.head(centred(x)), head=lambda: mlp(3, 3)),
        shifted,
    ),
    T3(
        "centre of mass",
        plain(lambda self, x: (torch.softmax(self.score(centred(x)), 0) * x).sum(0), score=lambda: mlp(3, 1)),
        shifted,
    ),
    T3("manhattan distances", lambda: EGNN(manhattan), shifted),
    T3("forces and energy", lambda: Forces(manhattan), each(fixed, fixed)),
    T3(
        "absolute positions fed to an mlp",
        plain(lambda self, x: self.head(x), head=lambda: mlp(3, 2)),
        fixed,
        "head.0:linear head.1:silu",
    ),
    T3_TOLD("positions scaled", plain(lambda self, x: 1.1 * x), shifted, ":mul"),
    T3(
        "weights that do not add up",
        plain(lambda self, x: (torch.sigmoid(self.score(centred(x))) * x).sum(0), score=lambda: mlp(3, 1)),
        shifted,
        ":mul :sum",
    ),
    T3(
        "centred on part",
        plain(lambda self, x: self.head(x - x[:4].sum(0) / 5), head=lambda: mlp(3, 2)),
        fixed,
        ":sub head.0:linear head.1:silu",
    ),
    T3("wrapped into a box", plain(lambda self, x: x % 2.0), shifted, ":remainder :__mod__"),
    T3("lengths of positions", plain(lambda self, x: x.norm(dim=-1)), fixed, ":norm"),
)


def _motions() -> Matrices:
    lie = torch.zeros(6, 4, 4, dtype=torch.float64)
    for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        lie[k, i, j], lie[k, j, i], lie[3 + k, k, 3] = -1, 1, 1
    return Matrices("SE(3)", lie=lie)


def moved(g: Tensor, x: Tensor) -> Tensor:
    return x @ g[:3, :3].to(x).mT + g[:3, 3].to(x)


turned = through(lambda g: g[:3, :3], -1)
SE3 = under(_motions(), moved, (9, 3), tell=True)
SE3_TOLD = under(_motions(), moved, (9, 3), tell=True, tell_output=True)

MOTIONS = (
    SE3(
        "energy of pairs",
        plain(lambda self, x: self.head(torch.exp(-squared(x[:, None], x[None]))).sum(), head=lambda: mlp(1, 1)),
    ),
    SE3_TOLD("positions in and out", lambda: EGNN(squared), moved),
    SE3_TOLD("forces", lambda: Forces(squared), each(fixed, turned)),
    SE3(
        "energy of manhattan pairs",
        plain(
            lambda self, x: self.head(torch.exp(-(x[:, None] - x[None]).abs().sum(-1, keepdim=True))).sum(),
            head=lambda: mlp(1, 1),
        ),
        fixed,
        ":abs",
    ),
    SE3(
        "energy in a harmonic trap",
        plain(lambda self, x: self.head(torch.exp(-x.square().sum(-1, keepdim=True))).sum(), head=lambda: mlp(1, 1)),
        fixed,
        ":square :sum",
    ),
    SE3_TOLD("positions in and out by manhattan distances", lambda: EGNN(manhattan), moved, ":abs"),
)

SO2, O2, C4P, D3, C6 = (under(group, along(-1), (9, 2)) for group in ("SO(2)", "O(2)", "C(4)", "D(3)", "C(6)"))
O2_TOLD = under("O(2)", along(-1), (9, 2), tell=True, tell_output=True)


def rotated_by_quarter(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1], x[..., 0]], -1)


def over_four_turns(bias: float) -> Callable[[], nn.Module]:
    """The sum of relus over quarter turns; without a bias these add up to twice the identity."""
    turns = torch.stack([torch.linalg.matrix_power(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), k) for k in range(4)])
    return plain(lambda self, x: sum(F.relu(x @ r - bias) @ r.mT for r in self.turns), turns=turns.clone)


def power(x: Tensor, k: int) -> Tensor:
    """The k-th harmonic of points of the plane, as a pair."""
    z = torch.view_as_complex(x) ** k
    return torch.view_as_real(z)


PLANE = (
    SO2(
        "complex linear map",
        plain(lambda self, x: self.a * x + self.b * rotated_by_quarter(x), a=lambda: parameter(1), b=lambda: parameter(1)),
        along(-1),
    ),
    SO2("second harmonics", plain(lambda self, x: power(x, 2)), through(lambda g: g @ g, -1)),
    SO2(
        "third harmonics gated",
        plain(lambda self, x: power(x, 3) * self.gate(x.norm(dim=-1, keepdim=True)), gate=lambda: mlp(1, 1)),
        through(lambda g: g @ g @ g, -1),
    ),
    SO2(
        "areas",
        plain(
            lambda self, x: self.head((x * rotated_by_quarter(x.roll(1, 0))).sum(-1, keepdim=True)), head=lambda: mlp(1, 2)
        ),
    ),
    SO2(
        "complex output",
        plain(lambda self, x: torch.view_as_complex(x) * self.w, w=lambda: nn.Parameter(torch.randn(9, dtype=torch.cfloat))),
        times(lambda g: torch.complex(g[0, 0], g[1, 0])),
    ),
    SO2("relus that cancel", over_four_turns(0.0), along(-1)),
    O2("lengths", plain(lambda self, x: self.head(x.norm(dim=-1, keepdim=True)), head=lambda: mlp(1, 2))),
    O2("second harmonics' lengths", plain(lambda self, x: power(x, 2).sum(0).norm())),
    C4P("squares of coordinates", plain(lambda self, x: self.head(x.pow(4).sum(-1, keepdim=True)), head=lambda: mlp(1, 2))),
    C4P("distance to the axes", plain(lambda self, x: self.head(x.abs().amin(-1, keepdim=True)), head=lambda: mlp(1, 2))),
    C4P(
        "relu over four turns",
        over_four_turns(0.3),
        along(-1),
    ),
    D3("third harmonics, real part", plain(lambda self, x: self.head(power(x, 3)[..., :1]), head=lambda: mlp(1, 2))),
    C6("sixth harmonics", plain(lambda self, x: self.head(power(x, 6)), head=lambda: mlp(2, 2))),
    SO2(
        "fourth powers, as a lattice has",
        plain(lambda self, x: self.head(x.pow(4).sum(-1, keepdim=True)), head=lambda: mlp(1, 2)),
        fixed,
        ":pow",
    ),
    SO2(
        "distance to the axes under turns",
        plain(lambda self, x: self.head(x.abs().amin(-1, keepdim=True)), head=lambda: mlp(1, 2)),
        fixed,
        ":abs",
    ),
    SO2(
        "relu over four turns under all turns",
        over_four_turns(0.3),
        along(-1),
        ":relu :sub",
    ),
    SO2("conjugate beside itself", plain(lambda self, x: x + x * torch.tensor([1.0, -1.0])), along(-1), ":add :mul"),
    SO2(
        "bins of the angle",
        plain(
            lambda self, x: self.head(F.one_hot(((torch.atan2(x[:, 1], x[:, 0]) + 4) * 2).long(), 16).to(x).mean(0)),
            head=made(nn.Linear, 16, 2),
        ),
        fixed,
        ":atan2 :__getitem__",
    ),
    O2(
        "areas under reflections",
        plain(
            lambda self, x: self.head((x * rotated_by_quarter(x.roll(1, 0))).sum(-1, keepdim=True)), head=lambda: mlp(1, 2)
        ),
        fixed,
        "head.0:linear :stack",
    ),
    O2_TOLD(
        "complex linear map under reflections",
        plain(lambda self, x: self.a * x + self.b * rotated_by_quarter(x), a=lambda: parameter(1), b=lambda: parameter(1)),
        along(-1),
        ":add :stack",
    ),
    C4P(
        "squares of coordinates apart",
        plain(lambda self, x: self.head(x.square()), head=lambda: mlp(2, 2)),
        fixed,
        "head.0:linear :square :pow",
    ),
    D3(
        "third harmonics, imaginary part",
        plain(lambda self, x: self.head(power(x, 3)[..., 1:]), head=lambda: mlp(1, 2)),
        fixed,
        "head.0:linear",
    ),
    C6("fourth harmonics", plain(lambda self, x: self.head(power(x, 4)), head=lambda: mlp(2, 2)), fixed, "head.0:linear"),
)

METRIC = torch.tensor([1.0, -1.0, -1.0, -1.0])
LORENTZ = under("SO(1,3)", along(-1), (7, 4))


def minkowski(a: Tensor, b: Tensor) -> Tensor:
    return (a * b * METRIC.to(a)).sum(-1, keepdim=True)


def squashed(x: Tensor) -> Tensor:
    return x.sign() * x.abs().log1p()


def lorentz_net(product: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    """LorentzNet: four-momenta updated along each other with weights of their products."""

    def forward(self: nn.Module, p: Tensor) -> Tensor:
        return p + (self.phi(squashed(product(p[:, None], p[None]))) * p[None]).mean(1)

    return plain(forward, phi=lambda: mlp(1, 1))


def plain_product(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


JETS = (
    LORENTZ(
        "invariant masses",
        plain(lambda self, p: self.head(squashed(minkowski(p[:, None], p[None]))).sum((0, 1)), head=lambda: mlp(1, 2)),
    ),
    LORENTZ("lorentznet", lorentz_net(minkowski), along(-1)),
    LORENTZ("channels of momenta", plain(lambda self, p: self.mix(p[..., None]), mix=linear(1, 3)), along(-2)),
    LORENTZ("lorentznet with a euclidean product", lorentz_net(plain_product), along(-1), ":mul :sum"),
    LORENTZ(
        "energies", plain(lambda self, p: self.head(squashed(p[..., :1])), head=lambda: mlp(1, 2)), fixed, ":__getitem__"
    ),
    LORENTZ("lengths of the momenta in space", plain(lambda self, p: p[..., 1:].norm(dim=-1)), fixed, ":__getitem__ :norm"),
    LORENTZ(
        "transverse momentum and rapidity",
        plain(lambda self, p: torch.stack([p[..., 1].hypot(p[..., 2]), p[..., 3].asinh()], -1)),
        fixed,
        ":__getitem__ :hypot",
    ),
)

DILATION = under("Scale(2)", along(-1), (9, 2))


def degree(k: int) -> Action:
    return times(lambda g: g[0, 0] ** k)


SCALES = (
    DILATION(
        "ratios of lengths",
        plain(lambda self, x: self.head(x.norm(dim=-1, keepdim=True) / x.norm()), head=lambda: mlp(1, 2)),
    ),
    DILATION(
        "linear without bias, relu",
        plain(lambda self, x: self.b(F.relu(self.a(x))), a=linear(2, 6), b=linear(6, 2)),
        along(-1),
    ),
    DILATION("areas, of degree two", plain(lambda self, x: x.square().sum(-1)), degree(2)),
    DILATION(
        "root mean square norm",
        plain(lambda self, x: self.head(x / x.square().mean((0, 1), keepdim=True).sqrt()), head=lambda: mlp(2, 2)),
    ),
    DILATION(
        "biases",
        plain(lambda self, x: self.b(F.relu(self.a(x))), a=made(nn.Linear, 2, 6), b=linear(6, 2)),
        along(-1),
        "a:linear",
    ),
    DILATION(
        "tanh", plain(lambda self, x: self.b(torch.tanh(self.a(x))), a=linear(2, 6), b=linear(6, 2)), along(-1), ":tanh"
    ),
    DILATION("a length scale of its own", plain(lambda self, x: torch.exp(-x.square().sum(-1))), fixed, ":exp"),
    DILATION("an epsilon as large as the data", plain(lambda self, x: x / (x.norm() + 0.1)), fixed, ":add"),
)

CUBE = under("Octa", along(-1), (9, 3))
FULL_CUBE = under("FullOcta", along(-1), (9, 3))

CUBES = (
    CUBE(
        "fourth powers under the cube's turns",
        plain(lambda self, x: self.head(x.pow(4).sum(-1, keepdim=True)), head=lambda: mlp(1, 2)),
    ),
    CUBE("relu of both signs", plain(lambda self, x: F.relu(x - 0.3) - F.relu(-x - 0.3)), along(-1)),
    FULL_CUBE(
        "largest coordinate", plain(lambda self, x: self.head(x.abs().amax(-1, keepdim=True)), head=lambda: mlp(1, 2))
    ),
    CUBE("relu of one sign", plain(lambda self, x: F.relu(x)), along(-1), ":relu"),
    FULL_CUBE(
        "product of the coordinates",
        plain(lambda self, x: self.head(x.prod(-1, keepdim=True)), head=lambda: mlp(1, 2)),
        fixed,
        "head.0:linear :prod",
    ),
    claimed(
        CUBE("weights along the axes", plain(lambda self, x: x * torch.tensor([1.0, 1.0, 2.0]).to(x)), along(-1), ":mul")
    ),
)


def quaternion_matrix(q: Tensor) -> Tensor:
    w, x, y, z = F.normalize(q, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def quaternion_of(g: Tensor) -> Tensor:
    """One of the two unit quaternions of a rotation: the eigenvector of its symmetric 4 x 4 matrix."""
    k = torch.zeros(4, 4, dtype=g.dtype)
    k[0, 0], k[1:, 1:] = g.trace(), g + g.mT - g.trace() * torch.eye(3, dtype=g.dtype)
    k[0, 1:] = k[1:, 0] = torch.stack([g[2, 1] - g[1, 2], g[0, 2] - g[2, 0], g[1, 0] - g[0, 1]])
    return torch.linalg.eigh(k).eigenvectors[:, -1]


def multiplied(g: Tensor, q: Tensor) -> Tensor:
    """The quaternion of g times q: what an orientation becomes when the world is turned."""
    a, b, c, d = quaternion_of(g).to(q.dtype).tolist()
    left = torch.tensor([[a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a]], dtype=q.dtype)
    return q @ left.mT


BODIES = under("SO(3)", multiplied, (7, 4), tell=True)

ORIENTATIONS = (
    BODIES(
        "axes of bodies from quaternions",
        plain(lambda self, q: quaternion_matrix(q) @ self.axis, axis=lambda: parameter(3)),
        along(-1),
    ),
    BODIES(
        "relative orientations", plain(lambda self, q: self.head((q @ q.mT).square().flatten()), head=made(nn.Linear, 49, 3))
    ),
    BODIES(
        "relative orientations with a sign",
        plain(lambda self, q: self.head(F.relu(q @ q.mT).flatten()), head=made(nn.Linear, 49, 3)),
    ),
    BODIES(
        "quaternions fed to an mlp",
        plain(lambda self, q: self.head(q), head=lambda: mlp(4, 2)),
        fixed,
        "head.0:linear head.1:silu",
    ),
    BODIES(
        "quaternions with a positive real part",
        plain(lambda self, q: q * q[:, :1].sign()),
        multiplied,
        ":sign :__getitem__ :mul",
    ),
    BODIES("euler angles", plain(lambda self, q: quaternion_matrix(q)[:, 2, :2]), fixed, ":__getitem__"),
)

ENTRIES = (*TRANSLATIONS, *MOTIONS, *PLANE, *JETS, *SCALES, *CUBES, *ORIENTATIONS)
