"""Evidence is what it says: models side by side are those of the ordinary loop, and the page follows from the results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.arms import Budget, Task, fitted
from benchmarks.evidence.clouds import ALIGNED, DGCNN
from benchmarks.evidence.comparing import compared
from benchmarks.evidence.documents import written
from benchmarks.evidence.findings import all_findings
from benchmarks.evidence.molecules import ETHANOL
from benchmarks.evidence.nbody import NBODY
from benchmarks.evidence.one_by_one import one_by_one
from benchmarks.evidence.page import headline, page
from benchmarks.evidence.readme import in_short
from benchmarks.evidence.runs import Runs
from benchmarks.evidence.side_by_side import Member, SideBySide
from benchmarks.evidence.smoke import PERSISTENCE, SMOKE, everything, persistence, rmse
from benchmarks.evidence.system import Data, System
from benchmarks.evidence.system import tested as measured
from benchmarks.evidence.systems import SYSTEMS, small
from benchmarks.evidence.teacher import TEACHER
from benchmarks.evidence.ways import TUNED, WAYS, rival

PLAIN = ("plain, tuned", "plain, compute of half")
MEMBERS = (Member(0, 1e-2), Member(1, 3e-2))


def few(system: System, steps: int) -> System:
    """In double precision, on few data: rounding then stays rounding."""

    def samples(seed: int, size: int) -> Data:
        data = system.samples(seed, size)
        x, test = (tuple(part.double() for part in parts) for parts in (data.inputs, data.test_inputs))
        y = data.targets
        return Data(x, y.double() if y.is_floating_point() else y, test, data.test_targets)

    return replace(system, steps=steps, batch=8, size=30, make=lambda: system.make().double(), samples=samples)


def by_the_ordinary_loop(system: System, way: str, member: Member) -> nn.Module:
    data = system.data(member.seed)
    torch.manual_seed(member.seed)
    task = Task(data.inputs, data.targets, system.criterion, system.group, tuple(system.include))
    budget = Budget(system.steps, system.batch, member.rate)
    return fitted(system.make(), WAYS[way].arm(system.steps), budget, task, member.seed).model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("whole", "way"),
    [
        *((TEACHER, way) for way in ("plain", "as printed", "refold", "from noise")),
        *((TEACHER, f"constant, {ended}") for ended in ("folded", "fitted", "kept")),
        *((TEACHER, way) for way in ("ACE", "RECM", "RPP", "projection")),
        *((ALIGNED, way) for way in ("as printed", "default")),
        *((NBODY, way) for way in ("default", "ACE")),
        (ETHANOL, "default"),
        # its layers are called in another order than they stand in
        (DGCNN, "refold"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_models_side_by_side_are_those_of_the_ordinary_loop(whole: System, way: str) -> None:
    """Of each member the finished model says the same, whatever its seed and rate."""
    # RECM moves every ten steps; side by side, its |f_e(x)| is that of the weights before the optimizer's step
    system, close = few(whole, 8), {"rtol": 1e-6, "atol": 1e-8}
    if way == "RECM":
        system, close = few(whole, 44), {"rtol": 1e-3, "atol": 1e-5}
    data = [system.data(member.seed) for member in MEMBERS]
    found = SideBySide(system, WAYS[way].arm(system.steps), MEMBERS, system.steps, data).run()
    for member, each, of in zip(MEMBERS, found, data, strict=True):
        ordinary = by_the_ordinary_loop(system, way, member)
        torch.testing.assert_close(each.model.train()(*of.inputs), ordinary.train()(*of.inputs), **close)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_stacked", [True, False])
def test_only_what_keeps_its_terms_is_tested_with_them(is_stacked: bool) -> None:
    system = few(TEACHER, 8)
    data, plain = [system.data(0)], system.make()
    values = {}
    for way in ("constant, dropped", "constant, kept"):
        arm = WAYS[way].arm(system.steps)
        trained = (
            SideBySide(system, arm, MEMBERS[:1], 8, data).run()
            if is_stacked
            else one_by_one(system, arm, MEMBERS[:1], 8, data)
        )
        model = trained[0].model
        values[way] = measured(system, model, data[0])[system.column]
        more = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
        assert (more > 0) == (way == "constant, kept")
    # the two were trained alike, and what is dropped is missed
    assert values["constant, kept"] < values["constant, dropped"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SYSTEMS)
def test_rates_are_chosen_by_other_data_than_what_is_tested(name: str) -> None:
    x, y = (SYSTEMS[name].samples(seed, 8).test_inputs[0][:50] for seed in (SYSTEMS[name].sweep_seeds[0], 0))
    assert not (x[:, None] == y).flatten(2).all(-1).any()


# a variant differs from its system in a number alone
MAIN = [name for name, system in SYSTEMS.items() if not system.of]


@pytest.mark.parametrize("name", MAIN)
def test_a_small_version_of_each_system_runs_goes_on_and_is_written_up(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == SMOKE.name:
        pytest.importorskip("escnn")
    system = replace(small(SYSTEMS[name]), seeds=3)
    Runs.read(system, tmp_path).complete(PLAIN, 3)
    Runs.read(system, tmp_path).complete(["default"], 2)
    monkeypatch.setattr(SideBySide, "run", lambda self: pytest.fail("what is there is trained again"))
    monkeypatch.setattr("benchmarks.evidence.runs.one_by_one", lambda *_: pytest.fail("what is there is trained again"))
    runs = Runs.read(system, tmp_path)
    runs.complete(PLAIN, 3)
    monkeypatch.undo()
    runs.complete(["default"], 3)
    text = page(all_findings([Runs.read(system, tmp_path)]))
    (found,) = all_findings([runs])[0].relaxed
    for name_of_other in system.also:
        assert f"Mean absolute error of the {name_of_other}" in text
        assert f"default {found.also[name_of_other][0]:.1f} ({found.also[name_of_other][1]:.1f})" in text
    assert f"| {found.mean:{system.form}} | {found.tuned:{system.form}} | {found.compute:{system.form}} |" in text
    assert "Not run here: plain; plain, compute of all; as printed" in text
    assert (
        f"`relaxify.diagnose` of 3 fresh networks: the equivariant share of the gradient by a term is {shares(runs)}" in text
    )


def shares(runs: Runs) -> str:
    return "; ".join(f"{each['equivariant']:.2f} ± {each['error']:.2f}" for each in runs.diagnosis)


def test_the_plumes_that_nothing_moves_in_are_as_far_off_as_is_said() -> None:
    pytest.importorskip("escnn")
    assert round(persistence("future"), 3) == PERSISTENCE
    seen, asked = everything("future")
    still = SMOKE.make().requires_grad_(False)
    torch.nn.init.zeros_(still.network[-1].weights)
    assert rmse(still(seen), asked) == pytest.approx(persistence("future"), rel=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["default", "constant, fitted", "constant, kept"])
def test_plumes_are_predicted_by_a_network_that_was_relaxed(way: str) -> None:
    pytest.importorskip("escnn")
    system = replace(few(SMOKE, 3), batch=2, size=6)
    data = system.data(0)
    (found,) = one_by_one(system, WAYS[way].arm(3), MEMBERS[:1], 3, [data])
    assert isinstance(found.model, type(SMOKE.make()))
    more = sum(p.numel() for p in found.model.parameters()) - sum(p.numel() for p in SMOKE.make().parameters())
    assert (more > 0) == (way == "constant, kept")
    assert (found.model.eval()(*data.inputs) - data.targets).isfinite().all()


def test_convolutions_are_not_trained_side_by_side() -> None:
    pytest.importorskip("escnn")
    data = [SMOKE.samples(member.seed, 2) for member in MEMBERS]
    with pytest.raises(ValueError, match=r"network\.0.* convolve, and have no terms here"):
        SideBySide(SMOKE, WAYS["default"].arm(2), MEMBERS, 2, data)


@pytest.mark.filterwarnings("ignore")
def test_one_by_one_comes_to_the_same_as_side_by_side(tmp_path: Path) -> None:
    values = {}
    for is_stacked in (True, False):
        system = replace(few(TEACHER, 8), is_stacked=is_stacked, sweep=2, rates=(1e-2, 3e-2), wider=0, timed=2, diagnosed=3)
        runs = Runs.read(system, tmp_path / str(is_stacked))
        runs.complete(["plain, tuned", "default"], 2)
        values[is_stacked] = [value for group in runs.groups for value in group["values"]]
    assert values[True] == pytest.approx(values[False], rel=1e-5)
    assert len(set(values[True])) == len(values[True]) == 12


@pytest.mark.filterwarnings("ignore")
def test_a_sweep_goes_on_until_the_best_rate_lies_within(tmp_path: Path) -> None:
    system = replace(few(TEACHER, 8), sweep=2, rates=(1e-4, 3e-4), wider=1, timed=2, diagnosed=3)
    runs = Runs.read(system, tmp_path)
    runs.complete([TUNED], 2)
    assert runs.sweep(TUNED).rates == (1e-4, 3e-4, 1e-3)
    assert {group["rate"] for group in runs.groups} == {1e-4, 3e-4, 1e-3}


def test_the_page_is_what_the_results_say() -> None:
    """`python -m benchmarks.evidence --docs` writes it."""
    for path, text in written().items():
        assert path.read_text() == text, f"{path.name} is out of date: run python -m benchmarks.evidence --docs"


def made_up(tuned: float, compute: float, system: System = TEACHER, way: str = "default") -> Runs:
    """A way that is so much better than each plain one, in every seed but for a little."""
    runs = Runs(replace(system, seeds=4, sweep=1, rates=(0.1,), wider=0), Path(), {"relaxed": 3.0, "plain, ms": 1.0})
    levels = {TUNED: (1_000, tuned), rival(way): (runs.steps(rival(way)), compute), way: (1_000, 0.0)}
    for name, (steps, level) in levels.items():
        values = [level + (0.01 * seed if name == way else 0) for seed in range(4)]
        one = {"way": name, "rate": 0.1, "steps": steps, "shares": [0.0] * 5, "cpu seconds": 1.0}
        runs.groups.append({**one, "seeds": [0, 1, 2, 3, 1_000], "values": [*values, 0.0]})
    return runs


@pytest.mark.parametrize(
    ("tuned", "compute", "verdict", "says"),
    [
        (1.0, 1.0, "better", "Better than both"),
        (1.0, 0.0, "no difference", "None of 1 relaxed training"),
        (
            1.0,
            -1.0,
            "no difference",
            "1 are better, 0 worse, and 0 show no difference; beside plain training of equal compute 0",
        ),
        (-1.0, -1.0, "worse", "None of 1 relaxed training"),
    ],
)
def test_only_what_is_better_than_both_plain_ways_is_a_gain(tuned: float, compute: float, verdict: str, says: str) -> None:
    (findings,) = all_findings([made_up(tuned, compute)])
    (found,) = findings.relaxed
    assert found.verdict == verdict
    assert says in headline([findings])
    assert in_short([findings]).startswith("**Does it help?** Better") == (verdict == "better")
    assert ("A gain over both plain ways was shown with default" in page([findings])) == (verdict == "better")


def test_what_a_rate_was_chosen_by_stands_beside_what_it_came_to() -> None:
    runs = made_up(1.0, 1.0)
    runs.groups = [{**group, "values": [*group["values"][:4], 0.25]} for group in runs.groups]
    assert "on 1 seeds and data that are not tested. Tuned plain training had 0.250 on these." in page(all_findings([runs]))


def test_what_keeps_its_terms_is_told_apart_from_what_is_equivariant_again() -> None:
    systems = all_findings([made_up(1.0, 1.0, way="constant, kept")])
    assert "which is no longer equivariant: 1 of 1 such training is better than both: constant, kept on teacher" in headline(
        systems
    )
    assert "relaxed training" not in headline(systems)
    assert "none of 0 relaxed trainings" in in_short(systems)
    assert "are not equivariant any more, do better on teacher and student." in in_short(systems)
    assert "No gain was shown in 0 relaxed trainings" in page(systems)
    assert "On teacher and student a model that keeps its terms did better than both" in page(systems)
    worse = all_findings([made_up(-1.0, -1.0, way="constant, kept")])
    assert "0 of 1 such training are better than both." in headline(worse)
    assert "not equivariant any more" not in in_short(worse)
    assert "a model that keeps its terms" not in page(worse)


def test_variants_share_a_table_below_their_system_and_count_like_it() -> None:
    narrow, wide = (replace(TEACHER, name=f"teacher-{w}", of="teacher", setting=f"{w} channels") for w in (2, 8))
    systems = all_findings([made_up(0.0, 0.0), made_up(1.0, 1.0, narrow), made_up(1.0, -1.0, wide)])
    text = page(systems)
    head, table = text.split("### Teacher and student: the same in other settings")
    assert "2 channels" not in head.split("## Teacher and student")[1]
    assert "| 2 channels | default | 0.1 (edge) |" in table.split("\n## ")[0]
    assert "| 8 channels | default | 0.1 (edge) |" in table.split("\n## ")[0]
    assert "Better than both tuned plain training and plain training of equal compute: 1 of 3 relaxed trainings" in text
    assert "default on teacher and student (2 channels)" in in_short(systems)
    assert "- **default**: no difference on 1 of 3 systems; **better** on teacher and student (2 channels); " in text


def test_what_diagnose_said_stands_beside_what_came_of_it() -> None:
    runs = made_up(-1.0, -1.0)
    advice = "The poses are not uniform, and the terms would learn them: expect an effect."
    runs.diagnosis = [{"equivariant": 0.2, "error": 0.1, "chance": 0.1, "advice": advice}]
    text = page(all_findings([runs]))
    assert "| teacher and student | The poses are not uniform | +1.015 ± 0.021 |  |" in text


def test_without_tuned_plain_training_nothing_is_said_to_be_better() -> None:
    runs = made_up(1.0, 1.0)
    runs.groups = [group for group in runs.groups if group["way"] != "plain, tuned"]
    (findings,) = all_findings([runs])
    (found,) = findings.relaxed
    assert found.verdict is None
    assert not found.is_better_over_as_many_steps
    assert "No gain was shown" in page([findings])
    assert "The defaults were not run beside tuned plain training." in page([findings])


@pytest.mark.parametrize(("tuned", "worse"), [(1.0, 0), (0.0, 0), (-1.0, 1)])
def test_whether_the_defaults_do_harm_is_said(tuned: float, worse: int) -> None:
    text = page(all_findings([made_up(tuned, 0.0)]))
    assert f"relaxify's defaults are worse than tuned plain training of as many steps on {worse} of 1 systems." in text
    assert ("worse on none: default" in text) == (not worse)


def test_more_comparisons_ask_for_a_wider_interval() -> None:
    plain, way = dict.fromkeys(range(10), 0.0), {seed: 1.0 + (-1) ** seed for seed in range(10)}
    once, often = (compared(way, plain, count, higher_is_better=True) for count in (1, 50))
    assert once is not None
    assert often is not None
    assert (once.verdict, often.verdict) == ("better", "no difference")
    assert once.half_width == often.half_width == once.corrected < often.corrected
    assert compared({0: 1.0, 1: 1.0}, plain, 1, higher_is_better=True) is None
