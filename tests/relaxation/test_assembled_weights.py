"""Weights that a forward puts together piece by piece, in place or not: found, relaxed, and folded into the pieces."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from relaxify import plan, project, relaxed, relaxify, set_theta
from relaxify.relaxation.terms.term import terms_of

Pieces = Callable[[Tensor, Tensor], Tensor]


def written(a: Tensor, b: Tensor) -> Tensor:
    weight = torch.zeros(4, *a.shape)
    weight[0] = a
    for component in (1, 2, 3):
        weight[component] += b
    return weight


def written_to_views(a: Tensor, b: Tensor) -> Tensor:
    weight = b.new_empty(4 * b.numel()).view(4, *b.shape)
    vector = weight[1:]
    vector[:] = b
    weight.select(0, 0).copy_(a)
    return weight


def over_a_copy(a: Tensor, b: Tensor) -> Tensor:
    weight = a.expand(4, -1, -1).clone()
    weight[torch.tensor([False, True, True, True])] = b
    return weight


def put(a: Tensor, b: Tensor) -> Tensor:
    return torch.zeros(4, *a.shape).index_put((torch.tensor([0, 1, 2, 3]),), torch.stack([a, b, b, b]))


def scattered(a: Tensor, b: Tensor) -> Tensor:
    places = torch.tensor([1, 2, 3])[:, None, None].expand(-1, *b.shape)
    return torch.cat([a[None], torch.zeros(3, *b.shape)]).scatter(0, places, b[None].expand(3, -1, -1))


class Assembled(nn.Module):
    """y[m] = W[m] x[m] on scalars and vectors (m = 0; 1, 2, 3), W[0] = a and W[1] = W[2] = W[3] = b."""

    def __init__(self, pieces: Pieces, n_in: int, n_out: int) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.randn(n_out, n_in)) for _ in range(2))
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("pmi,moi->pmo", x, self.pieces(self.a, self.b))


class Dense(Assembled):
    """The same as one matrix with blocks, of which the rest stays zero."""

    def forward(self, x: Tensor) -> Tensor:
        n_out, n_in = self.a.shape
        weight = torch.zeros(4 * n_out, 4 * n_in)
        weight[:n_out, :n_in] = self.a
        for m in (1, 2, 3):
            weight[m * n_out : (m + 1) * n_out, m * n_in : (m + 1) * n_in] = self.b
        return nn.functional.linear(x.flatten(1), weight).unflatten(1, (4, n_out))


class Vectors(nn.Module):
    def __init__(self, layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.first, self.last = layer(2, 3), layer(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        length = x.norm(dim=-1)[:, None, None]
        features = torch.cat([length, x[..., None]], 1)
        h = self.first(torch.cat([features, features * length.sin()], -1))
        return self.last(h * torch.sigmoid(h[:, :1]))[:, 1:, 0]


LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    pieces.__name__: lambda n_in, n_out, pieces=pieces: Assembled(pieces, n_in, n_out)
    for pieces in (written, written_to_views, over_a_copy, put, scattered)
}
LAYERS["dense"] = lambda n_in, n_out: Dense(written, n_in, n_out)


@pytest.mark.parametrize("name", LAYERS)
def test_pieces_are_relaxed_and_take_what_is_equivariant(name: str) -> None:
    torch.manual_seed(0)
    model, x = Vectors(LAYERS[name]), torch.randn(40, 3)
    y = model(x)
    relaxify(model, "O(3)", example_inputs=x)
    terms = terms_of(model)
    assert {path.rpartition(".")[0] for path in terms} == {"first", "last"}
    set_theta(model, 1.0)
    with relaxed(model):
        assert torch.equal(model(x), y)
    for term in terms.values():
        nn.init.normal_(term.weight, std=0.1)
        assert not isinstance(term._expansion(), str)
    with relaxed(model):
        assert (model(x) - y).norm() > 0.01 * y.norm()
    clean = project(model, mode="fold")
    assert not plan(clean, "O(3)", example_inputs=x).unsound
    assert (clean(x) - y).norm() > 1e-3 * y.norm()
    assert torch.equal(project(model, mode="drop")(x), y)


class State(nn.Module):
    """Vectors that start at zero, one of which is written: a state, and no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 3, 2)
        state[..., 0] = x
        return self.out(self.mix(state))[..., 0]


def test_state_that_is_written_to_is_no_weight() -> None:
    torch.manual_seed(0)
    assert {site.path for site in plan(State(), "O(3)", example_inputs=torch.randn(20, 3)).sites} == {"mix", "out"}


class Indexed(nn.Module):
    """Vectors that start at zero, gathered by indices that are zeros too."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 3, 2)[torch.zeros(len(x), dtype=torch.long)]
        return x + self.mix(state)[..., 0]


def test_zero_state_behind_zero_indices_is_looked_at() -> None:
    torch.manual_seed(0)
    assert plan(Indexed(), "O(3)", example_inputs=torch.randn(20, 3)).verdict.is_sound
