"""What goes in and comes out: containers, integers, booleans, complex numbers, objects that hide their tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verdicts.actions import along, each, first, fixed, keyed
from verdicts.entry import BROKEN, SOUND, UNSEEN, Action, Entry
from verdicts.parts import (
    linear,
    made,
    mlp,
    normal,
    plain,
)
from verdicts.vector_models import after, centred, norms, up

VECTORS = along(-2)


class Atoms(NamedTuple):
    pos: Tensor
    charge: Tensor


@dataclass
class System:
    pos: Tensor
    charge: Tensor
    name: str = "water"


@dataclass
class Prediction:
    energy: Tensor
    dipole: Tensor


class Hidden:
    """An object of the user's own."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean


def one_hot(score: Tensor) -> Tensor:
    return F.one_hot(score.argmax(), len(score)).to(score)


def named_vectors(g: Tensor, output: Any) -> Tensor:
    return VECTORS(g, output.v)


class Slotted:
    __slots__ = ("mean",)

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean


def outputs(
    name: str, make: Callable[[], nn.Module], carry: Action = fixed, fault: str = "", *, label: str = "", **more: Any
) -> Entry:
    label = label or (BROKEN if fault else SOUND)
    given = {"inputs": normal((11, 3)), "move": first(along(-1)), "label": label, "fault": fault, "group": "SO(3)"}
    return Entry(name, make=make, carry=carry, **(given | more))


def channels(function: Callable[..., Any], **parts: Any) -> Callable[[], nn.Module]:
    return after(lambda self, v: function(v), **parts)


def dipole(act: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """Of a container with positions and charges."""

    def forward(self: nn.Module, atoms: Any) -> Prediction:
        v = act(centred(atoms.pos)) * self.phi(atoms.charge)
        return Prediction(v.square().sum(), v.sum(0))

    return plain(forward, phi=lambda: mlp(1, 1))


def same(x: Tensor) -> Tensor:
    return x


def atoms() -> tuple[Tensor, Tensor]:
    return torch.randn(9, 3), torch.randn(9, 1)


def by_name(self: nn.Module, pos: Tensor, charge: Tensor) -> dict[str, Any]:
    v = self.up(centred(pos)[..., None])
    return {"v": v, "nested": [{"n": norms(v)}, (charge + 1, v[:3].sum(0))], "cutoff": 5.0, "none": None}


NESTED = keyed(v=VECTORS, nested=lambda g, value: [value[0], (value[1][0], VECTORS(g, value[1][1]))])
ATOMS = first(keyed(pos=along(-1)))
PREDICTED = keyed(energy=fixed, dipole=along(-1))


def complex_channels(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        v = up(self, x)
        return function(torch.complex(v, torch.zeros_like(v)) * self.w)

    return plain(forward, up=linear(1), w=lambda: nn.Parameter(torch.randn(4, dtype=torch.cfloat)))


ENTRIES = (
    outputs(
        "nested dicts",
        plain(by_name, up=linear(1)),
        NESTED,
        inputs=lambda: dict(zip(("pos", "charge"), atoms(), strict=True)),
        move=keyed(pos=along(-1)),
    ),
    outputs(
        "a dict in one argument",
        plain(lambda self, batch: by_name(self, **batch), up=linear(1)),
        NESTED,
        inputs=lambda: (dict(zip(("pos", "charge"), atoms(), strict=True)),),
        move=first(keyed(pos=along(-1))),
    ),
    outputs("a named tuple in, a dataclass out", dipole(same), PREDICTED, inputs=lambda: (Atoms(*atoms()),), move=ATOMS),
    outputs("a dataclass in, a dataclass out", dipole(same), PREDICTED, inputs=lambda: (System(*atoms()),), move=ATOMS),
    outputs("a named tuple out", channels(lambda v: Atoms(v, norms(v))), keyed(pos=VECTORS, charge=fixed)),
    outputs("one tensor returned twice", channels(lambda v: (v, v)), each(VECTORS, VECTORS)),
    outputs("a constant beside vectors", channels(lambda v: (v, torch.tensor(5.0))), each(VECTORS, fixed)),
    outputs("counts beside vectors", channels(lambda v: {"v": v, "count": torch.tensor(len(v))}), keyed(v=VECTORS)),
    outputs("largest channel by length", channels(lambda v: {"v": v, "class": norms(v).argmax(-1)}), keyed(v=VECTORS)),
    outputs("classes alone", after(lambda self, v: self.head(norms(v)).argmax(-1), head=lambda: mlp(4, 3))),
    outputs("a mask by length", channels(lambda v: (v, norms(v) > 0.5)), each(VECTORS, fixed)),
    outputs("order by length", channels(lambda v: v[v[..., 0].norm(dim=1).argsort()]), VECTORS),
    outputs("complex vectors", complex_channels(lambda z: z), VECTORS),
    outputs("complex lengths", complex_channels(lambda z: z.abs().square().sum(1))),
    outputs("a phase of lengths", after(lambda self, v: torch.exp(1j * self.head(norms(v))), head=linear())),
    outputs(
        "a list of as many as there are points",
        channels(list),
        lambda g, value: [VECTORS(g, each_v) for each_v in value],
    ),
    outputs("a scalar without axes", channels(lambda v: norms(v).sum())),
    outputs(
        "a nested dict with a fault inside",
        plain(lambda self, pos, charge: {"v": centred(pos), "nested": [(charge, torch.relu(pos - 1))]}),
        lambda g, value: {
            "v": along(-1)(g, value["v"]),
            "nested": [(value["nested"][0][0], along(-1)(g, value["nested"][0][1]))],
        },
        ":sub",
        inputs=lambda: dict(zip(("pos", "charge"), atoms(), strict=True)),
        move=keyed(pos=along(-1)),
    ),
    outputs(
        "a named tuple in, abs of components",
        dipole(torch.abs),
        PREDICTED,
        ":abs",
        inputs=lambda: (Atoms(*atoms()),),
        move=ATOMS,
    ),
    outputs(
        "a dataclass in, tanh of components",
        dipole(torch.tanh),
        PREDICTED,
        ":tanh",
        inputs=lambda: (System(*atoms()),),
        move=ATOMS,
    ),
    outputs("largest component", channels(lambda v: {"v": v, "class": v.argmax(1)}), keyed(v=VECTORS), ":argmax"),
    outputs(
        "classes of components alone",
        after(lambda self, v: self.head(v[:, 0]).argmax(-1), head=lambda: mlp(4, 3)),
        fixed,
        ":__getitem__ head.0:linear",
    ),
    outputs(
        "a mask by components", channels(lambda v: (v, v[:, 0] > 0.5)), each(VECTORS, fixed), ":__getitem__ :gt :__gt__"
    ),
    outputs("order by a component", channels(lambda v: v[v[:, 0, 0].argsort()]), VECTORS, ":__getitem__ :argsort"),
    outputs("relu of an imaginary part", complex_channels(lambda z: torch.relu(z.imag) + z.real), VECTORS, ":relu"),
    outputs(
        "phases of components",
        complex_channels(lambda z: torch.view_as_complex(torch.stack([z.real[:, 0], z.imag[:, 1]], -1)).angle().cos()),
        fixed,
        ":__getitem__ :angle :stack",
    ),
    outputs(
        "a complex number of two components",
        channels(lambda v: torch.complex(v[:, 0], v[:, 1])),
        fixed,
        ":__getitem__ :complex",
    ),
    outputs(
        "second of three outputs",
        channels(lambda v: (v, v.clamp(min=-0.1), norms(v))),
        each(VECTORS, VECTORS, fixed),
        ":clamp",
    ),
    outputs("a distribution", channels(lambda v: torch.distributions.Normal(torch.relu(v).sum(-1), 1.0)), label=UNSEEN),
    outputs("a sound distribution", channels(lambda v: torch.distributions.Normal(norms(v), 1.0)), label=UNSEEN),
    outputs("an object of the user's own", channels(lambda v: Hidden(torch.relu(v))), label=UNSEEN),
    outputs("an object with slots", channels(lambda v: Slotted(torch.relu(v))), label=UNSEEN),
    outputs("an array of numpy's", channels(lambda v: torch.relu(v).detach().numpy()), label=UNSEEN),
    outputs("a number", channels(lambda v: float(torch.relu(v).sum())), label=UNSEEN),
    outputs("nothing", channels(lambda v: None), label=UNSEEN),
    outputs("numbers in a list", channels(lambda v: torch.relu(v).sum((0, 1)).tolist()), label=UNSEEN),
    outputs("a function", channels(lambda v: (v, lambda: torch.relu(v))), label=UNSEEN),
    outputs("a sound object beside a tensor", channels(lambda v: (v, Hidden(v))), label=UNSEEN),
    outputs(
        "a namespace", channels(lambda v: SimpleNamespace(v=v, n=[norms(v)])), lambda g, out: (VECTORS(g, out.v), out.n)
    ),
    outputs("a namespace with a fault inside", channels(lambda v: SimpleNamespace(v=torch.relu(v))), named_vectors, ":relu"),
    outputs("a count alone", channels(lambda v: (norms(v) > 1).sum())),
    outputs("a count by coordinates alone", channels(lambda v: (v[:, 0] > 0.3).sum()), fixed, ":__getitem__ :gt :__gt__"),
    outputs(
        "words of components",
        after(lambda self, v: self.words((2 * v[:, 2]).long().clamp(-3, 3) + 3), words=made(nn.Embedding, 7, 2)),
        fixed,
        ":__getitem__ :long",
    ),
    outputs("the largest vector marked", channels(lambda v: one_hot(v.square().sum((1, 2))))),
    outputs("the rightmost vector marked", channels(lambda v: one_hot(v[:, 0, 0])), fixed, ":__getitem__ :argmax"),
    outputs(
        "a tensor beside a hidden one",
        channels(lambda v: {"v": v, "dist": torch.distributions.Normal(torch.relu(v), 1.0)}),
        label=UNSEEN,
    ),
)
