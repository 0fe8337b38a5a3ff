"""What the benchmark compares is what it says: a correct eq. 5, the products a term needs, and steps that train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from e3nn import o3
from networks import NETWORKS, Make

from benchmarks import __main__ as command
from benchmarks.floor import gemms, shapes
from benchmarks.memory import peak
from benchmarks.models import CASES, Case, particles
from benchmarks.naive import relax_naively
from benchmarks.steps import KINDS, step, steps
from benchmarks.timing import in_turn, ratio
from relaxify import RelaxConfig, penalties, plan, relaxify, set_theta
from relaxify.relaxation.terms.term import terms_of
from relaxify_examples.models.segnn import SEGNN

CPU = torch.device("cpu")


def small() -> Case:
    return Case("small SEGNN", "O(3)", lambda: SEGNN(width=4, num_layers=1), particles, 2, 4)


@NETWORKS
def test_the_naive_penalty_and_term_are_those_of_equation_5(make: Make) -> None:
    """Against relaxify's exact ones, with equal weights: the same outputs, and the same sum over layers."""
    (ours, group, batch), (naive, *_) = make(), make()
    naive.load_state_dict(ours.state_dict())
    terms = relax_naively(plan(naive, group).sites)
    relaxify(ours, group, config=RelaxConfig(rows=None, reduction="norm"))
    set_theta(ours, 0.5)
    for term, own in zip(terms, terms_of(ours).values(), strict=True):
        with torch.no_grad():
            own.weight.copy_(term.weight.normal_())
    outputs = []
    for model in (ours, naive):
        torch.manual_seed(1)
        outputs.append(model(*batch))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for term, layer in zip(terms, penalties(ours).values(), strict=True):
        torch.testing.assert_close(term.penalty(), layer.norm + layer.lie.sum(), rtol=1e-4, atol=1e-5)


def test_the_floor_knows_each_layers_products() -> None:
    """Rows are those that the layer saw; an input that needs no gradient saves a product."""
    model = torch.nn.Sequential(o3.Linear("4x0e+3x1o", "2x0e+2x1o"), o3.Linear("2x0e+2x1o", "1x1o"))
    found = shapes(model, (torch.randn(7, 13),), plan(model, "O(3)").sites)
    assert found == [(7, 13, 8, False), (7, 8, 3, True)]
    assert not any(module._forward_hooks for module in model.modules())
    gemms(found, CPU)()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_step_runs_and_the_training_ones_train(kind: str) -> None:
    case = small()
    model = case.make()
    before = [p.clone() for p in model.parameters()]
    run = step(kind, case, model, case.inputs_on(CPU), CPU)
    for _ in range(2):
        run()
    moved = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=False))
    assert moved == (kind != "floor")


def test_steps_are_timed_in_turn() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    times = in_turn(runs, CPU, rounds=3, warm_up=1)
    assert order == list("abababab")
    assert [len(values) for values in times.values()] == [3, 3]
    assert ratio([3.0, 1.0, 8.0], [1.0, 1.0, 4.0]) == 2


def test_steps_start_from_the_same_model() -> None:
    assert list(steps(small(), CPU, ("plain", "relaxed"))) == ["plain", "relaxed"]


def test_the_peak_is_what_a_step_holds() -> None:
    """A weight of 4 MiB with its gradient, an input and an output of 1 MiB."""

    def make() -> Callable[[], None]:
        layer, x = torch.nn.Linear(1024, 1024, bias=False), torch.randn(256, 1024)

        def run() -> None:
            layer.weight.grad = None
            layer(x).sum().backward()

        return run

    assert peak(make, CPU) == pytest.approx(10, rel=1e-3)


def test_results_are_a_table_json_and_a_picture(tmp_path: Path) -> None:
    row = command.measured(small(), CPU, rounds=1)
    assert row["plain"] == 1
    assert json.loads(json.dumps(row)) == row
    assert command.table([row]).count("\n") == 2
    command.picture([row], tmp_path / "steps.png")
    assert (tmp_path / "steps.png").stat().st_size > 1000


def test_a_case_measured_again_replaces_its_row(tmp_path: Path) -> None:
    """And nothing else, unless on another machine."""
    target, first, second = tmp_path / "steps.json", CASES[0].name, CASES[1].name
    for row in ({"case": second, "plain": 1}, {"case": first, "plain": 2}, {"case": second, "plain": 3}):
        command.save(row, {"device": "a"}, target)
    assert json.loads(target.read_text())["rows"] == [{"case": first, "plain": 2}, {"case": second, "plain": 3}]
    command.save({"case": first, "plain": 4}, {"device": "b"}, target)
    assert json.loads(target.read_text()) == {"machine": {"device": "b"}, "rows": [{"case": first, "plain": 4}]}


def test_cases_have_different_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_a_gpu_has_its_own_batch() -> None:
    assert small().batch_on(CPU) == 2
    assert small().batch_on(torch.device("cuda")) == 4
    assert len(small().inputs_on(CPU)[0]) == 10
