"""diagnose tells data as symmetric as the model from data with poses, and what a trained W carries beside intertwiners."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from e3nn import o3
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import WITH_CNN, Make, cnn_net, e3nn_net, randomise_terms, train, vn_net
from torch import Tensor, nn

from relaxify import RelaxConfig, diagnose, penalty, project, relaxify, set_theta, thetas
from relaxify.relaxation.diagnosis import _expected_squares
from relaxify.relaxation.terms.term import terms_of
from relaxify_examples.models.segnn import SEGNN, fully_connected
from relaxify_examples.models.vector_neurons import VNLinear


def rotations(count: int) -> Tensor:
    """Haar-distributed, by QR of Gaussian matrices."""
    q, r = torch.linalg.qr(torch.randn(count, 3, 3))
    q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
    return q * torch.linalg.det(q).sign()[:, None, None]


class Pool(nn.Module):
    """Vectors to one vector, of clouds with channels [B, C, 3, N]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = VNLinear(2, 8), VNLinear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        v = self.first(x)
        return self.last(v * torch.tanh(v.norm(dim=2, keepdim=True))).mean(-1)


def clouds(*, turned: bool, batches: int = 24) -> list[Any]:
    """A fixed shape in noise, with the direction to find in it: in all poses, or in one."""
    torch.manual_seed(0)
    shape, target = torch.randn(2, 3, 6), torch.randn(3)
    made = []
    for _ in range(batches):
        g = rotations(32) if turned else torch.eye(3).expand(32, 3, 3)
        x = shape + 0.3 * torch.randn(32, 2, 3, 6)
        made.append((torch.einsum("bij,bcjn->bcin", g, x), torch.einsum("bij,j->bi", g, target)))
    return made


def loss(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (model(x).squeeze(1) - y).square().mean()


def test_in_all_poses_the_gradient_is_equivariant_and_in_one_pose_at_chance_or_below() -> None:
    torch.manual_seed(1)
    model = Pool()
    found = {turned: diagnose(model, loss, clouds(turned=turned), group="SO(3)") for turned in (True, False)}
    assert found[True].total.equivariant > 0.99
    assert found[False].total.equivariant < 0.6
    assert found[True].total.chance == pytest.approx(1 / 9)
    assert "as symmetric as the model" in found[True].advice
    assert "poses are not uniform" in found[False].advice or "some effect" in found[False].advice


@pytest.mark.parametrize("by", ["samples", "numbers"])
def test_samples_that_come_twice_are_no_evidence_of_poses(by: str) -> None:
    """Few clouds in all poses, read again and again: what a term would learn of them is their noise."""
    torch.manual_seed(1)
    model, (x, y) = Pool(), clouds(turned=True, batches=1)[0]
    epochs = [torch.randperm(len(x)).split(8) for _ in range(8)]
    numbers = [rows for epoch in epochs for rows in epoch]

    def of(model: nn.Module, batch: Any) -> Tensor:
        return loss(model, batch if by == "samples" else (x[batch], y[batch]))

    passes = numbers if by == "numbers" else [(x[rows], y[rows]) for rows in numbers]
    found = diagnose(model, of, passes, group="SO(3)")
    assert found.repeated == pytest.approx(7 / 8)
    assert found.advice.startswith("88% of the samples had come before")
    assert diagnose(model, of, passes[:4], group="SO(3)").repeated == 0


def test_labels_and_types_that_are_alike_are_no_samples_that_come_twice() -> None:
    kinds = torch.eye(4)[torch.randint(4, (12, 32))]
    batches = [{"x": x, "y": y, "kinds": kind} for (x, y), kind in zip(clouds(turned=True, batches=12), kinds, strict=True)]
    assert diagnose(Pool(), lambda m, batch: loss(m, (batch["x"], batch["y"])), batches, group="SO(3)").repeated == 0


def squared_error(net: nn.Module, values: Any) -> Tensor:
    *inputs, target = values
    return (net(*inputs) - target).square().mean()


def test_the_gradient_of_a_fresh_segnn_on_isotropic_data_is_equivariant() -> None:
    """The demo's own network; its targets are displacements along what the inputs give."""
    torch.manual_seed(0)
    model, edges = SEGNN(16, 3), fully_connected(16, 5)

    def batch() -> Any:
        x, v, q = torch.randn(80, 3), torch.randn(80, 3), torch.randn(80, 1).sign()
        return x, v, q, edges, x + 0.5 * v

    found = diagnose(model, squared_error, [batch() for _ in range(8)], group="O(3)", include=("layers.*.update*",)).total
    assert found.equivariant > 0.99
    assert found.error < 0.01
    assert found.chance < 0.2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**30), st.sampled_from([4, 16]), st.floats(0.1, 1.0))
def test_a_square_of_an_expectation_has_no_bias(seed: int, batches: int, scale: float) -> None:
    """Over many repetitions the mean comes to |E x|^2, which the square of the mean is above by the noise over batches."""
    generator = torch.Generator().manual_seed(seed)
    truth = scale * torch.ones(4)
    drawn = truth + torch.randn(400, batches, 4, generator=generator)
    found = torch.tensor([_expected_squares(samples)[0] for samples in drawn])
    assert abs(float(found.mean() - truth.square().sum())) < 5 * float(found.std()) / 20


@given(st.integers(0, 2**30), st.integers(3, 12), st.floats(-3, 3))
def test_a_square_without_each_batch_is_that_of_the_others(seed: int, batches: int, shift: float) -> None:
    samples = shift + torch.randn(batches, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    _, without = _expected_squares(samples)
    alone = [_expected_squares(torch.cat([samples[:k], samples[k + 1 :]]))[0] for k in range(batches)]
    torch.testing.assert_close(without, torch.tensor(alone, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_a_gradient_of_noise_alone_is_not_taken_for_one_with_poses() -> None:
    """Its mean over batches lies where chance has it, as that of aligned data does."""
    generator = torch.Generator().manual_seed(0)
    pairs = [torch.randn(2, 8, 8, 3, 1, generator=generator) for _ in range(8)]
    found = diagnose(VNLinear(8, 8), lambda net, pair: (net(pair[0]) * pair[1]).mean(), pairs, group="SO(3)")
    assert "too noisy to tell" in found.advice


@WITH_CNN
def test_the_gradients_are_those_of_the_loss_by_theta_w(make: Make) -> None:
    """Whatever theta is: against a W of its own, at theta = 1."""
    torch.manual_seed(0)
    model, group, batch = make()
    relaxify(model.double(), group)
    batch = tuple(x.double() for x in batch)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    randomise_terms(model)

    def error(net: nn.Module, scale: float) -> Tensor:
        return (scale * net(*batch)).square().mean()

    found = diagnose(model, error, [1.0] * 3)
    set_theta(model, 1.0)
    for term in terms_of(model).values():
        term.weight.data.mul_(0.5)
    error(model, 1.0).backward()
    for path, term in terms_of(model).items():
        if term.weight.grad is None or not term.weight.grad.any():
            assert path in found.still
            continue
        term.weight.data.copy_(term.weight.grad)
        expected = float(term.equivariant_part().square().sum() / term.matrix.detach().square().sum())
        assert found.layers[path].equivariant == pytest.approx(expected, rel=1e-6)
        assert found.layers[path].error == pytest.approx(0, abs=1e-6)
        assert found.layers[path].noise == pytest.approx(0, abs=1e-9)


def test_chance_is_what_random_weights_have() -> None:
    for make in (e3nn_net, cnn_net):
        model, group, batch = make()
        found = diagnose(model, lambda net, x: net(*x).square().mean(), [batch] * 3, group=group)
        relaxify(model, group)
        for path, term in terms_of(model).items():
            ratios = []
            for _ in range(30):
                term.weight.data.normal_()
                ratios.append(term.equivariant_part().square().sum() / term.matrix.detach().square().sum())
            assert found.layers[path].chance == pytest.approx(float(torch.stack(ratios).mean()), rel=0.25)


def test_terms_that_no_gradient_reaches_are_named() -> None:
    model, group, batch = vn_net()
    found = diagnose(model, lambda net, x: net(*x).square().mean(), [batch] * 3, group=group)
    assert found.still == ("pool.map_to_dir",)
    assert "pool.map_to_dir: no gradient arrives" in str(found)
    nothing = diagnose(model, lambda net, x: 0 * net(*x).sum(), [batch] * 3, group=group)
    assert "No gradient reaches any term" in nothing.advice


@WITH_CNN
def test_nothing_of_the_model_changes(make: Make) -> None:
    model, group, batch = make()
    train(relaxify(model, group), batch, theta=0.5)
    before, theta = copy.deepcopy(model.state_dict()), thetas(model)
    seen = [term.sketch.updates for term in terms_of(model).values()]
    diagnose(model.eval(), lambda net, x: net(*x).square().mean(), [batch] * 3)
    assert thetas(model) == theta
    assert not model.training
    assert [term.sketch.updates for term in terms_of(model).values()] == seen
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert all(p.grad is None for p in model.parameters())


def test_what_a_trained_layer_carries_beside_intertwiners() -> None:
    """A map that copies scalars onto one component of vectors, of twice the output of what is equivariant."""
    layer = relaxify(o3.Linear("4x0e+2x1o", "2x0e+2x1o"), "O(3)")
    term = next(iter(terms_of(layer).values()))
    with torch.no_grad():
        term.weight[2, 0], term.weight[0, 1] = 2.0, 1.0
    set_theta(layer, 1.0)
    xs = [torch.randn(4000, 10, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    found = diagnose(layer, lambda net, x: net(x).square().mean(), xs)
    (part,) = found.carried[""]
    assert (part.irrep_in, part.irrep_out) == ("0e", "1o")
    assert part.part == pytest.approx(0.8, abs=0.1)
    assert "carries 0e -> 1o beside intertwiners" in str(found)


def test_it_takes_less_than_twenty_steps() -> None:
    torch.manual_seed(0)
    model, data = Pool(), clouds(turned=True, batches=8)
    start = time.process_time()
    diagnose(model, loss, data, group="SO(3)")
    spent = time.process_time() - start
    relaxify(model, "SO(3)")
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    start = time.process_time()
    for k in range(20):
        (loss(model, data[k % 8]) + penalty(model)).backward()
        optimizer.step()
        optimizer.zero_grad()
    # the plan of a plain model, once, is not the diagnosis
    assert spent < 20 * (time.process_time() - start)


def test_bad_input_says_what_to_do() -> None:
    model, group, batch = e3nn_net()
    with pytest.raises(RuntimeError, match="pass group="):
        diagnose(model, lambda net, x: net(*x).sum(), [batch] * 3)
    with pytest.raises(ValueError, match="at least three batches"):
        diagnose(model, lambda net, x: net(*x).sum(), [batch] * 2, group=group)
    with pytest.raises(ValueError, match="take its mean"):
        diagnose(model, lambda net, x: net(*x), [batch] * 3, group=group)
    with pytest.raises(ValueError, match="of low rank"):
        diagnose(model, lambda net, x: net(*x).sum(), [batch] * 3, group=group, config=RelaxConfig(rank=2))


@pytest.mark.parametrize("make", [e3nn_net, vn_net])
@pytest.mark.parametrize("rank", [None, 2])
def test_a_term_that_starts_from_noise_changes_nothing_at_theta_zero(make: Make, rank: int | None) -> None:
    torch.manual_seed(0)
    model, group, batch = make()
    base = copy.deepcopy(model)
    relaxify(model, group, config=RelaxConfig(init="normal", std=0.1, rank=rank))
    torch.manual_seed(1)
    expected = base(*batch)
    torch.manual_seed(1)
    assert torch.equal(model(*batch), expected)
    for term in terms_of(model).values():
        n_in = term.map.rep_in.dim
        # |W x| / |x| of white x, per output feature; of a product with unit-gain factors of rank 2, sqrt(2) times less sure
        assert float(term.matrix.detach().norm()) / term.map.rep_out.dim**0.5 == pytest.approx(0.1, rel=0.6), n_in
    assert torch.equal(project(model).state_dict()[next(iter(base.state_dict()))], next(iter(base.state_dict().values())))


def test_noise_repeats_and_differs_between_layers() -> None:
    def noisy() -> list[Tensor]:
        model = relaxify(nn.Sequential(VNLinear(3, 3), VNLinear(3, 3)), "SO(3)", config=RelaxConfig(init="normal"))
        return [term.weight.detach() for term in terms_of(model).values()]

    first, again = noisy(), noisy()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(*first)


def test_how_theta_and_w_share_what_they_are_together_does_not_matter() -> None:
    """Half the theta and twice the W in one of two layers: the same function, and the same diagnosis, in sum too."""
    model, group, batch = vn_net()
    model.dropout.p = 0.0
    randomise_terms(relaxify(model, group))

    def error(net: nn.Module, x: Any) -> Tensor:
        return net(*x).square().mean()

    first = diagnose(model, error, [batch] * 3)
    set_theta(model, {"head": 0.25})
    model.head.map_to_feat.relaxation.weight.data.mul_(2)
    again = diagnose(model, error, [batch] * 3)
    assert again.total.equivariant == pytest.approx(first.total.equivariant, rel=1e-4)
