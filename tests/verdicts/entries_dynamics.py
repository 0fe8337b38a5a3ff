"""What evolves in time: trajectories, flows, Hamiltonians, fixed points; and what only long chains of layers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from verdicts.actions import along, each, first
from verdicts.entry import BROKEN, LATENT, NEVER, SOUND, Action, Entry
from verdicts.parts import linear, made, mlp, normal, parameter, plain
from verdicts.vector_models import after, centred, gated, norms, squared

VECTOR, CHANNELS = along(-1), along(-2)
Field = Callable[[nn.Module, Tensor], Tensor]


def dynamics(
    name: str, make: Callable[[], nn.Module], carry: Action = VECTOR, fault: str = "", *, label: str = "", **more: Any
) -> Entry:
    """A model of five points."""
    given = {"group": "O(3)", "inputs": normal((5, 3)), "move": first(VECTOR)}
    return Entry(name, make=make, carry=carry, label=label or (BROKEN if fault else SOUND), fault=fault, **(given | more))


def pulls(self: nn.Module, x: Tensor) -> Tensor:
    """Forces along differences, which fade with the distance."""
    r = x[:, None] - x[None]
    return (r * self.phi(torch.exp(-squared(x[:, None], x[None])))).mean(1)


def pulls_and_weight(self: nn.Module, x: Tensor) -> Tensor:
    return pulls(self, x) + self.weight


def pulls_in_a_magnetic_field(self: nn.Module, x: Tensor) -> Tensor:
    return pulls(self, x) + torch.linalg.cross(x, self.field.expand_as(x))


def flow(field: Field, steps: int = 3, h: float = 0.1) -> Field:
    """Runge and Kutta's fourth-order steps along a field."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        for _ in range(steps):
            a = field(self, x)
            b = field(self, x + h / 2 * a)
            c = field(self, x + h / 2 * b)
            x = x + h / 6 * (a + 2 * b + 2 * c + field(self, x + h * c))
        return x

    return forward


def motion(energy: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Hamilton's equations: velocities and forces from the derivatives of an energy."""

    def forward(self: nn.Module, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            q, p = q.detach().requires_grad_(), p.detach().requires_grad_()
            dq, dp = torch.autograd.grad(energy(self, q, p), (q, p), create_graph=True)
        return dp, -dq

    return forward


def potential(self: nn.Module, q: Tensor) -> Tensor:
    return self.phi(torch.exp(-squared(q[:, None], q[None]))).sum()


def total(self: nn.Module, q: Tensor, p: Tensor) -> Tensor:
    return potential(self, q) + p.square().sum()


def remembered(read: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    """The last velocities, weighed by what a recurrent layer remembers of what is `read` of all of them."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        v = centred(x).diff(dim=0)
        memory, _ = self.rnn(read(v))
        return torch.einsum("nd,nk->nd", v[-1], memory[-1])

    return forward


def fixed_point(self: nn.Module, v: Tensor) -> Tensor:
    found = v
    for _ in range(20):
        found = 0.5 * found + 0.1 * gated(self, self.mix(found)) + 0.1 * v
    return found


def softmax_by_hand(self: nn.Module, v: Tensor) -> Tensor:
    """exp overflows in float32, and not yet in float64."""
    weights = (100 + norms(v).sum(-1)[:, None, None]).exp()
    return (v * weights / weights.sum(0)).sum(0)


def branch(self: nn.Module, v: Tensor) -> Tensor:
    """Layer norms of lengths beside a branch that is zero, with a bias in it that is zero."""
    return v * self.norms(norms(v)).unsqueeze(-2) + self.gate * self.out(self.mix(v))


def zeros(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.zeros(shape))


def biased_by_zero() -> nn.Linear:
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.bias)
    return layer


PHI = {"phi": lambda: mlp(1, 1)}
PHASE = {"inputs": normal((4, 3), (4, 3)), "move": each(VECTOR, VECTOR), "carry": each(VECTOR, VECTOR)}
COURSE = {"inputs": normal((6, 5, 3)), "group": "SO(3)"}
UPWARDS = {"field": lambda: torch.tensor([0.0, 0.0, 1.0])}

ENTRIES = (
    dynamics("a neural flow", plain(flow(pulls), **PHI)),
    dynamics("a neural flow with weight", plain(flow(pulls_and_weight), weight=lambda: parameter(3), **PHI), fault=":add"),
    dynamics(
        "a neural flow with a weight of zero",
        plain(flow(pulls_and_weight), weight=zeros(3), **PHI),
        fault=":add",
        label=LATENT,
    ),
    dynamics(
        "a neural flow in a magnetic field", plain(flow(pulls_in_a_magnetic_field), **UPWARDS, **PHI), fault=":linalg_cross"
    ),
    dynamics(
        "Hamilton's equations", plain(motion(lambda self, q, p: potential(self, q) + p.square().sum()), **PHI), **PHASE
    ),
    dynamics(
        "Hamilton's equations with a mass of each axis",
        plain(
            motion(lambda self, q, p: potential(self, q) + (p.square() * self.masses).sum()),
            masses=lambda: parameter(3),
            **PHI,
        ),
        fault=":square :mul",
        **PHASE,
    ),
    dynamics(
        "Hamilton's equations in a frame that turns",
        plain(motion(lambda self, q, p: p.square().sum() + self.rate * torch.linalg.cross(q, p)[:, 2].sum()), rate=zeros()),
        fault=":__getitem__",
        label=LATENT,
        **PHASE,
    ),
    dynamics(
        "speeds remembered",
        plain(remembered(lambda v: v.norm(dim=-1, keepdim=True)), rnn=made(nn.LSTM, 1, 4)),
        **COURSE,
    ),
    dynamics("velocities remembered", plain(remembered(lambda v: v), rnn=made(nn.LSTM, 3, 4)), fault="rnn:lstm", **COURSE),
    dynamics("a fixed point", after(fixed_point, mix=linear(), gate=linear()), CHANNELS),
    dynamics("weights that overflow in float32", after(softmax_by_hand), CHANNELS, label=NEVER, precision=torch.float32),
    dynamics(
        "a bias of zero behind two other zeros",
        after(
            branch,
            norms=lambda: nn.Sequential(*(nn.LayerNorm(4) for _ in range(3))),
            mix=biased_by_zero,
            out=lambda: nn.Linear(4, 4, bias=False),
            gate=zeros(),
        ),
        CHANNELS,
        "mix:linear",
        label=LATENT,
    ),
)
