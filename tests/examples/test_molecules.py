"""Trajectories of molecules: what is kept in the repository is physics, and files of every layout are read or refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relaxify_examples.molecules import generation
from relaxify_examples.molecules.__main__ import main
from relaxify_examples.molecules.frames import KCAL_PER_MOL, Frames, load, save
from relaxify_examples.molecules.generation import DYNAMICS, Dynamics, generate

DATA = Path(__file__).parents[2] / "benchmarks" / "data"
RADII = {1: 0.31, 6: 0.76, 8: 0.66}
FEW = replace(DYNAMICS["ethanol"], frames=3, every=2, settling=5)


def made_up(count: int = 4) -> Frames:
    random = np.random.default_rng(0)
    positions, forces = random.standard_normal((2, count, 3, 3)).astype(np.float32)
    return Frames(np.array([8, 1, 1]), positions, random.standard_normal(count) - 2_000, forces)


def published(frames: Frames, layout: str) -> dict[str, np.ndarray]:
    """The arrays of a file as it is published, in kcal/mol."""
    energies, forces = frames.energies / KCAL_PER_MOL, frames.forces / KCAL_PER_MOL
    if layout == "MD17":
        return {
            "E": energies[:, None],
            "F": forces,
            "R": frames.positions,
            "z": frames.numbers.astype(np.uint8),
            "name": "a",
        }
    return {"nuclear_charges": frames.numbers, "coords": frames.positions, "energies": energies, "forces": forces}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Dynamics]:
    """Simulations without tblite: the dynamics that were asked for."""
    asked: list[Dynamics] = []

    def simulate(dynamics: Dynamics) -> Frames:
        asked.append(dynamics)
        return replace(made_up(dynamics.frames), about=generation.asdict(dynamics))

    monkeypatch.setattr(generation, "simulate", simulate)
    monkeypatch.setattr(generation, "_tblite", lambda: None)
    return asked


@pytest.mark.parametrize("layout", ["MD17", "rMD17"])
def test_published_files_are_read_in_electronvolts(layout: str, tmp_path: Path) -> None:
    frames = made_up()
    np.savez(tmp_path / "a.npz", **published(frames, layout))
    found = load(tmp_path / "a.npz")
    assert found.numbers.tolist() == [8, 1, 1]
    np.testing.assert_array_equal(found.positions, frames.positions)
    np.testing.assert_allclose(found.energies, frames.energies, rtol=1e-12)
    np.testing.assert_allclose(found.forces, frames.forces, rtol=1e-6)
    assert found.energies.dtype == np.float64


def test_a_kilocalorie_per_mole_is_what_ase_says() -> None:
    units = pytest.importorskip("ase.units")
    # ASE has the constants of 2014, before Avogadro's number was defined
    assert pytest.approx(units.kcal / units.mol, rel=1e-7) == KCAL_PER_MOL


def test_frames_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    frames = replace(made_up(), about={"method": "none", "seed": 3})
    save(frames, tmp_path / "a.npz")
    found = load(tmp_path / "a.npz")
    assert found.about == {"method": "none", "seed": 3}
    for name in ("numbers", "positions", "energies", "forces"):
        np.testing.assert_array_equal(getattr(found, name), getattr(frames, name))
        assert getattr(found, name).dtype == getattr(frames, name).dtype


def test_a_part_of_frames_has_the_same_molecule() -> None:
    frames = made_up()
    part = frames[1:3]
    assert (len(frames), len(part), part.numbers.tolist()) == (4, 2, [8, 1, 1])
    np.testing.assert_array_equal(part.energies, frames.energies[1:3])
    np.testing.assert_array_equal(frames[np.array([2, 0])].forces, frames.forces[[2, 0]])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"E": None}, "has the arrays F, R, z, name, which are those of no known file"),
        ({"R": np.zeros((4, 2, 3))}, r"of shape \(4, 3, 3\), and theirs are \(4, 2, 3\) and \(4, 3, 3\)"),
        ({"E": np.zeros(5)}, "3 atoms and 5 energies"),
        ({"F": np.full((4, 3, 3), np.nan)}, "not finite"),
        ({"z": np.array([8, 1, {}], dtype=object)}, r"cannot be read as a \.npz file of a molecule"),
    ],
)
def test_other_files_are_refused_in_a_sentence(change: dict[str, np.ndarray | None], says: str, tmp_path: Path) -> None:
    arrays = {name: value for name, value in (published(made_up(), "MD17") | change).items() if value is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_archive_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as a \.npz file of a molecule"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize(("molecule", "bonds"), [("ethanol", 8)])
def test_the_repositorys_data_are_a_molecule_at_500_kelvin(molecule: str, bonds: int) -> None:
    """Bonded as its name says; nothing pushes or turns the whole; forces are slopes; the time step keeps the energy."""
    frames = load(DATA / f"{molecule}.npz")
    recorded, dynamics = frames.about, DYNAMICS[molecule]
    assert {key: recorded[key] for key in generation.asdict(dynamics)} == generation.asdict(dynamics)
    assert len(frames) == dynamics.frames
    assert bonded(frames) == bonds
    assert np.abs(frames.forces.sum(1)).max() < 1e-3
    assert np.abs(np.cross(frames.positions, frames.forces).sum(1)).max() < 1e-2
    assert recorded["mean temperature, K"] == pytest.approx(500, rel=0.05)
    assert recorded["largest error of a force, eV/Angstrom"] < 2e-3
    assert abs(recorded["drift, eV/ps"]) < 0.02


def bonded(frames: Frames) -> int:
    """Pairs of atoms that are near in most frames: 1.3 times the sum of their covalent radii."""
    radii = np.array([RADII[number] for number in frames.numbers])
    distances = np.linalg.norm(frames.positions[:, :, None] - frames.positions[:, None], axis=-1)
    near = np.median(distances, axis=0) < 1.3 * (radii[:, None] + radii)
    return int(np.triu(near, 1).sum())


def test_a_trajectory_is_simulated() -> None:
    """Atoms have moved, and what is said of the simulation is what it was."""
    pytest.importorskip("tblite.ase")
    frames = generation.simulate(FEW)
    assert frames.forces.shape == frames.positions.shape == (3, 9, 3)
    assert np.linalg.norm(frames.positions[2] - frames.positions[0]) > 1e-2
    assert frames.about["largest error of a force, eV/Angstrom"] < 2e-3
    np.testing.assert_array_equal(generation.simulate(FEW).positions, frames.positions)


def test_trajectories_are_made_once(counted: list[Dynamics], tmp_path: Path) -> None:
    assert generate(FEW, tmp_path) == (tmp_path / "ethanol.npz", True)
    assert generate(FEW, tmp_path) == (tmp_path / "ethanol.npz", False)
    assert counted == [FEW]
    with pytest.raises(ValueError, match=r"ethanol\.npz is of other dynamics"):
        generate(replace(FEW, seed=1), tmp_path)


def test_the_command_line_simulates_and_shows(
    counted: list[Dynamics], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", str(tmp_path), "--frames", "3", "--every", "2", "--molecules", "ethanol"]
    assert main(arguments) == main(arguments) == 0
    assert [(each.molecule, each.frames, each.every) for each in counted] == [("ethanol", 3, 2)]
    assert [line.rsplit(".npz ")[1] for line in capsys.readouterr().out.splitlines()] == ["written", "is there"]
    assert main(["show", str(tmp_path / "ethanol.npz")]) == 0
    shown = capsys.readouterr().out
    assert "3 frames of 3 atoms" in shown
    assert "temperature: 500.0" in shown
    assert main(["show", str(tmp_path / "none.npz")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_without_tblite_the_mend_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tblite", None)
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    assert main(["generate", str(tmp_path / "new"), "--molecules", "ethanol"]) == 2
    assert "pip install ase tblite" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"frames": 0}, {"every": 0}, {"settling": -1}])
def test_senseless_dynamics_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="are no trajectory"):
        replace(FEW, **change)


def test_unknown_molecules_are_refused() -> None:
    with pytest.raises(ValueError, match="'water' is not a molecule that is known here; choose ethanol or aspirin"):
        replace(FEW, molecule="water")
