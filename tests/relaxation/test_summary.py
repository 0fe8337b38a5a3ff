"""summary tells what each term is and does: its size, its share of the output, whether training reaches it and it folds."""

from __future__ import annotations

import copy

import pytest
import torch
from e3nn import o3
from networks import NETWORKS, WITH_CNN, E3nnNet, Make, VNNet, e3nn_net, randomise_terms, train, vn_net
from torch import Tensor, nn

from relaxify import RelaxConfig, Triangle, penalty, projected, relaxed, relaxify, set_theta, summary
from relaxify.relaxation.terms.term import terms_of
from relaxify_examples.models.vector_neurons import VNLinear

EVERY_ROW = RelaxConfig(rows=None)


@NETWORKS
@pytest.mark.parametrize("rank", [None, 2])
def test_parameters_are_counted(make: Make, rank: int | None) -> None:
    model, group, _ = make()
    base = sum(p.numel() for p in model.parameters())
    relaxify(model, group, config=RelaxConfig(rank=rank))
    report = summary(model)
    assert (report.base_parameters, report.added_parameters) == (base, sum(p.numel() for p in model.parameters()) - base)
    for path, term in terms_of(model).items():
        n_out, n_in = term.matrix.shape
        assert report.layers[path].parameters == (n_out * n_in if rank is None else rank * (n_out + n_in))
    assert report.added_parameters == sum(layer.parameters for layer in report.layers.values())


def test_a_shared_term_is_counted_once() -> None:
    model = nn.Sequential(VNLinear(3, 3), VNLinear(3, 3))
    model[1].map_to_feat.weight = model[0].map_to_feat.weight
    report = summary(relaxify(model, "SO(3)"))
    assert (report.base_parameters, report.added_parameters, list(report.layers)) == (9, 81, ["0.map_to_feat"])


def watch(model: nn.Module) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """What every relaxed layer puts out, before and after its term is added."""
    seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for path in terms_of(model):
        before, after = seen[path] = ([], [])
        layer = model.get_submodule(path)
        layer.register_forward_hook(lambda module, args, output, to=before: to.append(type(module).forward(module, *args)))
        layer.register_forward_hook(lambda module, args, output, to=after: to.append(output))
    return seen


@NETWORKS
def test_the_share_is_the_terms_part_of_the_output(make: Make) -> None:
    """|theta W x| / |f_e(x)| in rms over every row since the penalty was last read, whatever the batches' sizes."""
    model, group, batch = make()
    randomise_terms(relaxify(model.double(), group, config=EVERY_ROW))
    batch = tuple(x.double() for x in batch)
    model(*batch)
    penalty(model)
    seen = watch(model)
    for size in (2, 4):
        model(*(x[:size] for x in batch))
    report = summary(model)
    shares = []
    for path, (before, after) in seen.items():
        added = sum((b - a).detach().square().sum() for a, b in zip(before, after, strict=True))
        shares.append(float((added / sum(a.detach().square().sum() for a in before)).sqrt()))
        # sums over rows are kept in single precision at least
        assert report.layers[path].share == pytest.approx(shares[-1], rel=1e-5)
    assert report.share == pytest.approx(sum(shares) / len(shares), rel=1e-5)


def test_the_share_is_estimated_from_sampled_rows() -> None:
    irreps = "4x0e+3x1o"
    exact, sampled = (relaxify(o3.Linear(irreps, irreps), "O(3)", config=RelaxConfig(rows=rows)) for rows in (None, 500))
    sampled.load_state_dict(exact.state_dict())
    for model in (exact, sampled):
        torch.manual_seed(3)
        randomise_terms(model)
        model(torch.randn(4000, 13))
    assert summary(sampled).share == pytest.approx(summary(exact).share, rel=0.1)
    assert summary(sampled).share != summary(exact).share


def test_the_share_follows_theta_and_outlives_the_reading_of_the_penalty() -> None:
    model, group, batch = e3nn_net()
    train(relaxify(model, group, config=EVERY_ROW), batch, theta=0.5)
    half = summary(model).share
    set_theta(model, 1.0)
    assert summary(model).share == pytest.approx(2 * half)
    set_theta(model, 0.0)
    assert summary(model).share == 0


def test_without_training_there_is_no_share() -> None:
    model, group, batch = vn_net()
    relaxify(model, group)
    model.eval()(*batch)
    report = summary(model)
    assert report.share is None
    assert {layer.share for layer in report.layers.values()} == {None}


def test_a_direction_that_feeds_only_an_argmax_is_dead() -> None:
    model, group, batch = vn_net()
    train(relaxify(model, group), batch)
    assert summary(model).dead == ("pool.map_to_dir",)
    assert "pool.map_to_dir" in next(line for line in str(summary(model)).splitlines() if "no gradient reaches it" in line)


class Gated(nn.Module):
    """A residual branch that a learned factor switches off at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.closed = VNLinear(3, 3), VNLinear(3, 3)
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.open(x)
        return x + self.factor * self.closed(x)


def test_a_term_behind_a_factor_of_zero_is_dead_until_the_factor_moves() -> None:
    model, batch = relaxify(Gated(), "SO(3)"), (torch.randn(2, 3, 3, 5),)
    train(model, batch, steps=1)
    assert summary(model).dead == ("closed.map_to_feat",)
    train(model, batch, steps=2)
    assert summary(model).dead == ()


def test_low_rank_terms_die_as_dense_ones_do() -> None:
    model, group, batch = vn_net()
    train(relaxify(model, group, config=RelaxConfig(rank=2)), batch)
    assert summary(model).dead == ("pool.map_to_dir",)


def test_nothing_is_called_dead_before_a_gradient_could_have_moved_it() -> None:
    """Not before training, nor while theta is still zero, nor between the backward pass and the step."""
    model, group, batch = e3nn_net()
    relaxify(model, group)
    assert summary(model).dead == ()
    optimizer, theta = torch.optim.SGD(model.parameters(), 1e-2), Triangle(model, 4)
    for _ in range(2):
        (model(*batch).square().mean() + penalty(model)).backward()
        assert summary(model).dead == ()
        optimizer.step()
        optimizer.zero_grad()
        theta.step()
        assert summary(model).dead == ()


def test_a_dead_term_stays_listed_when_theta_is_back_at_zero() -> None:
    model, group, batch = vn_net()
    train(relaxify(model, group), batch)
    set_theta(model, 0.0)
    assert summary(model).dead == ("pool.map_to_dir",)


def test_the_equivariant_part_of_the_weights() -> None:
    """1 for an intertwiner, 0 for a map between different irreps, and their mean square in a mixture."""
    model = nn.ModuleList(o3.Linear("2x0e+2x1o", "2x0e+2x1o") for _ in range(4))
    relaxify(model, "O(3)")
    scalars = torch.block_diag(torch.ones(2, 2), torch.zeros(6, 6))
    mixing = torch.zeros(8, 8)
    mixing[0, 2:] = 1.0
    with torch.no_grad():
        for layer, weight in zip(model, [torch.zeros(8, 8), scalars, mixing, 3 * scalars + mixing], strict=True):
            layer.relaxation.weight.copy_(weight)
    parts = [layer.equivariant for layer in summary(model).layers.values()]
    assert parts[0] is None
    assert parts[1:] == pytest.approx([1.0, 0.0, (36 / 42) ** 0.5])


def product_net(attribute: str) -> nn.Module:
    return relaxify(nn.ModuleList([o3.FullyConnectedTensorProduct("2x0e+2x1o", attribute, "2x0e+2x1o")]), "O(3)")


def test_whether_a_layer_folds_and_why_not() -> None:
    assert {layer.foldable for layer in summary(relaxify(VNNet(), "SO(3)")).layers.values()} == {None}
    report = summary(relaxify(E3nnNet(), "O(3)"))
    assert (report.layers["first"].foldable, report.layers["last"].foldable) == (None, None)
    assert "never seen in training" in str(report.layers["product"].foldable)


def test_a_product_folds_if_its_scalar_attribute_was_constant() -> None:
    model, x = product_net("1x0e+1x1o"), torch.randn(5, 8)
    for _ in range(2):
        model[0](x, torch.cat([torch.full((5, 1), 0.3), torch.randn(5, 3)], dim=1))
    assert summary(model).layers["0"].foldable is None
    model[0](x, torch.cat([torch.full((5, 1), 0.5), torch.randn(5, 3)], dim=1))
    assert "is not constant (it went from 0.3 to 0.5)" in str(summary(model).layers["0"].foldable)


@pytest.mark.parametrize("attribute", ["2x0e+1x1o", "1x1o", "1x0o+1x1o"])
def test_a_product_without_one_scalar_does_not_fold(attribute: str) -> None:
    reason = str(summary(product_net(attribute)).layers["0"].foldable)
    assert "single scalar" in reason
    assert "second input" in reason


def test_the_summary_reads_as_a_table() -> None:
    model, group, batch = e3nn_net()
    train(relaxify(model, group), batch, theta=0.25)
    lines = str(summary(model)).splitlines()
    added = sum(term.matrix.numel() for term in terms_of(model).values())
    base = sum(p.numel() for p in model.parameters()) - added
    assert lines[0] == f"3 terms, {base:,} + {added:,} parameters"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["first", "product", "last"]
    assert all("theta 0.25" in line and "%" in line for line in lines[1:])


@WITH_CNN
@pytest.mark.parametrize("mode", [True, False])
def test_the_loss_is_shown_with_the_terms_and_without(make: Make, mode: bool) -> None:
    """In `eval()`; and the model, its sketches and its batch statistics are left as they were."""
    model, group, batch = make()
    train(relaxify(model, group), batch, theta=0.5)
    model.train(mode)
    model.get_submodule(next(iter(terms_of(model)))).eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    seen = [term.sketch.updates for term in terms_of(model).values()]
    report = summary(model, loss=lambda: (model(*batch) - 1).square().mean())
    assert [module.training for module in model.modules()] == modes
    assert [term.sketch.updates for term in terms_of(model).values()] == seen
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    model.eval()
    expected = []
    for context in (relaxed, projected):
        with context(model):
            expected.append(float((model(*batch) - 1).square().mean().detach()))
    assert [report.relaxed_loss, report.projected_loss] == expected
    assert expected[0] != expected[1]
    assert f"loss {expected[0]:.4g} relaxed, {expected[1]:.4g} projected" in str(report).splitlines()[0]
    assert summary(model).relaxed_loss is None


def test_a_loss_that_fails_leaves_the_model_in_its_mode() -> None:
    model, group, _ = e3nn_net()
    relaxify(model, group)
    with pytest.raises(ZeroDivisionError):
        summary(model, loss=lambda: 1 / 0)
    assert all(module.training for module in model.modules())
    assert all(term.forced is None for term in terms_of(model).values())
