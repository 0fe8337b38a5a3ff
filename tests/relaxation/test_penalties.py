"""The penalties equal CR eq. 5, do not depend on how the data are cut, and are harmless at W = 0."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import pairs, random, seeds, term_between
from torch import Tensor, nn

from relaxify import Group, RelaxConfig, Representation, penalty, relaxify, set_theta, summary
from relaxify.intertwiners import lie_derivative, project_to_intertwiners
from relaxify.relaxation.penalties import LayerPenalty, layer_penalties
from relaxify.relaxation.terms.term import Term
from relaxify_examples.models.vector_neurons import VNLinear

Pair = tuple[Representation, Representation]
reductions = st.sampled_from(["rms", "norm"])


def layer_penalty(term: Term) -> LayerPenalty:
    return layer_penalties([term])[0]


def sketched(pair: Pair, config: RelaxConfig, batches: list[Tensor], weight: Tensor) -> Term:
    term = term_between(*pair, config, weight, dtype=batches[0].dtype)
    for x in batches:
        term.sketch.update(x, x)
    return term


def sizes(term: Term) -> Tensor:
    layer = layer_penalty(term)
    return torch.cat([layer.norm[None], layer.lie]).detach()


def by_definition(pair: Pair, weight: Tensor, x: Tensor, reduction: str, some: Tensor | None = None) -> Tensor:
    """|W x| and |L_A(W) x| for every sample and generator (or some), with dense matrices, as eq. 5 is printed."""
    maps = torch.cat([weight[None], lie_derivative(weight, *pair)])
    maps = maps if some is None else maps[some]
    norms = torch.einsum("aij,rj->ari", maps, x).norm(dim=-1)
    return norms.square().mean(1).sqrt() if reduction == "rms" else norms.mean(1)


@given(pairs(), reductions, seeds, st.integers(1, 20))
def test_every_row_gives_the_definition(pair: Pair, reduction: str, seed: int, count: int) -> None:
    weight, x = random(pair[1].dim, pair[0].dim, seed=seed), random(count, pair[0].dim, seed=seed + 1)
    term = sketched(pair, RelaxConfig(reduction=reduction, rows=None), [x], weight)
    torch.testing.assert_close(sizes(term), by_definition(pair, weight, x, reduction), rtol=1e-9, atol=1e-7)


@given(pairs(["SO(3)", "O(3)", "D(4)", "SO(2)"]), seeds)
def test_second_moments_in_single_precision_give_rms_to_1e_6(pair: Pair, seed: int) -> None:
    weight, x = random(pair[1].dim, pair[0].dim, seed=seed).float(), random(64, pair[0].dim, seed=seed + 1).float()
    term = sketched(pair, RelaxConfig(rows=None), [x], weight)
    expected = by_definition(pair, weight.double(), x.double(), "rms")
    torch.testing.assert_close(sizes(term).double(), expected, rtol=1e-6, atol=1e-6 * float(expected[0]))


@given(pairs(), reductions, st.sampled_from([None, 7]), seeds)
def test_an_equivariant_weight_has_no_lie_penalty(pair: Pair, reduction: str, rows: int | None, seed: int) -> None:
    weight = project_to_intertwiners(random(pair[1].dim, pair[0].dim, seed=seed), *pair)
    term = sketched(pair, RelaxConfig(reduction=reduction, rows=rows), [random(30, pair[0].dim, seed=seed)], weight)
    assert layer_penalty(term).lie.abs().max() < 1e-10 * (1 + float(weight.norm())) if pair[0].group.actions else True


@given(pairs(), reductions, st.sampled_from([None, 7, 100]), seeds)
def test_a_random_weight_is_penalised(pair: Pair, reduction: str, rows: int | None, seed: int) -> None:
    weight = random(pair[1].dim, pair[0].dim, seed=seed)
    rest = weight - project_to_intertwiners(weight, *pair)
    term = sketched(pair, RelaxConfig(reduction=reduction, rows=rows), [random(30, pair[0].dim, seed=seed)], weight)
    assert float(layer_penalty(term).lie.detach().sum()) > 0 or float(rest.norm()) < 1e-9


@given(pairs(), reductions, seeds, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(2, 3))
def test_batches_and_duplication_do_not_matter(pair: Pair, reduction: str, seed: int, cuts: list[int], copies: int) -> None:
    """The same rows in one batch, in micro-batches, as point clouds, or repeated give the same penalty."""
    config = RelaxConfig(reduction=reduction, rows=None)
    weight, x = random(pair[1].dim, pair[0].dim, seed=seed), random(sum(cuts), pair[0].dim, seed=seed + 1)
    whole = sizes(sketched(pair, config, [x], weight))
    for batches in (list(x.split(cuts)), [x[None, :, :]], [x] * copies, [x.repeat(copies, 1)]):
        torch.testing.assert_close(sizes(sketched(pair, config, batches, weight)), whole, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("reduction", ["rms", "norm"])
def test_sampled_rows_are_unbiased(reduction: str) -> None:
    """The mean over many sketches of 8 of 100 rows is the exact value: of |.| for `norm`, of |.|^2 for `rms`."""
    vector = Representation.defining(Group.parse("SO(3)"), 2)
    pair, weight = (vector, vector), random(6, 6)
    # heavy-tailed rows, in three micro-batches
    batches = list((random(100, 6, seed=1) * random(100, 1, seed=2).exp()).split([20, 50, 30]))
    estimates = []
    for run in range(250):
        term = term_between(*pair, RelaxConfig(reduction=reduction, rows=8), weight)
        term.sketch.updates = 3 * run
        for x in batches:
            term.sketch.update(x, x)
        estimates.append(sizes(term))
    power = 2 if reduction == "rms" else 1
    samples = torch.stack(estimates) ** power
    exact = by_definition(pair, weight, torch.cat(batches), reduction) ** power
    assert ((samples.mean(0) - exact).abs() < 4 * samples.std(0) / 250**0.5).all()
    assert (samples.std(0) > 0.05 * exact).all()


@given(
    pairs(),
    st.sampled_from(["rms", "norm", "weights", "projection"]),
    st.sampled_from([None, 7]),
    st.sampled_from([None, 2]),
    seeds,
)
def test_gradients_are_finite_at_zero(pair: Pair, reduction: str, rows: int | None, rank: int | None, seed: int) -> None:
    config = RelaxConfig(reduction=reduction, rows=rows, rank=rank)
    term = term_between(*pair, config)
    x = random(9, pair[0].dim, seed=seed)
    term.sketch.update(x, x)
    layer_penalty(term).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in term.parameters())


@given(pairs(), st.sampled_from([None, 2]), seeds)
def test_the_penalty_of_weights_is_that_of_white_inputs(pair: Pair, rank: int | None, seed: int) -> None:
    n_in, weight = pair[0].dim, random(pair[1].dim, pair[0].dim, seed=seed)
    white = n_in**0.5 * torch.eye(n_in, dtype=torch.float64)
    of_data = term_between(*pair, RelaxConfig(rows=None, rank=rank), None if rank else weight)
    of_weights = term_between(*pair, RelaxConfig(reduction="weights", rank=rank), None if rank else weight)
    if rank:
        with torch.no_grad():
            of_data.up.copy_(random(pair[1].dim, 2, seed=seed))
            of_weights.load_state_dict(of_data.state_dict())
    of_data.sketch.update(white, None)
    # no inputs were seen
    torch.testing.assert_close(sizes(of_weights), sizes(of_data))


@given(pairs(), reductions, st.sampled_from([None, 7]), seeds)
def test_gradients_are_those_of_the_definition(pair: Pair, reduction: str, rows: int | None, seed: int) -> None:
    weight, x = random(pair[1].dim, pair[0].dim, seed=seed), random(7, pair[0].dim, seed=seed + 1)
    term = sketched(pair, RelaxConfig(reduction=reduction, rows=rows), [x], weight)
    layer = layer_penalty(term)
    # the naive norms have no gradient where a generator does nothing: leave those out of both sums
    some = by_definition(pair, weight, x, reduction) > 1e-6
    torch.cat([layer.norm[None], layer.lie])[some].sum().backward()
    naive = weight.clone().requires_grad_()
    by_definition(pair, naive, x, reduction, some).sum().backward()
    torch.testing.assert_close(term.weight.grad, naive.grad, rtol=1e-7, atol=1e-9)


@given(pairs(), reductions, seeds)
def test_low_rank_terms_are_penalised_as_their_product(pair: Pair, reduction: str, seed: int) -> None:
    config = RelaxConfig(reduction=reduction, rows=None, rank=2)
    term, x = term_between(*pair, config), random(9, pair[0].dim, seed=seed)
    term.up.data.copy_(random(*term.up.shape, seed=seed + 1))
    term.sketch.update(x, x)
    expected = by_definition(pair, term.matrix.detach(), x, reduction)
    torch.testing.assert_close(sizes(term), expected, rtol=1e-9, atol=1e-7)


def test_total_is_weighted_norm_plus_lie() -> None:
    layer = LayerPenalty(torch.tensor(2.0), torch.tensor([1.0, 3.0]), 0.5)
    assert layer.total == 3.0


@pytest.mark.parametrize("rows", [None, 4])
def test_the_penalty_keeps_no_graph_of_its_inputs(rows: int | None) -> None:
    vector = Representation.defining(Group.parse("SO(3)"), 2)
    term = term_between(vector, vector, RelaxConfig(rows=rows), random(6, 6))
    x = random(10, 6).requires_grad_()
    term.sketch.update(x * 2, x)
    layer_penalty(term).total.backward()
    assert x.grad is None


def trained_shares(scale: float, config: RelaxConfig, relative: bool) -> list[float]:
    """The layers' shares after training at theta = 1 on a target that no equivariant net has, the loss times `scale`."""
    torch.manual_seed(0)
    model = relaxify(nn.Sequential(VNLinear(2, 4), VNLinear(4, 2)), "SO(3)", config=config)
    set_theta(model, 1.0)
    x = torch.randn(32, 2, 3, 4)
    target = x.flip(2) + 0.3 * x
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        loss = scale * (model(x) - target).square().mean()
        extra = penalty(model, relative_to=loss) if relative else penalty(model)
        (loss + extra).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [layer.share for layer in summary(model).layers.values()]


@pytest.mark.parametrize("config", [RelaxConfig(), RelaxConfig(share=None)], ids=["default", "as printed"])
def test_relative_to_the_loss_the_share_does_not_depend_on_its_scale(config: RelaxConfig) -> None:
    shares = {scale: trained_shares(scale, config, relative=True) for scale in (1e-3, 1.0, 1e3)}
    for share, own in zip(shares[1.0] * 2, shares[1e-3] + shares[1e3], strict=True):
        assert 0.5 < share / own < 2


def test_as_printed_it_does() -> None:
    """The same lambda holds the terms at nothing beside a small loss."""
    small, whole = (trained_shares(scale, RelaxConfig(share=None), relative=False) for scale in (1e-3, 1.0))
    assert max(small) < 0.1 * min(whole)


def test_a_share_is_kept_to() -> None:
    """Within a half of itself, where the terms would be far larger; 0.05 by default."""
    assert min(trained_shares(1.0, RelaxConfig(share=None), relative=True)) > 0.4
    for share, config in ((0.05, RelaxConfig()), (0.1, RelaxConfig(share=0.1))):
        reached = trained_shares(1.0, config, relative=True)
        assert share / 2 < min(reached) <= max(reached) < 1.5 * share


@pytest.mark.parametrize("reduction", ["weights", "projection"])
def test_what_looks_at_no_inputs_has_no_share(reduction: str) -> None:
    vector = Representation.defining(Group.parse("SO(3)"), 2)
    term = sketched((vector, vector), RelaxConfig(reduction=reduction), [random(10, 6)], random(6, 6))
    assert layer_penalty(term).excess is None


@given(pairs(), reductions, st.sampled_from([None, 7]), seeds, st.floats(0.01, 10))
def test_the_excess_over_a_share_is_the_formula(
    pair: Pair, reduction: str, rows: int | None, seed: int, share: float
) -> None:
    weight, x = random(pair[1].dim, pair[0].dim, seed=seed), random(7, pair[0].dim, seed=seed + 1)
    term = sketched(pair, RelaxConfig(reduction=reduction, rows=rows, share=share, weight=0.5), [x], weight)
    layer = layer_penalty(term)
    reached = float(layer.norm.detach() / x.square().sum(1).mean().sqrt())
    over = max(reached / share - 1, 0)
    assert float(layer.excess.detach()) == pytest.approx(over**2 if over < 1 else 2 * over - 1, rel=1e-4, abs=1e-9)
    assert float(layer.total.detach()) == pytest.approx(float((layer.excess + 0.5 * layer.lie.sum()).detach()))


@given(pairs(), seeds)
def test_projecting_penalises_the_distance_from_intertwiners(pair: Pair, seed: int) -> None:
    """|W| and |W - P_H W| with their gradients, whatever the inputs; none of the second where W is equivariant."""
    weight = random(pair[1].dim, pair[0].dim, seed=seed)
    rest = weight - project_to_intertwiners(weight, *pair)
    term = term_between(*pair, RelaxConfig(reduction="projection"), weight)
    layer = layer_penalty(term)
    torch.testing.assert_close(sizes(term), torch.stack([weight.norm(), rest.norm()]), rtol=1e-9, atol=1e-7)
    if rest.norm() > 1e-6:
        layer.lie.sum().backward()
        torch.testing.assert_close(term.weight.grad, rest / rest.norm(), rtol=1e-7, atol=1e-7)
    even = term_between(*pair, RelaxConfig(reduction="projection"), weight - rest)
    assert layer_penalty(even).lie.abs().max() < 1e-6


def test_a_layer_whose_output_is_zero_has_no_share() -> None:
    vector = Representation.defining(Group.parse("SO(3)"), 2)
    term = term_between(vector, vector, RelaxConfig(share=0.1), random(6, 6))
    term.sketch.update(random(10, 6), torch.zeros(10, 6))
    layer_penalty(term).total.backward()
    assert term.weight.grad.isfinite().all()


@pytest.mark.parametrize("loss", [2.0, -2.0])
def test_relative_to_a_loss_the_penalty_is_times_its_size_without_its_gradient(loss: float) -> None:
    model = relaxify(VNLinear(2, 3), "SO(3)", config=RelaxConfig(rows=None))
    model.map_to_feat.relaxation.weight.data.normal_()
    values = []
    for relative in (None, torch.tensor(loss, requires_grad=True)):
        model(torch.ones(2, 2, 3, 4))
        values.append(penalty(model, relative_to=relative))
    torch.testing.assert_close(values[1], 2 * values[0])
    values[1].backward()
    assert relative.grad is None


def test_a_loss_that_is_no_number_is_refused() -> None:
    model = relaxify(VNLinear(2, 3), "SO(3)")
    model(torch.ones(2, 2, 3, 4))
    with pytest.raises(ValueError, match=r"the shape \(3,\): pass the loss itself"):
        penalty(model, relative_to=torch.ones(3))
