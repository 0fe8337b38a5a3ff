"""Terms computed in one product with their layer are the terms that a hook would add, and leave nothing behind."""

from __future__ import annotations

import copy
import pickle
import types

import pytest
import torch
from networks import e3nn_net, randomise_terms, unchecked, vn_net
from torch import Tensor, nn

from models.vector_neurons import VNLinear
from relaxify import RelaxConfig, penalty, project, relaxify, set_theta
from relaxify.relaxation import attach
from relaxify.relaxation.merging import MergedTerm
from relaxify.relaxation.term import terms_of
from relaxify.sites import probe

SHAPES = [(4, 3, 3), (4, 3, 3, 10), (4, 3, 3, 10, 2)]


def merged_layer(config: RelaxConfig = RelaxConfig()) -> nn.Module:
    layer = relaxify(VNLinear(3, 5).double(), "SO(3)", config=config)
    randomise_terms(layer)
    return layer


def gradients(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The output, and first and second derivatives of a function of it."""
    x = x.clone().requires_grad_()
    y = layer(x)
    first = torch.autograd.grad(y.pow(3).sum(), (x, *layer.parameters()), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, *layer.parameters()))
    return (y, *first, *second)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_product_is_the_hooked_sum(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same weights: output, gradients and second derivatives."""
    merged = merged_layer()
    monkeypatch.setattr(attach, "can_merge", lambda site, config: False)
    hooked = relaxify(VNLinear(3, 5).double(), "SO(3)")
    hooked.load_state_dict(merged.state_dict())
    assert isinstance(merged.map_to_feat.relaxation, MergedTerm)
    assert not isinstance(hooked.map_to_feat.relaxation, MergedTerm)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(gradients(merged, x), gradients(hooked, x), rtol=1e-10, atol=1e-10)
    for layer in (merged, hooked):
        layer.map_to_feat.relaxation.sketch.updates = 0
        layer.zero_grad()
        layer(x)
    torch.testing.assert_close(penalty(merged), penalty(hooked))


@pytest.mark.parametrize("zero", ["theta", "weight"])
def test_nothing_added_is_nothing_changed(zero: str) -> None:
    """To the last bit, and W has a gradient nevertheless."""
    layer = relaxify(VNLinear(3, 5), "SO(3)")
    randomise_terms(layer)
    with torch.no_grad():
        getattr(layer.map_to_feat.relaxation, zero).zero_()
    x = torch.randn(4, 3, 3, 10)
    y = layer(x)
    assert torch.equal(y, project(layer)(x))
    y.square().sum().backward()
    assert bool(layer.map_to_feat.relaxation.weight.grad.any()) == (zero == "weight")


def test_what_is_merged() -> None:
    """Dense terms of bias-free nn.Linears on vector channels; not factors, not what another layer shares its weight with."""
    assert all(isinstance(term, MergedTerm) for term in terms_of(relaxify(vn_net()[0], "SO(3)")).values())
    assert not any(isinstance(term, MergedTerm) for term in terms_of(relaxify(e3nn_net()[0], "O(3)")).values())
    low_rank = relaxify(VNLinear(3, 5), "SO(3)", config=RelaxConfig(rank=2))
    assert not isinstance(low_rank.map_to_feat.relaxation, MergedTerm)
    tied = nn.Sequential(VNLinear(4, 4), VNLinear(4, 4))
    tied[1].map_to_feat.weight = tied[0].map_to_feat.weight
    assert not any(isinstance(term, MergedTerm) for term in terms_of(relaxify(tied, "SO(3)")).values())
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
