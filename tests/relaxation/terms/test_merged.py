"""Terms computed in one product with their layer are the terms that a hook would add, and leave nothing behind."""

from __future__ import annotations

import copy
import pickle
import types

import pytest
import torch
from e3nn import o3
from networks import e3nn_net, randomise_terms, unchecked, vn_net
from torch import Tensor, nn

from relaxify import RelaxConfig, penalty, project, relaxify, set_theta, summary
from relaxify.modules.hanging import probe
from relaxify.relaxation.terms.merged import MergedTerm
from relaxify.relaxation.terms.term import terms_of
from relaxify_examples.models.vector_neurons import VNLinear

IRREPS = ("4x0e+3x1o+2x2e", "3x0e+2x1o+2x1e+1x2e")
SHAPES = [(4, 3, 3), (4, 3, 3, 10), (4, 3, 3, 10, 2), (30, 23), (2, 15, 23)]


def layer_for(shape: tuple[int, ...]) -> tuple[nn.Module, str]:
    """A layer of Vector Neurons, or of e3nn, whose paths share blocks and do not reach all."""
    return (o3.Linear(*IRREPS).double(), "O(3)") if shape[-1] == 23 else (VNLinear(3, 5).double(), "SO(3)")


def merged_layer(config: RelaxConfig = RelaxConfig(), shape: tuple[int, ...] = SHAPES[0]) -> nn.Module:
    torch.manual_seed(0)
    layer = relaxify(*layer_for(shape), config=config)
    randomise_terms(layer)
    return layer


def term_of(layer: nn.Module) -> nn.Module:
    (term,) = terms_of(layer).values()
    return term


def gradients(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The output, and first and second derivatives of a function of it."""
    x = x.clone().requires_grad_()
    y = layer(x)
    first = torch.autograd.grad(y.pow(3).sum(), (x, *layer.parameters()), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, *layer.parameters()))
    return (y, *first, *second)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_product_is_the_hooked_sum(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same weights: output, gradients, second derivatives, penalty and share."""
    merged = merged_layer(RelaxConfig(rows=None), shape)
    monkeypatch.setattr(MergedTerm, "takes", lambda site, config: False)
    layer, group = layer_for(shape)
    hooked = relaxify(layer, group, config=RelaxConfig(rows=None))
    hooked.load_state_dict(merged.state_dict())
    assert isinstance(term_of(merged), MergedTerm)
    assert not isinstance(term_of(hooked), MergedTerm)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(gradients(merged, x), gradients(hooked, x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(penalty(merged), penalty(hooked))
    assert summary(merged).share == pytest.approx(summary(hooked).share, rel=1e-6)


def test_few_rows_are_added_to_the_layers_own() -> None:
    """So few that putting the layer together would cost more: nothing else changes."""
    layer = merged_layer(shape=(30, 23))
    x = torch.randn(30, 23, dtype=torch.float64)
    torch.testing.assert_close(torch.cat([layer(x[:2]), layer(x[2:])]), layer(x))


def test_weights_of_another_are_the_layers_for_that_call() -> None:
    """o3.Linear takes weights as an argument; then the layer is not what its parameters say."""
    layer = merged_layer(shape=(30, 23))
    x, other = torch.randn(30, 23, dtype=torch.float64), torch.randn_like(layer.weight)
    term = layer(x) - project(layer)(x)
    torch.testing.assert_close(layer(x, weight=other), project(layer)(x, other) + term)


@pytest.mark.parametrize("zero", ["theta", "weight"])
def test_nothing_added_is_nothing_changed(zero: str) -> None:
    """To the last bit, and W has a gradient nevertheless."""
    for shape in SHAPES:
        layer = merged_layer(shape=shape).float()
        with torch.no_grad():
            getattr(term_of(layer), zero).zero_()
        x = torch.randn(shape)
        y = layer(x)
        assert torch.equal(y, project(layer)(x))
        y.square().sum().backward()
        assert bool(term_of(layer).weight.grad.any()) == (zero == "weight")


def test_what_is_merged() -> None:
    """Dense terms of what is wholly known; not factors, not what another layer shares its weight with, no tensor product."""
    assert all(isinstance(term, MergedTerm) for term in terms_of(relaxify(vn_net()[0], "SO(3)")).values())
    of_e3nn = {path: isinstance(term, MergedTerm) for path, term in terms_of(relaxify(e3nn_net()[0], "O(3)")).items()}
    # the first has a bias
    assert of_e3nn == {"first": False, "product": False, "last": True}
    with_bias = relaxify(o3.Linear("2x0e+1x1o", "2x0e+1x1o", biases=True), "O(3)")
    assert not isinstance(with_bias.relaxation, MergedTerm)
    low_rank = relaxify(VNLinear(3, 5), "SO(3)", config=RelaxConfig(rank=2))
    assert not isinstance(low_rank.map_to_feat.relaxation, MergedTerm)
    tied = nn.Sequential(VNLinear(4, 4), VNLinear(4, 4))
    tied[1].map_to_feat.weight = tied[0].map_to_feat.weight
    assert not any(isinstance(term, MergedTerm) for term in terms_of(relaxify(tied, "SO(3)")).values())
    watched = VNLinear(4, 4)
    watched.map_to_feat.register_forward_hook(lambda module, args, output: None)
    assert not isinstance(relaxify(watched, "SO(3)").map_to_feat.relaxation, MergedTerm)
    own = VNLinear(4, 4)
    own.map_to_feat.forward = types.MethodType(nn.Linear.forward, own.map_to_feat)
    relaxify(own, "SO(3)")
    assert not isinstance(own.map_to_feat.relaxation, MergedTerm)


def test_a_projected_layer_computes_by_itself() -> None:
    for inplace in (False, True):
        clean = project(merged_layer(), inplace=inplace)
        assert "forward" not in vars(clean.map_to_feat)
        assert not list(clean.buffers())


def test_a_probe_is_the_layer_alone() -> None:
    layer = merged_layer()
    twin = probe(layer)
    assert "forward" not in vars(twin.map_to_feat)
    assert "forward" in vars(layer.map_to_feat)
    x = torch.randn(4, 3, 3, 10, dtype=torch.float64)
    assert torch.equal(twin(x), layer.eval()(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_has_its_own_term(copied: object) -> None:
    """Changing the copy's weights changes the copy alone."""
    layer, x = merged_layer(), torch.randn(4, 3, 3, 10, dtype=torch.float64)
    y, twin = layer(x), copied(layer)  # type: ignore[operator]
    assert torch.equal(twin(x), y)
    assert twin.map_to_feat.forward.__self__ is twin.map_to_feat.relaxation
    with torch.no_grad():
        twin.map_to_feat.weight.add_(1)
        twin.map_to_feat.relaxation.weight.add_(1)
    assert not torch.allclose(twin(x), y)
    assert torch.equal(layer(x), y)


def test_hooks_of_users_see_what_the_layer_gives() -> None:
    layer, x = merged_layer(), torch.randn(4, 3, 3, 10, dtype=torch.float64)
    seen: list[Tensor] = []
    layer.map_to_feat.register_forward_hook(lambda module, args, output: seen.append(output))
    y = layer(x)
    assert torch.equal(y, seen[0].transpose(1, -1))


def test_function_transforms() -> None:
    """Of a merged term: per-sample gradients by vmap over grad, as of the sum over samples."""
    layer, x = merged_layer(), torch.randn(4, 3, 3, 10, dtype=torch.float64)
    set_theta(layer, 0.3)
    with unchecked():
        state = dict(layer.named_parameters()) | dict(layer.named_buffers())

        def loss(params: dict[str, Tensor], sample: Tensor) -> Tensor:
            return torch.func.functional_call(layer, params, (sample[None],)).square().sum()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(state, x)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(each[name].sum(0), parameter.grad)
