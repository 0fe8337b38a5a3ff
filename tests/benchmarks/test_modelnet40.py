"""ModelNet40's files, made up in small: what is read of them, what is said of others, and a training on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.evidence.modelnet40 import POINTS, modelnet40, samples
from benchmarks.evidence.runs import Runs
from benchmarks.evidence.system import SWEPT_FROM
from benchmarks.evidence.systems import small
from benchmarks.modelnet40 import load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of each of two classes 20 shapes to learn from and 3 to be tested on."""
    (tmp_path / "modelnet40_shape_names.txt").write_text("bowl\nnight_stand\n")
    for split, first, count in (("train", 0, 20), ("test", 20, 3)):
        names = [f"{kind}_{number:04d}" for kind in ("bowl", "night_stand") for number in range(first, first + count)]
        (tmp_path / f"modelnet40_{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            path = tmp_path / name.rpartition("_")[0] / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            rows = torch.randn(POINTS + 5, 6) + torch.tensor([3.0, 0, 0, 0, 0, 0])
            path.write_text("\n".join(",".join(f"{x:.6f}" for x in row) for row in rows) + "\n")
    return tmp_path


def test_clouds_are_the_first_points_centred_and_in_the_unit_ball(folder: Path) -> None:
    clouds, labels = load(folder, "train", 50)
    assert clouds.shape == (40, 3, 50)
    assert labels.tolist() == [0] * 20 + [1] * 20
    lines = (folder / "night_stand" / "night_stand_0003.txt").read_text().splitlines()[:50]
    expected = torch.tensor([list(map(float, line.split(",")[:3])) for line in lines])
    expected = expected - expected.mean(0)
    torch.testing.assert_close(clouds[23], (expected / expected.norm(dim=1).max()).T)


def damaged(folder: Path, what: str) -> None:
    shape = folder / "bowl" / "bowl_0001.txt"
    if what == "no list":
        (folder / "modelnet40_train.txt").unlink()
    elif what == "no shape":
        shape.unlink()
    elif what == "few points":
        shape.write_text("1,2,3,0,0,1\n" * 5)
    elif what == "words":
        shape.write_text("OFF\n" * 100)
    else:
        (folder / "modelnet40_train.txt").write_text("spoon_0001\n")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no list", r"modelnet40_train.txt cannot be read .*: give the folder of modelnet40_normal_resampled"),
        ("no shape", r"bowl_0001.txt cannot be read"),
        ("few points", r"bowl_0001.txt has 5 points, of which 50 are asked for"),
        ("words", r"bowl_0001.txt cannot be read .*x,y,z,nx,ny,nz, a point a line"),
        ("another class", r"spoon_0001 is of no class of .*modelnet40_shape_names.txt"),
    ],
)
def test_what_is_not_modelnet40_is_refused_in_a_sentence(what: str, says: str, folder: Path) -> None:
    damaged(folder, what)
    with pytest.raises(ValueError, match=says):
        load(folder, "train", 50)


def test_rates_are_chosen_by_clouds_that_are_neither_learned_nor_tested(folder: Path) -> None:
    chosen, tested = samples(folder, SWEPT_FROM, 100), samples(folder, 0, 100)
    assert (len(chosen.targets), len(chosen.test_targets), len(tested.targets), len(tested.test_targets)) == (36, 4, 36, 6)
    for other in (chosen.inputs[0], tested.inputs[0], tested.test_inputs[0]):
        assert not (chosen.test_inputs[0][:, None] == other).flatten(2).all(-1).any()


@pytest.mark.filterwarnings("ignore")
def test_a_small_version_is_trained(folder: Path, tmp_path: Path) -> None:
    system = replace(small(modelnet40(folder)), size=24)
    runs = Runs.read(system, tmp_path / "results")
    runs.complete(["plain, tuned", "default"], 2)
    assert all(0 <= value <= 100 for group in runs.groups for value in group["values"])
    assert [group["seeds"] for group in runs.groups if group["seeds"][0] < SWEPT_FROM] == [[0, 1], [0, 1]]
