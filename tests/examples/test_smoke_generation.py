"""The smoke plumes' simulations: symmetric but for what shall break it, incompressible, rising, and written whole."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors

from relaxify_examples.smoke import generation
from relaxify_examples.smoke.__main__ import main
from relaxify_examples.smoke.data import load
from relaxify_examples.smoke.generation import (
    BUOYANCIES,
    FULL,
    INFLOWS,
    SMALL,
    TOLERANCE,
    Frames,
    Plume,
    Recipe,
    evolve,
    generate,
    plume,
    simulate,
)

TINY = Recipe("rotation", size=12, steps=4, simulations=3)
STRONG = replace(plume(replace(TINY, steps=9), 0), buoyancy=(0.0, 0.05))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Plume]:
    """Simulations without PhiFlow: the plumes that were asked for."""
    asked: list[Plume] = []

    def simulate(plume: Plume) -> Frames:
        asked.append(plume)
        return np.full((plume.steps - 1, 2, plume.size, plume.size), len(asked), np.float32)

    monkeypatch.setattr(generation, "simulate", simulate)
    monkeypatch.setattr(generation, "_phiflow", lambda: None)
    monkeypatch.setattr(generation, "_version", lambda: "3")
    return asked


def turned(this: Plume) -> Plume:
    (x, y), (along, up) = this.inflow, this.buoyancy
    return replace(this, inflow=(this.grid - y, x), buoyancy=(-up, along))


def turned_frames(frames: Frames) -> Frames:
    """Each picture a quarter turn to the left, and each vector with it."""
    pictures = np.rot90(frames, axes=(2, 3))
    return np.stack([-pictures[:, 1], pictures[:, 0]], 1)


def test_published_plumes() -> None:
    """Numbers of the published notebook: the direction goes round, and the buoyancy grows by its unit each time."""
    assert [plume(FULL["rotation"], index).buoyancy for index in (0, 1, 2, 3, 4)] == [
        (0.0, 0.01),
        (-0.02, 0.0),
        (0.0, -0.033),
        (0.04, 0.0),
        (0.0, 0.05),
    ]
    assert plume(FULL["rotation"], 5).inflow == (59.0, 32.0)
    last = plume(FULL["scale"], 37)
    assert (last.grid, last.inflow, last.radius) == (300, (150, 5 * 300 / 64), 5 * 300 / 64)
    assert last.buoyancy == pytest.approx((0, 0.1 * 300 / 64))
    assert {plume(FULL["scale"], index).velocity_time for index in range(38)} == {0.5}


def test_directions_are_quarter_turns_of_the_first() -> None:
    for before, after in pairwise(INFLOWS):
        assert after == (64 - before[1], before[0])
    for before, after in pairwise(BUOYANCIES):
        direction = np.array([-before[1], before[0]])
        assert np.dot(direction, after) == pytest.approx(np.linalg.norm(before) * np.linalg.norm(after))


def test_a_smaller_box_holds_the_same_plume() -> None:
    full, small = plume(FULL["rotation"], 35), plume(SMALL["rotation"], 7)
    for name in ("inflow", "buoyancy"):
        assert np.array(getattr(small, name)) == pytest.approx(np.array(getattr(full, name)) / 2)
    assert small.radius == full.radius / 2


def test_a_turned_simulation_is_the_simulation_turned() -> None:
    pytest.importorskip("phi.flow")
    this = replace(STRONG, steps=5)
    frames = simulate(this)
    np.testing.assert_allclose(simulate(turned(this)), turned_frames(frames), atol=TOLERANCE * np.abs(frames).max())


def test_the_flow_is_incompressible_and_carries_smoke_along_its_buoyancy() -> None:
    pytest.importorskip("phi.flow")
    from phi.flow import field

    smokes, divergences = [], []
    for smoke, velocity in evolve(STRONG):
        smokes.append(smoke.values.numpy("y,x"))
        divergences.append(np.abs(field.divergence(velocity).values.numpy("y,x")).max())
    assert max(divergences) < 10 * TOLERANCE
    heights = [float((s.sum(1) * (np.arange(12) + 0.5)).sum() / s.sum()) for s in smokes]
    assert heights[-1] > heights[0] + 0.4
    assert all(abs(float((s.sum(0) * (np.arange(12) - 5.5)).sum())) < 1e-3 * s.sum() for s in smokes)


def test_row_0_of_a_frame_is_the_top_of_the_box() -> None:
    """Where smoke flows in, at the bottom, it goes up; and the first frame is not kept."""
    pytest.importorskip("phi.flow")
    frames = simulate(replace(STRONG, steps=3))
    assert frames.shape == (2, 2, 12, 12)
    assert frames.dtype == np.float32
    upwards = frames[-1, 1]
    assert upwards[10:, 5:7].min() > 5 * np.abs(upwards[:6]).max() > 0


def test_a_finer_grid_shows_the_same_flow() -> None:
    """Twice the cells with twice the buoyancy, brought back: what differs is the simulation's own error."""
    pytest.importorskip("phi.flow")
    recipe = Recipe("scale", size=24, steps=6, simulations=2, strongest=1.5)
    coarse, fine = (simulate(plume(recipe, index)) for index in (0, 1))
    assert fine.shape == coarse.shape
    assert 1e-3 < np.linalg.norm(fine[-1] - coarse[-1]) / np.linalg.norm(coarse[-1]) < 0.2


def test_published_grids() -> None:
    factors = np.linspace(1, 5, 41)
    assert [plume(FULL["scale"], index).grid for index in range(38)] == [int(64 * factor) for factor in factors[:38]]
    assert [plume(SMALL["scale"], index).grid for index in range(8)] == [32, 36, 41, 45, 50, 54, 59, 64]


def test_simulations_are_made_once_and_read_back(counted: list[Plume], tmp_path: Path) -> None:
    first = next(generate(TINY, tmp_path))
    assert first == (tmp_path / "rotation-00.safetensors", True)
    assert [new for _, new in generate(TINY, tmp_path)] == [False, True, True]
    assert counted == [plume(TINY, index) for index in range(3)]
    assert load(tmp_path, "rotation").velocity[:, 0, 0, 0, 0].tolist() == [1, 2, 3]
    with safetensors.safe_open(first[0], "numpy") as file:
        assert file.metadata()["phiflow"] == "3"


def test_a_folder_of_other_simulations_is_left_alone(counted: list[Plume], tmp_path: Path) -> None:
    list(generate(TINY, tmp_path))
    for other in (replace(TINY, steps=5), replace(TINY, simulations=2), replace(TINY, symmetry="scale")):
        with pytest.raises(ValueError, match="is not of this data set"):
            next(generate(other, tmp_path))
    (tmp_path / "rotation-01.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"rotation-01\.safetensors is not of this data set"):
        next(generate(TINY, tmp_path))
    assert len(counted) == 3


def test_nothing_is_left_of_a_simulation_that_could_not_be_written(
    counted: list[Plume], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_(self: Path, target: Path) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_)
        making = generate(TINY, tmp_path)
        with pytest.raises(OSError, match="no space"):
            next(making)
    assert list(tmp_path.iterdir()) == []
    assert all(new for _, new in generate(TINY, tmp_path))


def test_without_phiflow_the_mend_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "phi", None)
    assert main(["generate", str(tmp_path)]) == 2
    assert "pip install phiflow" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_simulates(counted: list[Plume], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", str(tmp_path), "--simulations", "2", "--steps", "3", "--size", "8"]
    assert main(arguments) == main(arguments) == 0
    assert [(this.symmetry, this.size, this.steps) for this in counted] == [("rotation", 8, 3)] * 2 + [("scale", 8, 3)] * 2
    assert [line.rsplit(".safetensors ")[1] for line in capsys.readouterr().out.splitlines()] == ["written"] * 4 + [
        "is there"
    ] * 4


@pytest.mark.parametrize("change", [{"simulations": 0}, {"steps": 1}, {"size": 4}])
def test_senseless_recipes_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="make no data set"):
        replace(TINY, **change)


def test_unknown_variants_and_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="is not a variant"):
        replace(TINY, symmetry="shear")
    with pytest.raises(ValueError, match="no simulation 3 among 3"):
        plume(TINY, 3)
