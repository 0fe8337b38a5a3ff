"""Weights made of parameters: what these can express folds, in a model and in its checkpoint; the rest is told."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from relaxify import project, relaxed, relaxify, set_theta, summary
from relaxify.checkpoint import convert
from relaxify.relaxation.terms.derived_fold import NOT_ALIKE, NOT_EQUIVARIANT, NOT_LINEAR
from relaxify.relaxation.terms.term import Term, terms_of

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
SCALARS_AND_VECTORS = torch.stack([torch.diag(torch.tensor([1.0, 0, 0, 0])), torch.diag(torch.tensor([0.0, 1, 1, 1]))])
TURN = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))).Q
Features = Float[Tensor, "point 4 channel"]


class Layer(nn.Module):
    """A scalar and a vector in each channel, with a weight for either between every two channels."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(self.draw(width_out, width_in) / width_in**0.5)
        self.register_buffer("basis", SCALARS_AND_VECTORS.clone())

    def draw(self, width_out: int, width_in: int) -> Tensor:
        return torch.randn(width_out, width_in, 2)

    def matrices(self) -> Float[Tensor, "out into 4 4"]:
        """The weight of every pair of channels, for the tests to know."""
        return torch.einsum("yxa,aij->yxij", self.weight, self.basis)


class ByDegree(Layer):
    """One matrix for each degree, taken for each component of it (EquiformerV2)."""

    def draw(self, width_out: int, width_in: int) -> Tensor:
        return torch.randn(2, width_out, width_in)

    def forward(self, x: Features) -> Features:
        weight = self.weight.index_select(0, torch.tensor([0, 1, 1, 1]))
        return torch.einsum("bmi,moi->bmo", x, weight)

    def matrices(self) -> Float[Tensor, "out into 4 4"]:
        return torch.einsum("ayx,aij->yxij", self.weight, self.basis)


class InTwoSteps(Layer):
    """Coefficients times a basis (L-GATr)."""

    def forward(self, x: Features) -> Features:
        weight = (self.weight @ self.basis.flatten(1)).unflatten(-1, (4, 4))
        return torch.einsum("yxij,bjx->biy", weight, x)


class AtOnce(Layer):
    """One einsum of coefficients, basis and features (GATr)."""

    def forward(self, x: Features) -> Features:
        return torch.einsum("yxa,aij,bjx->biy", self.weight, self.basis, x)


class Repeated(Layer):
    """A weight for each grade, repeated for its components (Clifford-group networks), and an axis turned by `mT`."""

    def forward(self, x: Features) -> Features:
        weight = self.weight.repeat_interleave(torch.tensor([1, 3]), dim=-1)
        return torch.einsum("bic,oic->boc", x.mT, weight).mT


class Dense(Layer):
    """One large matrix for F.linear, put together by kron."""

    def forward(self, x: Features) -> Features:
        weight = sum(torch.kron(basis, w) for basis, w in zip(self.basis, self.weight.unbind(-1), strict=True))
        return nn.functional.linear(x.flatten(1), weight).unflatten(1, (4, -1))


class Scaled(Layer):
    """Another parameter scales the weight, which is linear in either and not in both."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out)
        self.scale = nn.Parameter(torch.tensor(1.7))

    def forward(self, x: Features) -> Features:
        return torch.einsum("yxa,aij,bjx->biy", self.weight * self.scale, self.basis, x)

    def matrices(self) -> Float[Tensor, "out into 4 4"]:
        return self.scale * super().matrices()


class Offset(Layer):
    """An affine map of the parameter: a residual that is part of the weight."""

    def forward(self, x: Features) -> Features:
        return torch.einsum("yxa,aij,bjx->biy", 0.3 + self.weight, self.basis, x)


class Norm(Layer):
    """Nothing of this is linear in the parameter."""

    def forward(self, x: Features) -> Features:
        return torch.einsum("yxa,aij,bjx->biy", self.weight / self.weight.norm(), self.basis, x)


class Symmetric(Layer):
    """A matrix of all components that commutes with the group as it is drawn, and may be anything later."""

    def draw(self, width_out: int, width_in: int) -> Tensor:
        return torch.einsum("yxa,aij,mi,nj->mynx", torch.randn(width_out, width_in, 2), SCALARS_AND_VECTORS, TURN, TURN)

    def forward(self, x: Features) -> Features:
        # in this basis no weight is 0, of which one would say that it may be another
        turn = TURN.to(x)
        return turn.mT @ torch.einsum("bnx,mynx->bmy", turn @ x, self.weight)


class Alternating(Layer):
    """Two calls, of which the second takes the weights of the degrees the other way round."""

    def forward(self, x: Features) -> Features:
        x = torch.einsum("yxa,aij,bjx->biy", self.weight, self.basis, x)
        if self.weight.shape[0] != self.weight.shape[1]:
            return x
        return torch.einsum("yxa,aij,bjx->biy", self.weight.flip(-1), self.basis, x)


class Net(nn.Module):
    """Points to a vector each."""

    def __init__(self, layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.first, self.last = layer(2, 4), layer(4, 4)

    def forward(self, x: Float[Tensor, "point 3"]) -> Float[Tensor, "point 3"]:
        s = x.norm(dim=-1)[:, None, None]
        v = torch.cat([s, x[..., None]], 1)
        h = self.first(torch.cat([v, v * s.sin()], -1))
        return self.last(h * torch.sigmoid(h[:, :1])).sum(-1)[:, 1:]


def relaxed_net(layer: type[Layer]) -> Net:
    torch.manual_seed(0)
    model = relaxify(Net(layer), "O(3)", example_inputs=X)
    assert set(terms_of(model)) == {"first.weight", "last.weight"}
    set_theta(model, 0.5)
    return model


def as_term(term: Term, pairs: Float[Tensor, "out into 4 4"]) -> Tensor:
    """Matrices between channels as the weight of a term, by the axes of its features."""
    # features are components, then channels, or all that was merged into one axis
    return pairs.permute(2, 0, 3, 1).flatten(2).flatten(0, 1)


def learn(model: Net, *, only_expressible: bool) -> None:
    """Terms as training may leave them."""
    for name, term in terms_of(model).items():
        twin = copy.deepcopy(getattr(model, name.partition(".")[0]))
        nn.init.normal_(twin.weight, std=0.2)
        term.weight.data = as_term(term, twin.matrices().detach())
        if not only_expressible:
            term.weight.data += 0.1 * torch.randn_like(term.weight)


FOLDED = [ByDegree, InTwoSteps, AtOnce, Repeated, Dense, Scaled, Offset]


@pytest.mark.parametrize("layer", FOLDED)
def test_what_the_parameters_can_make_folds_whole(layer: type[Layer]) -> None:
    model = relaxed_net(layer)
    learn(model, only_expressible=True)
    layers = summary(model).layers.values()
    assert all(each.foldable is None and each.unexpressed is not None and each.unexpressed < 1e-6 for each in layers)
    clean = project(pickle.loads(pickle.dumps(copy.deepcopy(model))), mode="fold")
    with relaxed(model):
        torch.testing.assert_close(clean(X), model(X), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(clean(X), project(model)(X), rtol=1e-2)


@pytest.mark.parametrize("layer", [ByDegree, InTwoSteps, Dense])
def test_fold_is_the_projection_and_fit_is_nearer_on_the_data(layer: type[Layer]) -> None:
    model = relaxed_net(layer)
    learn(model, only_expressible=False)
    model.train()(X)
    for name, term in terms_of(model).items():
        plain, owner = getattr(model, name.partition(".")[0]), name.partition(".")[0]
        rest = {}
        for mode in ("drop", "fold", "fit"):
            moved = getattr(project(model, mode=mode), owner).matrices() - plain.matrices()
            rest[mode] = term.relaxation - as_term(term, moved.detach()).double()
        moment = term.sketch.moment.double()
        on_data = {mode: float(torch.einsum("oi,ij,oj->", each, moment, each)) for mode, each in rest.items()}
        assert on_data["fit"] < on_data["fold"]
        assert on_data["fit"] < on_data["drop"]
        # what is left is orthogonal to all that the parameters can make
        folded = term.relaxation - rest["fold"]
        assert abs(float((folded * rest["fold"]).sum())) < 1e-6 * float(folded.norm() * rest["fold"].norm())
        assert term.unexpressed() < 1e-6


@pytest.mark.parametrize("layer", FOLDED)
def test_a_checkpoint_folds_as_the_model_does(layer: type[Layer], tmp_path: Path) -> None:
    model = relaxed_net(layer)
    learn(model, only_expressible=False)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "relaxed.safetensors")
    convert(tmp_path / "relaxed.safetensors", tmp_path / "plain.safetensors", mode="fold")
    found, expected = safetensors.torch.load_file(tmp_path / "plain.safetensors"), project(model, mode="fold").state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found["last.weight"], model.last.weight, rtol=1e-3)


class OneForAll(Layer):
    """One weight for scalars and vectors alike: half of what is equivariant is out of its reach."""

    def draw(self, width_out: int, width_in: int) -> Tensor:
        return torch.randn(width_out, width_in, 1)

    def forward(self, x: Features) -> Features:
        return torch.einsum("yxij,bjx->biy", self.weight[..., None] * self.basis.sum(0), x)

    def matrices(self) -> Float[Tensor, "out into 4 4"]:
        return self.weight[..., None] * self.basis.sum(0)


def test_what_the_parameters_cannot_make_is_dropped_and_told() -> None:
    model = relaxed_net(OneForAll)
    for term in terms_of(model).values():
        # of norm 1 on the scalar, and sqrt(3) on the vector: their mean is 5/4, and what is left of it 3/4 and 1/4
        pairs = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0])).expand(4, term.map.rep_in.dim // 4, 4, 4)
        term.weight.data = as_term(term, pairs).contiguous()
    layer = summary(model).layers["last.weight"]
    assert layer.foldable is None
    assert layer.unexpressed == pytest.approx((0.75**2 + 3 * 0.25**2) ** 0.5 / 7**0.5)
    assert "32.7% of P_H W do not fold" in str(summary(model))
    clean = project(model, mode="fold")
    torch.testing.assert_close(clean.last.weight - model.last.weight, torch.full((4, 4, 1), 0.5 * 1.25))


@pytest.mark.parametrize(("layer", "reason"), [(Norm, NOT_LINEAR), (Symmetric, NOT_EQUIVARIANT), (Alternating, NOT_ALIKE)])
def test_where_nothing_folds_the_reason_is_told_and_the_term_is_dropped(layer: type[Layer], reason: str) -> None:
    model = relaxed_net(layer)
    for term in terms_of(model).values():
        nn.init.normal_(term.weight)
    assert summary(model).layers["last.weight"].foldable == reason
    assert torch.equal(project(model, mode="fold").last.weight, model.last.weight)
