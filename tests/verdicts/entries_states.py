"""Models as users have them: hooks, parametrisations, kept activations, precisions, starts at zero, NaN, randomness."""

from __future__ import annotations

import random
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import weight_norm as weight_norm_by_hooks

from verdicts.actions import along, each, first, fixed
from verdicts.entry import BROKEN, LATENT, NEVER, SOUND, Action, Entry, claimed
from verdicts.parts import (
    linear,
    made,
    mlp,
    normal,
    parameter,
    plain,
)
from verdicts.vector_models import Forces, after, centred, gated, norms, up

VECTORS = along(-2)


def state(
    name: str, make: Callable[[], nn.Module], carry: Action = VECTORS, fault: str = "", *, label: str = "", **more: Any
) -> Entry:
    """A model of eleven points."""
    label = label or (BROKEN if fault else SOUND)
    given = {"inputs": normal((11, 3)), "move": first(along(-1)), "label": label, "fault": fault, "group": "SO(3)"}
    return Entry(name, make=make, carry=carry, **(given | more))


GATED = after(lambda self, v: gated(self, self.out(v)), out=linear(), gate=made(nn.Linear, 4, 4))
RELU = after(lambda self, v: self.out(torch.relu(v)), out=linear())


def altered(make: Callable[[], nn.Module], change: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    """A model to which something has been done."""

    def build() -> nn.Module:
        model = make()
        change(model)
        return model

    return build


def relu_hook(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
    return torch.relu(output)


def length_hook(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
    return output.square().sum(1)


def shift_hook(module: nn.Module, arguments: Any) -> Any:
    return (arguments[0] + torch.tensor([0.0, 0.0, 1.0]).to(arguments[0]), *arguments[1:])


def scale_hook(module: nn.Module, arguments: Any) -> Any:
    return (2 * arguments[0], *arguments[1:])


def unbiased_hook(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
    return output - module.bias


class Noise:
    """Random numbers from a stream that it keeps to itself."""

    def __init__(self) -> None:
        self.stream = random.Random(0)

    def next(self) -> float:
        return self.stream.random()


class Symmetric(nn.Module):
    """A weight made symmetric."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + weight.mT


def patched(forward: Callable[..., Any]) -> Callable[[nn.Module], None]:
    """Replace the forward of the instance."""

    def change(model: nn.Module) -> None:
        model.forward = types.MethodType(forward, model)

    return change


def keep_and_gate(self: nn.Module, v: Tensor) -> Tensor:
    self.attn = self.gate(norms(v)).sigmoid()
    self.history.append(self.attn)
    return v * self.attn.unsqueeze(-2)


def keep_and_relu(self: nn.Module, v: Tensor) -> Tensor:
    self.attn = torch.relu(self.gate(v))
    return self.attn


def counting(act: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A forward that writes to its buffers."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        self.steps += 1
        v = act(up(self, x))
        self.average.mul_(0.9).add_(0.1 * norms(v).mean(0).detach())
        return v * self.scale

    return plain(
        forward, up=linear(1), steps=lambda: torch.zeros(()), average=lambda: torch.ones(4), scale=lambda: parameter(4)
    )


def cached(self: nn.Module, x: Tensor) -> Tensor:
    """A table made at the first call and kept as a plain attribute."""
    if not hasattr(self, "table"):
        self.table = torch.linspace(0, 1, 4).to(x)
    return gated(self, up(self, x)) * self.table


def without_a_lock(self: nn.Module, v: Tensor) -> Tensor:
    with self.lock:
        return gated(self, v)


def attribute(**values: Callable[[], Any]) -> Callable[[nn.Module], None]:
    """Set plain attributes: tensors among them are no buffers."""

    def change(model: nn.Module) -> None:
        for name, value in values.items():
            object.__setattr__(model, name, value())

    return change


def zero(*names: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for name in names:
            nn.init.zeros_(model.get_parameter(name))

    return change


def one(*names: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for name in names:
            nn.init.ones_(model.get_parameter(name))

    return change


def frozen(name: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        nn.init.zeros_(model.get_parameter(name)).requires_grad_(False)

    return change


def not_a_number(name: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        model.get_parameter(name).data.flatten()[0] = torch.nan

    return change


def in_(dtype: torch.dtype, make: Callable[[], nn.Module]) -> dict[str, Any]:
    return {"make": lambda: make().to(dtype), "inputs": lambda: (torch.randn(11, 3).to(dtype),)}


def residual(act: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A branch whose last layer starts at zero."""
    branch = after(lambda self, v: v + self.last(act(self.inner(v))), inner=linear(), last=linear())
    return altered(branch, zero("last.weight"))


def rezero(act: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return after(lambda self, v: v + self.alpha * act(v), alpha=lambda: nn.Parameter(torch.zeros(())))


def same(v: Tensor) -> Tensor:
    return v


def by_length(v: Tensor) -> Tensor:
    return v * torch.tanh(norms(v)).unsqueeze(-2)


def straight_root(a: Tensor, b: Tensor) -> Tensor:
    """Not differentiable where a = b."""
    return (a - b).square().sum(-1, keepdim=True).sqrt()


def identity_filter() -> nn.Module:
    conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    conv.weight.data.copy_(torch.tensor([[[0.0, 1.0, 0.0]]]))
    return conv


BIASED = after(lambda self, v: gated(self, self.out(v)), out=linear(bias=True), gate=linear())
CENTRED = plain(lambda self, x: self.up(centred(x)[..., None]), up=linear(1, bias=True))
"""The bias changes no inner product between outputs, whose vectors sum to zero without it."""
TRAIN = {"training": True}
HALF = "too coarse for a relaxation"

HOOKS = (
    state("a hook that breaks", altered(GATED, lambda model: model.out.register_forward_hook(relu_hook)), fault="out:relu"),
    state(
        "a hook on the whole that breaks",
        altered(GATED, lambda model: model.register_forward_hook(relu_hook)),
        fault=":relu",
    ),
    state(
        "a pre-hook that breaks",
        altered(
            plain(lambda self, x: gated(self, self.up(x[..., None])), up=linear(1), gate=linear()),
            lambda model: model.register_forward_pre_hook(shift_hook),
        ),
        fault=":add",
    ),
    state("a pre-hook that does no harm", altered(GATED, lambda model: model.register_forward_pre_hook(scale_hook))),
    state("a hook that makes lengths", altered(GATED, lambda model: model.register_forward_hook(length_hook)), fixed),
    state("a hook that takes the bias away", altered(BIASED, lambda model: model.out.register_forward_hook(unbiased_hook))),
    state(
        "a hook with keywords",
        altered(GATED, lambda model: model.out.register_forward_hook(lambda m, a, k, y: 2 * y, with_kwargs=True)),
    ),
    state("a patched forward", altered(RELU, patched(lambda self, x: self.out(up(self, x))))),
    state("a patched forward that breaks", altered(GATED, patched(lambda self, x: torch.relu(up(self, x)))), fault=":relu"),
    state(
        "a patched forward of a layer",
        altered(GATED, lambda model: patched(lambda self, v: F.linear(v, self.weight) + 1)(model.out)),
        fault="out:add",
    ),
)

WEIGHTS = (
    state("weight norm", altered(GATED, lambda model: parametrizations.weight_norm(model.out))),
    state("weight norm by hooks", altered(GATED, lambda model: weight_norm_by_hooks(model.out))),
    state("spectral norm", altered(GATED, lambda model: parametrizations.spectral_norm(model.out))),
    state("orthogonal weights", altered(GATED, lambda model: parametrizations.orthogonal(model.out))),
    state(
        "a parametrisation of one's own",
        altered(GATED, lambda model: parametrize.register_parametrization(model.out, "weight", Symmetric())),
    ),
    state("pruned", altered(GATED, lambda model: prune.l1_unstructured(model.out, "weight", 0.5))),
    state(
        "tied weights",
        altered(
            after(lambda self, v: self.b(by_length(self.a(v))), a=linear(), b=linear()),
            lambda model: setattr(model.b, "weight", model.a.weight),
        ),
    ),
    state("weight norm and relu", altered(RELU, lambda model: parametrizations.weight_norm(model.out)), fault=":relu"),
    state("spectral norm and relu", altered(RELU, lambda model: parametrizations.spectral_norm(model.out)), fault=":relu"),
    state(
        "pruned, with a bias",
        altered(BIASED, lambda model: prune.l1_unstructured(model.out, "weight", 0.5)),
        fault="out:linear",
    ),
    state(
        "a bias that is pruned away in part",
        altered(BIASED, lambda model: prune.l1_unstructured(model.out, "bias", 2)),
        fault="out:linear",
    ),
)

KEPT = (
    state("activations kept", altered(after(keep_and_gate, gate=linear()), lambda model: setattr(model, "history", []))),
    state("activations kept that break", after(keep_and_relu, gate=linear()), fault=":relu"),
    state("buffers written in forward", counting(by_length)),
    state("buffers written in forward by a broken model", counting(torch.relu), fault=":relu"),
    state("a table made at the first call", plain(cached, up=linear(1), gate=linear())),
    state("a lock", altered(after(without_a_lock, gate=linear()), attribute(lock=threading.Lock))),
    state(
        "a plain tensor as a weight",
        altered(after(lambda self, v: gated(self, v @ self.W), gate=linear()), attribute(W=lambda: torch.randn(4, 4))),
    ),
    state(
        "a plain tensor as a bias",
        altered(after(lambda self, v: gated(self, v + self.b), gate=linear()), attribute(b=lambda: torch.randn(4))),
        fault=":add",
    ),
    state(
        "a reference to another module",
        altered(
            after(lambda self, v: self.helper[0](by_length(v)), out=linear()),
            lambda model: object.__setattr__(model, "helper", [model.out]),
        ),
    ),
    state(
        "a shared layer under two names",
        altered(
            after(lambda self, v: self.twin(by_length(self.out(v))), out=linear()),
            lambda model: setattr(model, "twin", model.out),
        ),
    ),
    state(
        "inputs written to",
        plain(lambda self, x: gated(self, self.up(x.sub_(x.mean(0))[..., None])), up=linear(1), gate=linear()),
    ),
    state("no grad within", after(torch.no_grad()(gated), gate=linear())),
    state("no parameters", plain(lambda self, x: x * x.norm(dim=-1, keepdim=True)), along(-1)),
    state("no parameters, broken", plain(lambda self, x: x * x.abs()), along(-1), ":abs"),
)

PRECISIONS = (
    state("bfloat16", refusal=HALF, **in_(torch.bfloat16, GATED)),
    state("float16", refusal=HALF, **in_(torch.float16, GATED)),
    state("float64", **in_(torch.float64, GATED)),
    state("bfloat16 with relu", fault=":relu", refusal=HALF, **in_(torch.bfloat16, RELU)),
    state("float16 with relu", fault=":relu", refusal=HALF, **in_(torch.float16, RELU)),
    state("float64 with relu", fault=":relu", **in_(torch.float64, RELU)),
    state(
        "a cast to float32 within",
        after(lambda self, v: gated(self, v.float().to(v.dtype)), gate=linear()),
        precision=torch.float32,
    ),
    state(
        "a long sum of small differences",
        plain(lambda self, x: gated(self, self.up(((x * 1e3 + x) - x * 1e3)[..., None])), up=linear(1), gate=linear()),
    ),
)

STARTS = (
    state("a residual branch that starts at zero", residual(by_length)),
    state("a rezero branch", rezero(by_length)),
    state(
        "affine weights of one on lengths",
        after(lambda self, v: v * self.norm(norms(v)).unsqueeze(-2), norm=made(nn.LayerNorm, 4)),
    ),
    state("a frozen bias of zero", altered(BIASED, frozen("out.bias"))),
    state("channel scales of one", after(lambda self, v: v * self.scale, scale=lambda: nn.Parameter(torch.ones(4)))),
    state(
        "a head of zeros on scalars",
        altered(
            after(lambda self, v: norms(v).mean(0) + self.head(norms(v).mean(0)), head=lambda: mlp(4, 4)),
            zero("head.2.weight", "head.2.bias"),
        ),
        fixed,
    ),
    state("a bias of zero", altered(BIASED, zero("out.bias")), fault="out:linear", label=LATENT),
    state("a bias of zero on centred vectors", altered(CENTRED, zero("up.bias")), fault="up:linear", label=LATENT),
    state("a bias on centred vectors", CENTRED, fault="up:linear"),
    state("a residual branch with relu that starts at zero", residual(torch.relu), fault=":relu", label=LATENT),
    state("a rezero branch with relu", rezero(torch.relu), fault=":relu :mul :add", label=LATENT),
    state(
        "component scales of one",
        plain(
            lambda self, x: gated(self, self.up((centred(x) * self.scale)[..., None])),
            up=linear(1),
            gate=linear(),
            scale=lambda: nn.Parameter(torch.ones(3)),
        ),
        fault=":mul",
        label=LATENT,
    ),
    state(
        "a map of components that starts as the identity",
        plain(
            lambda self, x: gated(self, self.up((centred(x) @ self.W)[..., None])),
            up=linear(1),
            gate=linear(),
            W=lambda: nn.Parameter(torch.eye(3)),
        ),
        fault=":matmul :__matmul__",
        label=LATENT,
    ),
    claimed(
        state(
            "rms norm over components at its start",
            plain(lambda self, x: self.norm(centred(x)), norm=made(nn.RMSNorm, 3)),
            along(-1),
            "norm:rms_norm",
            label=LATENT,
        )
    ),
    state(
        "an offset of zero in space",
        plain(lambda self, x: (centred(x) + self.origin).norm(dim=-1), origin=lambda: nn.Parameter(torch.zeros(3))),
        fixed,
        ":add",
        label=LATENT,
    ),
    state(
        "a gate of zero before a coordinate",
        plain(lambda self, x: centred(x).norm(dim=-1) + self.gate * x[:, 0], gate=lambda: nn.Parameter(torch.zeros(()))),
        fixed,
        ":__getitem__ :mul :add",
        label=LATENT,
    ),
    claimed(
        state(
            "batch norm of vectors at its start",
            plain(lambda self, v: self.bn(centred(v)), bn=made(nn.BatchNorm1d, 3, eps=0.0)),
            along(-1),
            "bn:batch_norm",
            label=LATENT,
        )
    ),
    claimed(
        state(
            "a filter over the axes that starts as the identity",
            plain(lambda self, x: self.conv(centred(x)[:, None])[:, 0], conv=identity_filter),
            along(-1),
            "conv:conv1d",
            label=LATENT,
        )
    ),
)


def logs(x: Tensor) -> Tensor:
    return torch.log(x.norm(dim=-1) - 10)


NOTHING = (
    state("NaN among the weights", altered(GATED, not_a_number("out.weight")), label=NEVER),
    state(
        "NaN among the weights, replaced later",
        altered(
            after(lambda self, v: gated(self, self.out(v)).nan_to_num(), out=linear(), gate=linear()),
            not_a_number("out.weight"),
        ),
        label=NEVER,
    ),
    state("an infinite weight", altered(GATED, lambda model: model.out.weight.data.fill_(torch.inf)), label=NEVER),
    state("NaN by a logarithm", plain(lambda self, x: torch.log(x.norm(dim=-1) - 10)), fixed, label=NEVER),
    state("NaN by a division", plain(lambda self, x: (x - x) / (x - x).norm(dim=-1, keepdim=True)), along(-1), label=NEVER),
    state("NaN in forces of a straight root", lambda: Forces(straight_root), each(fixed, along(-1)), label=NEVER),
    state(
        "NaN among the inputs",
        GATED,
        inputs=lambda: (torch.randn(11, 3).index_fill(0, torch.tensor([2]), torch.nan),),
        label=NEVER,
    ),
    state(
        "infinity among the inputs",
        GATED,
        inputs=lambda: (torch.randn(11, 3).index_fill(0, torch.tensor([2]), torch.inf),),
        label=NEVER,
    ),
    state("NaN in one output of two", plain(lambda self, x: (x, logs(x))), each(along(-1), fixed), label=NEVER),
    state("an overflow", plain(lambda self, x: torch.exp(1e4 * x.norm(dim=-1))), fixed, label=NEVER),
)

RANDOM = (
    state(
        "dropout of channels in training", after(lambda self, v: self.drop(v.mT).mT, drop=made(nn.Dropout1d, 0.5)), **TRAIN
    ),
    state(
        "dropout of scalars in training",
        after(lambda self, v: v * self.drop(norms(v)).unsqueeze(-2), drop=made(nn.Dropout, 0.5)),
        **TRAIN,
    ),
    state(
        "dropout in evaluation", after(lambda self, v: self.drop(gated(self, v)), gate=linear(), drop=made(nn.Dropout, 0.5))
    ),
    state("random scales", after(lambda self, v: v * torch.rand(len(v), 1, 4).to(v)), label=NEVER),
    state("random scales in training", after(lambda self, v: v * torch.rand(len(v), 1, 4).to(v)), **TRAIN),
    state(
        "batch norm of lengths in training",
        after(lambda self, v: v * (self.bn(norms(v)) / norms(v)).unsqueeze(-2), bn=made(nn.BatchNorm1d, 4)),
        **TRAIN,
    ),
    state("random vectors added", after(lambda self, v: v + 0.1 * torch.randn_like(v)), label=NEVER),
    state(
        "random vectors added in training",
        after(lambda self, v: v + 0.1 * torch.randn_like(v)),
        fault=":randn_like :add :mul",
        **TRAIN,
    ),
    state("dropout that forgets the mode", after(lambda self, v: v * F.dropout(norms(v)).unsqueeze(-2)), label=NEVER),
    state("a random start", plain(lambda self, x: x - x[torch.randint(len(x), ())]), along(-1), label=NEVER),
    state(
        "a stream of numpy's kept in a list",
        altered(
            after(lambda self, v: v * self.streams[0].uniform(0.5, 1)),
            attribute(streams=lambda: [np.random.default_rng(0)]),
        ),
        label=NEVER,
    ),
    state(
        "a stream out of reach",
        altered(after(lambda self, v: v * self.noise.next()), attribute(noise=Noise)),
        label=NEVER,
    ),
    state(
        "a seed of its own",
        after(lambda self, v: v * torch.rand(4, generator=torch.Generator().manual_seed(3)).to(v)),
    ),
    claimed(
        state(
            "random rotations in training",
            plain(lambda self, x: x @ torch.linalg.qr(torch.randn(3, 3).to(x)).Q),
            along(-1),
            ":matmul :__matmul__",
            **TRAIN,
        )
    ),
    state("numpy's random numbers", after(lambda self, v: v * np.random.rand()), label=NEVER),  # noqa: NPY002
    state("Python's random numbers", after(lambda self, v: v * random.random()), label=NEVER),
    state(
        "a generator of its own",
        altered(
            after(lambda self, v: v * torch.rand((), generator=self.generator).to(v)), attribute(generator=torch.Generator)
        ),
        label=NEVER,
    ),
)

ENTRIES = (*HOOKS, *WEIGHTS, *KEPT, *PRECISIONS, *STARTS, *NOTHING, *RANDOM)
