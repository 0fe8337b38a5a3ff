"""The page on L-conv on digits is that of its runs; the experiment in small; and words that the intervals choose."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.lconv_evidence import __main__ as command
from benchmarks.lconv_evidence import learned, page, side_by_side, training
from benchmarks.lconv_evidence.arms import ARMS, multiply_adds
from benchmarks.lconv_evidence.comparisons import differences, said
from benchmarks.lconv_evidence.overlaps import overlaps
from benchmarks.lconv_evidence.setting import Setting
from relaxify.lconv import Dense, LConv
from relaxify_examples.lconv import data
from relaxify_examples.lconv.data import Images, digits
from relaxify_examples.lconv.models import parameters
from relaxify_examples.lconv.turning import draw, learn, rotation

MNIST = (1, 28, 28)


@pytest.fixture(scope="module")
def images() -> Images:
    x, y = digits()
    return x[:250], y[:250]


def setting(protocol: str = "fair", variant: str = "rotated", epochs: int = 1) -> Setting:
    return Setting("digits", protocol, variant, epochs, 32)  # type: ignore[arg-type]


def test_the_page_is_that_of_the_runs() -> None:
    """`python -m benchmarks.lconv_evidence --docs` writes it; nothing in it is typed."""
    assert page.PAGE.read_text() == page.text(*page.read())


def test_the_experiment_in_small(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paired runs of all arms; a command that was broken off goes on; and the page says what was run."""
    of, path, rates = setting(), tmp_path / "runs.jsonl", dict.fromkeys(ARMS["fair"], 1e-3)
    first = command.run(images, of, [0], rates, path)
    with monkeypatch.context() as patched:
        patched.setattr(command, "train", None)
        assert command.run(images, of, [0], rates, path) == first
    runs = command.run(images, of, [0, 1], rates, path)
    assert [(run["seed"], run["arm"]) for run in runs] == list(itertools.product((0, 1), ARMS["fair"]))
    assert all(0 <= run["accuracy"] <= 1 for run in runs)
    text = page.text(runs, [], [])
    assert "- digits, rotated, fair protocol: 2 paired seeds of 1 epochs" in text
    assert "- digits, rotated, reference protocol: not run" in text
    assert all(f"| {arm} | " in text for arm in ARMS["fair"])


def test_a_run_is_the_same_every_time(images: Images) -> None:
    drawn = setting().split(images, 0)
    first, again = (training.train("L-conv", 0, setting(), drawn, 1e-3) for _ in range(2))
    assert {**first, "seconds": 0} == {**again, "seconds": 0}


@pytest.mark.parametrize(("protocol", "accuracy", "last"), [("reference", 0.9, 0.5), ("fair", 0.3, 0.3)])
def test_the_reference_takes_the_best_epoch_and_the_fair_protocol_looks_at_the_last_only(
    protocol: str, accuracy: float, last: float, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, looks = setting(protocol, epochs=3), iter([0.3, 0.9, 0.5])
    monkeypatch.setattr(training, "_accuracy", lambda *_: next(looks))
    found = training.train("FC (shallow)", 0, of, of.split(images, 0), 1e-3)
    assert (found["accuracy"], found["last"]) == (accuracy, last)


def test_arms_have_the_parameters_and_the_compute_that_they_claim() -> None:
    sizes = {protocol: {arm: parameters(make(MNIST)) for arm, make in arms.items()} for protocol, arms in ARMS.items()}
    # the reference code has five biases of 16 filters more, which its output only has the sum of
    assert sizes["reference"]["L-conv"] == 188_362 - 5 * 16
    assert (sizes["reference"]["CNN 3 x 3"], sizes["reference"]["CNN 5 x 5"]) == (216_650, 185_162)
    equal = [size for arm, size in sizes["fair"].items() if "equal" in arm or arm == "FC (shallow)"]
    assert equal == pytest.approx([sizes["fair"]["L-conv"]] * 3, rel=0.003)
    ours, theirs = (ARMS["fair"][arm](MNIST) for arm in ("L-conv", "CNN 5 x 5, equal parameters and compute"))
    assert multiply_adds(ours, MNIST) == multiply_adds(theirs, MNIST)


def test_learning_rates_are_chosen_on_training_images(images: Images) -> None:
    whole = setting().split(images, 0)
    tried = Setting("digits", "fair", "rotated", 1, 32, rate_to_try=1e-3).split(images, 0)
    assert torch.equal(torch.cat([tried.train_x, tried.test_x]), whole.train_x)


@pytest.mark.parametrize("protocol", ["fair", "reference"])
def test_the_rotation_is_looked_for_in_the_order_of_scrambled_pixels(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An L-conv whose generator is the rotation in the order that the pixels came to has a cosine of 1, and only there."""
    # turned corners are empty on all images, and could not be told apart
    monkeypatch.setattr(data, "rotate", lambda image, _: image)
    noise = np.random.default_rng(0).uniform(size=(100, 1, 8, 8)).astype(np.float32), np.arange(100) % 10
    plain, scrambled = setting(protocol), setting(protocol, "rotated and scrambled")
    ordered, mixed = (of.split(noise, 0).train_x.flatten(1) for of in (plain, scrambled))
    order = (mixed.T[:, None] - ordered.T[None]).abs().amax(2).argmin(1)
    torch.testing.assert_close(ordered[:, order], mixed)
    model = nn.Sequential(LConv(Dense(rotation()[order][:, order][None].float()), 1, 1))
    found = [overlaps(model, of, of.split(noise, 0), 0)["cosine"] for of in (scrambled, plain)]
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found[1] < 0.5


def run(arm: str, seed: int, accuracy: float) -> dict[str, Any]:
    budget = {"data": "digits", "protocol": "fair", "variant": "rotated", "epochs": 1, "rate_to_try": None}
    numbers = {"parameters": 1, "multiply_adds": 1, "seconds": 1.0, "machine": "a machine"}
    return {"arm": arm, "seed": seed, "accuracy": accuracy, **numbers, "budget": budget}


@pytest.mark.parametrize(
    ("shift", "verdict", "answer"),
    [
        (0.1, "better than", "**L-conv wins against every other arm.**"),
        (-0.1, "**worse** than", "does not win"),
        (0.0, "not told apart from", "does not win"),
    ],
)
def test_words_follow_from_intervals(shift: float, verdict: str, answer: str) -> None:
    others = [arm for arm in ARMS["fair"] if arm != "L-conv"]
    runs = [run(arm, seed, 0.8 + 0.01 * (seed % 2)) for arm in others for seed in range(6)]
    runs += [run("L-conv", seed, 0.805 + shift + 0.001 * (seed // 3)) for seed in range(6)]
    assert said(differences(runs, ARMS["fair"])).startswith(verdict)
    assert answer in page.text(runs, [], [])
    # of four seeds nothing is said to follow
    assert "against every other arm" not in page.text([run for run in runs if run["seed"] < 4], [], [])


def test_a_rotation_is_learned_from_scrambled_pairs_and_drawn(tmp_path: Path) -> None:
    found = learn(0, scrambled=True, updates=80)
    # chance is 1/64
    assert found.cosine > 0.7
    draw({"the rotation": rotation(), "learned": found.generator}, tmp_path / "turning.png")
    assert (tmp_path / "turning.png").read_bytes().startswith(b"\x89PNG")


def test_labels_are_a_way_of_learning_that_is_measured_alike() -> None:
    found = {way: learned.measured(way, 0, learned.Setting(epochs=1)) for way in ("labels", "labels, random L")}
    assert all(each["cosine"] < 0.2 and 0 < each["accuracy"] < 1 for each in found.values())
    assert set(page.WORDS) == set(learned.WAYS)


def test_seeds_are_timed_side_by_side_and_one_by_one(tmp_path: Path) -> None:
    arms = {"L-conv": ARMS["fair"]["L-conv"]}
    side_by_side.everything(tmp_path / "times.jsonl", seeds=2, steps=1, arms=arms)
    rows = page.lines(tmp_path / "times.jsonl")
    assert [row["arm"] for row in rows] == [*arms] * 2
    assert all(row["one by one, ms"] > 0 < row["side by side, ms"] for row in rows)
    assert "times as long as one after the other" in page.text([], [], rows)
