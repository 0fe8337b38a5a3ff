"""Sets of n items under S(n): pooling, attention, sorting, graphs by their adjacency; order and windows as faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verdicts.actions import along, each, fixed
from verdicts.entry import BROKEN, LATENT, SOUND, Action, Entry, claimed, told
from verdicts.parts import (
    generic_batch_norm,
    generic_layer_norm,
    linear,
    made,
    mlp,
    normal,
    parameter,
    plain,
)

N = 5
ITEMS = along(-2)


def set_of(
    name: str, make: Callable[[], nn.Module], carry: Action = fixed, fault: str = "", *, label: str = "", **more: Any
) -> Entry:
    """A model of two sets of five items with four features each."""
    label = label or (BROKEN if fault else SOUND)
    given = {"move": lambda g, x: (ITEMS(g, x[0]), *x[1:]), "inputs": normal((2, N, 4)), "label": label, "fault": fault}
    return Entry(name, f"S({N})", make, carry=carry, **(given | more))


def graph_of(name: str, make: Callable[[], nn.Module], carry: Action = fixed, fault: str = "") -> Entry:
    """A model of a weighted adjacency of five nodes and their features; of two axes of one size the user has to tell."""
    move = each(along(-1, -2), ITEMS)
    return told(set_of(name, make, carry, fault, inputs=normal((N, N), (N, 4)), move=move))


def deep_set(self: nn.Module, x: Tensor) -> Tensor:
    return torch.relu(self.own(x) + self.rest(x.mean(1, keepdim=True)))


def attend(self: nn.Module, x: Tensor) -> Tensor:
    return self.attention(x, x, x, need_weights=False)[0]


def attention() -> nn.Module:
    return nn.MultiheadAttention(4, 2, batch_first=True)


def pooled(self: nn.Module, x: Tensor) -> Tensor:
    """Pooling by a learned seed that attends to the items."""
    return torch.softmax(self.seed @ self.key(x).mT, -1) @ self.value(x)


def rotary(self: nn.Module, x: Tensor) -> Tensor:
    """Rotary embeddings by the place in the sequence."""
    angle = torch.arange(x.shape[1]).to(x)[:, None]
    a, b = x.chunk(2, -1)
    q = torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
    return torch.softmax(q @ q.mT, -1) @ x


def convolved(self: nn.Module, a: Tensor, x: Tensor) -> Tensor:
    """A graph convolution with a symmetrically normalised adjacency."""
    a = a.square() + a.mT.square()
    degree = a.sum(-1, keepdim=True).rsqrt()
    return torch.tanh(degree * a * degree.mT @ self.mix(x))


def upper(self: nn.Module, a: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(a.triu() @ self.mix(x))


def sines() -> Tensor:
    return (torch.arange(N)[:, None] * torch.rand(4)).sin()


CANONICAL = "the items sorted by a feature, then an mlp over all of them"


ENTRIES = (
    set_of("deep set", plain(deep_set, own=linear(), rest=linear()), ITEMS),
    set_of(
        "deep set summed up",
        plain(lambda self, x: self.head(deep_set(self, x).sum(1)), own=linear(), rest=linear(), head=linear(4, 2)),
    ),
    set_of("multi-head attention", plain(attend, attention=attention), ITEMS),
    set_of("attention pooling", plain(pooled, seed=lambda: parameter(1, 4), key=linear(), value=linear())),
    set_of("softmax over the items", plain(lambda self, x: self.mix(x).softmax(1), mix=linear()), ITEMS),
    set_of("layer norm of each item", plain(lambda self, x: self.norm(x), norm=generic_layer_norm(4)), ITEMS),
    set_of(
        "centred and scaled over the items",
        plain(lambda self, x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)),
        ITEMS,
    ),
    set_of(
        "batch norm of features in training",
        plain(lambda self, x: self.bn(x.mT).mT, bn=generic_batch_norm()),
        ITEMS,
        training=True,
    ),
    set_of("sorted features", plain(lambda self, x: self.head(x.sort(1).values.flatten(1)), head=linear(4 * N, 2))),
    set_of(
        "largest three of each feature", plain(lambda self, x: self.head(x.topk(3, 1).values.flatten(1)), head=linear(12, 2))
    ),
    set_of("median and quantiles", plain(lambda self, x: torch.cat([x.median(1).values, x.quantile(0.25, 1)], -1))),
    set_of(
        "histogram", plain(lambda self, x: (torch.cdist(x, self.bins) < 1.5).to(x).mean(1), bins=lambda: torch.randn(6, 4))
    ),
    set_of(
        CANONICAL,
        plain(
            lambda self, x: self.head(torch.take_along_dim(x, x[:, :, :1].argsort(1), 1).flatten(1)),
            head=lambda: mlp(4 * N, 3),
        ),
    ),
    set_of(
        "the largest item marked",
        plain(lambda self, x: F.one_hot(self.score(x)[..., 0].argmax(-1), N).to(x), score=linear(4, 1)),
        along(-1),
    ),
    set_of("which items are positive", plain(lambda self, x: self.score(x)[..., 0] > 0, score=linear(4, 1)), along(-1)),
    set_of(
        "items weighed by their rank",
        plain(lambda self, x: x * self.score(x).argsort(1).argsort(1), score=linear(4, 1)),
        ITEMS,
    ),
    set_of("pairwise distances", plain(lambda self, x: torch.cdist(x, x)), along(-1, -2)),
    graph_of("graph convolution", plain(convolved, mix=linear()), ITEMS),
    graph_of("a graph's eigenvalues", plain(lambda self, a, x: torch.linalg.eigvalsh(a + a.mT)), fixed),
    set_of("an unbiased window of one", plain(lambda self, x: self.conv(x.mT).mT, conv=lambda: nn.Conv1d(4, 4, 1)), ITEMS),
    set_of(
        "spread over groups of channels", plain(lambda self, x: self.norm(x.mT).mT, norm=lambda: nn.GroupNorm(2, 4)), ITEMS
    ),
    set_of(
        "a learned position", plain(lambda self, x: torch.tanh(x + self.place), place=lambda: parameter(N, 4)), ITEMS, ":add"
    ),
    set_of(
        "a position of sines",
        plain(
            lambda self, x: attend(self, x + self.place),
            attention=attention,
            place=sines,
        ),
        ITEMS,
        ":add",
    ),
    set_of("rotary attention", plain(rotary), ITEMS, ":mul"),
    set_of(
        "linear over the items", plain(lambda self, x: torch.tanh(self.mix(x.mT).mT), mix=linear(N, N)), ITEMS, "mix:linear"
    ),
    claimed(set_of("cumulative sum", plain(lambda self, x: self.mix(x.cumsum(1)), mix=linear()), ITEMS, ":cumsum")),
    set_of(
        "a window of three",
        plain(lambda self, x: self.conv(x.mT).mT.relu(), conv=lambda: nn.Conv1d(4, 4, 3, padding=1)),
        ITEMS,
        "conv:conv1d",
    ),
    set_of("recurrent", plain(lambda self, x: self.rnn(x)[0], rnn=made(nn.GRU, 4, 4, batch_first=True)), ITEMS, "rnn:gru"),
    set_of(
        "recurrent, last state",
        plain(
            lambda self, x: self.head(self.rnn(x)[0][:, -1]), rnn=made(nn.LSTM, 4, 4, batch_first=True), head=linear(4, 2)
        ),
        fixed,
        "rnn:lstm",
    ),
    set_of(
        "the first item as the query", plain(lambda self, x: torch.softmax(x[:, :1] @ x.mT, -1) @ x), fixed, ":__getitem__"
    ),
    set_of(
        "differences of neighbours", plain(lambda self, x: (x - x.roll(1, 1)).square().sum(1)), fixed, ":roll :sub :square"
    ),
    set_of(
        "causal attention",
        plain(lambda self, x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
        ITEMS,
        ":scaled_dot_product_attention",
    ),
    set_of(
        "weights by the place", plain(lambda self, x: (x * torch.linspace(0, 1, N).to(x)[:, None]).sum(1)), fixed, ":mul"
    ),
    set_of(
        "the index of the largest item",
        plain(lambda self, x: self.score(x)[..., 0].argmax(-1), score=linear(4, 1)),
        fixed,
        ":argmax",
    ),
    set_of(
        "flattened",
        plain(lambda self, x: self.head(torch.relu(x).flatten(1)), head=made(nn.Linear, 4 * N, 3)),
        fixed,
        "head:linear",
    ),
    claimed(
        set_of(
            "layer norm with weights over the items",
            plain(lambda self, x: self.norm(x.mT).mT, norm=generic_layer_norm(N)),
            ITEMS,
            "norm:layer_norm",
        )
    ),
    set_of(
        "dropout of items in training",
        plain(lambda self, x: self.drop(x).sum(1), drop=made(nn.Dropout, 0.5)),
        fixed,
        "drop:dropout",
        training=True,
    ),
    set_of(
        "order within the sorted set's ties",
        plain(lambda self, x: torch.take_along_dim(x, x[:, :, :1].round().argsort(dim=1, stable=True), 1)[:, 0]),
        fixed,
        ":argsort :take_along_dim :__getitem__",
    ),
    graph_of("upper triangle of an adjacency", plain(upper, mix=linear()), ITEMS, ":triu :matmul"),
    graph_of(
        "a graph's eigenvectors as positions",
        plain(lambda self, a, x: x + torch.linalg.eigh(a + a.mT).eigenvectors[:, :4]),
        ITEMS,
        ":linalg_eigh :__getitem__ :add",
    ),
    set_of("sign of the last item", plain(lambda self, x: x * x[:, -1:, :1].sign()), ITEMS, ":__getitem__"),
    claimed(
        set_of(
            "layer norm over the items at its start",
            plain(lambda self, x: self.norm(x.mT).mT, norm=made(nn.LayerNorm, N)),
            ITEMS,
            "norm:layer_norm",
            label=LATENT,
        )
    ),
    set_of(
        "a position that starts at zero",
        plain(lambda self, x: torch.tanh(x + self.place), place=lambda: nn.Parameter(torch.zeros(N, 4))),
        ITEMS,
        ":add",
        label=LATENT,
    ),
)
