"""Attention on sets: Set Transformer (Lee et al. 2019, arXiv 1810.00825), pooling by attention, and higher-order layers.

S(n) permutes a set's elements. Queries of learned seeds and inducing points, and all that is pooled, it leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.deepsets import permute
from zoo.entry import Entry, along, paths, unchanged

Elements = Float[Tensor, "batch n f"]


class MAB(nn.Module):
    """MAB(X, Y) = H + relu(H W_o), H = X W_q + attention(X W_q, Y W_k, Y W_v)."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Elements, y: Elements) -> Elements:
        q, k, v = (torch.cat(each.chunk(self.heads, -1), 0) for each in (self.q(x), self.k(y), self.v(y)))
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1)
        h = self.norm_1(torch.cat((q + weights @ v).chunk(self.heads, 0), -1))
        return self.norm_2(h + F.relu(self.o(h)))


class SAB(nn.Module):
    """Self-attention: MAB(X, X)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mab = MAB(width)

    def forward(self, x: Elements) -> Elements:
        return self.mab(x, x)


class ISAB(nn.Module):
    """MAB(X, MAB(I, X)) with inducing points I."""

    def __init__(self, width: int, points: int = 4) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(1, points, width))
        self.gather, self.spread = MAB(width), MAB(width)

    def forward(self, x: Elements) -> Elements:
        return self.spread(x, self.gather(self.points.repeat(len(x), 1, 1), x))


class PMA(nn.Module):
    """MAB(S, X) with learned seeds S: what is pooled from a set."""

    def __init__(self, width: int, seeds: int) -> None:
        super().__init__()
        self.seeds = nn.Parameter(torch.randn(1, seeds, width))
        self.mab = MAB(width)

    def forward(self, x: Elements) -> Elements:
        return self.mab(self.seeds.expand(len(x), -1, -1), x)


class SetTransformer(nn.Module):
    """An encoder of the given blocks, pooling by attention, self-attention among what is pooled, and a head."""

    def __init__(self, block: Callable[[int], nn.Module], width: int = 6, seeds: int = 2) -> None:
        super().__init__()
        self.up = nn.Linear(4, width)
        self.encoder = nn.Sequential(block(width), block(width))
        self.pool = PMA(width, seeds)
        self.decoder = SAB(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Elements) -> Float[Tensor, "batch seeds classes"]:
        return self.head(self.decoder(self.pool(self.up(x))))


class Encoded(SetTransformer):
    """As above, with the encoder."""

    def forward(self, x: Elements) -> Float[Tensor, "batch seeds classes"]:
        return self.head(self.decoder(self.pool(self.encoder(self.up(x)))))


class Scores(nn.Module):
    """A score for every element, from an encoder alone."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.up, self.block, self.head = nn.Linear(4, width), ISAB(width), nn.Linear(width, 1)

    def forward(self, x: Elements) -> Float[Tensor, "batch n"]:
        return self.head(self.block(self.up(x))).squeeze(-1)


class AttentionPooling(nn.Module):
    """Gated attention pooling (Ilse et al. 2018, arXiv 1802.04712): sum_n softmax_n(w . tanh(V x_n) sigmoid(U x_n)) x_n."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))
        self.V, self.U, self.w = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)
        self.rho = nn.Linear(width, 3)

    def forward(self, x: Elements) -> Float[Tensor, "batch classes"]:
        h = self.phi(x)
        scores = self.w(torch.tanh(self.V(h)) * torch.sigmoid(self.U(h)))
        return self.rho((torch.softmax(scores, 1) * h).sum(1))


class QueryPooling(nn.Module):
    """softmax_n(q . K x_n) V x_n with learned queries q: what reads the seeds is a plain product with a Parameter."""

    def __init__(self, width: int = 6, queries: int = 3) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.K, self.V = nn.Linear(4, width), nn.Linear(4, width)
        self.rho = nn.Linear(queries * width, 2)

    def forward(self, x: Elements) -> Float[Tensor, "batch classes"]:
        scores = torch.einsum("qf,bnf->bqn", self.queries, self.K(x))
        return self.rho((torch.softmax(scores, -1) @ self.V(x)).flatten(1))


class PairLayer(nn.Module):
    """Equivariant maps of pairs [n, n] (Hartford et al. 2018, arXiv 1803.02879): x A + rows B + columns C + mean D."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.A, self.B, self.C, self.D = (nn.Linear(width_in, width_out, bias=k == 0) for k in range(4))

    def forward(self, x: Float[Tensor, "batch n n f"]) -> Float[Tensor, "batch n n g"]:
        rows, columns = x.mean(1, keepdim=True), x.mean(2, keepdim=True)
        return self.A(x) + self.B(rows) + self.C(columns) + self.D(x.mean((1, 2), keepdim=True))


class Pairs(nn.Module):
    """Pairs (x_i, x_j) of a set's elements, to a label."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.first, self.second = PairLayer(8, width), PairLayer(width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Elements) -> Float[Tensor, "batch classes"]:
        n = x.shape[1]
        pairs = torch.cat([x[:, :, None].expand(-1, -1, n, -1), x[:, None].expand(-1, n, -1, -1)], -1)
        return self.head(torch.tanh(self.second(torch.tanh(self.first(pairs)))).mean((1, 2)))


def entry(
    name: str,
    source: str,
    make: Callable[[], nn.Module],
    expected: frozenset[str],
    invariant: frozenset[str],
    **more: object,
) -> Entry:
    return Entry(
        name=name,
        source=source,
        group="S(5)",
        make=make,
        inputs=lambda: (torch.randn(16, 5, 4),),
        expected=expected,
        invariant=invariant,
        input_action=permute,
        **more,  # type: ignore[arg-type]
    )


LEE, POOL = "Lee et al. 2019, arXiv 1810.00825", paths("pool.mab.{k}", k="kv")
SEEDS = "queries of learned seeds: no input reaches it"
SAB_SITES = paths("encoder.{i}.mab.{k}", i=range(2), k="qkvo")
ISAB_SITES = paths("encoder.{i}.gather.{k}", "encoder.{i}.spread.{j}", i=range(2), k="kv", j="qo")
PAST_POOL = paths("pool.mab.o", "decoder.mab.{k}", "head", k="qkvo")

ENTRIES = (
    entry(
        "Set Transformer, SAB",
        LEE,
        lambda: Encoded(SAB),
        SAB_SITES | POOL | {"up"},
        PAST_POOL,
        impossible={"pool.mab.q": SEEDS},
        features=frozenset({"pool.seeds"}),
    ),
    entry(
        "Set Transformer, ISAB",
        LEE,
        lambda: Encoded(ISAB),
        ISAB_SITES | POOL | {"up"},
        PAST_POOL | paths("encoder.{i}.gather.o", "encoder.{i}.spread.{k}", i=range(2), k="kv"),
        impossible=dict.fromkeys(paths("pool.mab.q", "encoder.{i}.gather.q", i=range(2)), SEEDS),
        features=paths("pool.seeds", "encoder.{i}.points", i=range(2)),
    ),
    entry(
        "Induced attention, set to set",
        LEE,
        Scores,
        paths("up", "head", "block.gather.{k}", "block.spread.{j}", k="kv", j="qo"),
        paths("block.gather.o", "block.spread.k", "block.spread.v"),
        impossible={"block.gather.q": SEEDS},
        features=frozenset({"block.points"}),
        output=along(1),
    ),
    entry(
        "Gated attention pooling",
        "Ilse et al. 2018, arXiv 1802.04712",
        AttentionPooling,
        paths("phi.0", "phi.2", "V", "U", "w"),
        frozenset({"rho"}),
        output=unchanged,
    ),
    entry(
        "Learned queries",
        "Vaswani et al. 2017, arXiv 1706.03762, cross-attention of learned queries",
        QueryPooling,
        paths("K", "V", "queries"),
        frozenset({"rho"}),
    ),
    entry(
        "Exchangeable pairs",
        "Hartford et al. 2018, arXiv 1803.02879",
        Pairs,
        paths("{l}.A", "{l}.B", "{l}.C", l=("first", "second")),
        paths("first.D", "second.D", "head"),
    ),
)
