"""`relaxify mace-train` beside `mace_run_train`: molecules with EMT's energies and forces, four epochs of a small model.

The runs are processes of their own, as users start them, each made once for all tests that look at it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import read, write

BIN = Path(sys.executable).parent
NEWER_E3NN = BIN.parent / "e3nn-0.6.0"
NAME = "small"
MODEL = {
    "--name": NAME,
    "--train_file": "frames.xyz",
    "--valid_fraction": "0.2",
    "--energy_key": "REF_energy",
    "--forces_key": "REF_forces",
    "--E0s": "average",
    "--hidden_irreps": "4x0e+4x1o",
    "--r_max": "3.0",
    "--max_ell": "2",
    "--correlation": "2",
    "--MLP_irreps": "4x0e",
    "--num_radial_basis": "4",
    "--radial_MLP": "[8]",
    "--batch_size": "4",
    "--valid_batch_size": "4",
    "--max_num_epochs": "4",
    "--device": "cpu",
    "--seed": "1",
    "--plot": "False",
}
# an average of weights, a second stage with its own loss and rate, and a scheduler that looks at the validation
TRAINING = ["--ema", "--ema_decay", "0.9", "--swa", "--start_swa", "3", "--scheduler", "ReduceLROnPlateau"]
RELAXED = ["--relax-lr", "0.001", "--until", "0.75"]
STEPS_PER_EPOCH = 4


def frames() -> list[Atoms]:
    found = []
    for k in range(20):
        atoms = molecule(["CH3CH2OH", "H2O", "CH4", "NH3"][k % 4])
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        found.append(atoms)
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "frames.xyz", frames())
    return folder


def run(
    folder: Path, name: str, command: list[str], *arguments: str, e3nn: Path | None = None
) -> subprocess.CompletedProcess[str]:
    (folder / name).mkdir(exist_ok=True)
    options = [text for pair in (MODEL | {"--train_file": "../frames.xyz"}).items() for text in pair]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if e3nn is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(e3nn), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, *options, *arguments], cwd=folder / name, env=environment, capture_output=True, text=True, check=False
    )


MACE = [str(BIN / "mace_run_train")]
OURS = [str(BIN / "relaxify"), "mace-train"]


def finished(done: subprocess.CompletedProcess[str], folder: Path, name: str) -> Path:
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / name


@pytest.fixture(scope="session")
def plain(folder: Path) -> Path:
    return finished(run(folder, "plain", MACE, *TRAINING), folder, "plain")


@pytest.fixture(scope="session")
def relaxed(folder: Path) -> Path:
    return finished(run(folder, "relaxed", OURS, *TRAINING, *RELAXED), folder, "relaxed")


@pytest.fixture(scope="session")
def resumed(folder: Path) -> Path:
    """Killed in the second epoch, while the terms act, and again in the last, which is of the second stage."""
    arguments = (*TRAINING, *RELAXED, "--restart_latest")
    for step in (STEPS_PER_EPOCH + 2, 2 * STEPS_PER_EPOCH + 2):
        killed = run(
            folder,
            "resumed",
            [sys.executable, str(Path(__file__).with_name("killed.py")), str(step), "mace-train"],
            *arguments,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    return finished(run(folder, "resumed", OURS, *arguments), folder, "resumed")


STAGES = pytest.mark.parametrize("stage", ["", "_stagetwo"])


def model_of(run: Path, stage: str) -> torch.nn.Module:
    return torch.load(run / f"{NAME}{stage}.model", weights_only=False)


def attributes(model: torch.nn.Module) -> list[tuple[str, str, list[str]]]:
    """Of every module its path, its class, and what it has; the names of generated code are counted on from run to run."""
    return [
        (path, type(module).__qualname__.rstrip("0123456789"), sorted(vars(module)))
        for path, module in model.named_modules()
    ]


def energy_and_forces(model: torch.nn.Module, atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor]:
    from mace import data
    from mace.tools import AtomicNumberTable, torch_geometric

    table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
    graph = data.AtomicData.from_config(
        data.config_from_atoms(atoms), z_table=table, cutoff=float(model.r_max), heads=["Default"]
    )
    batch = {
        key: value.to(torch.float64) if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in torch_geometric.Batch.from_data_list([graph]).to_dict().items()
    }
    output = model(batch)
    return output["energy"].detach(), output["forces"].detach()


@STAGES
def test_the_model_is_of_the_structure_that_a_plain_training_saves(plain: Path, relaxed: Path, stage: str) -> None:
    expected, found = model_of(plain, stage), model_of(relaxed, stage)
    assert type(found) is type(expected)
    assert attributes(found) == attributes(expected)
    shapes = [{key: (value.shape, value.dtype) for key, value in model.state_dict().items()} for model in (expected, found)]
    assert list(shapes[0].items()) == list(shapes[1].items())
    # they were trained in different ways
    assert any(not torch.equal(a, b) for a, b in zip(expected.parameters(), found.parameters(), strict=True))


@STAGES
def test_the_compiled_model_is_there_and_computes_the_same(relaxed: Path, stage: str) -> None:
    compiled = torch.jit.load(relaxed / f"{NAME}{stage}_compiled.model")
    model, atoms = model_of(relaxed, stage), frames()[0]
    for found, expected in zip(energy_and_forces(compiled, atoms), energy_and_forces(model, atoms), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_mace_s_calculator_takes_the_model_and_turned_atoms_have_turned_forces(relaxed: Path) -> None:
    from mace.calculators import MACECalculator

    atoms = read(relaxed / "../frames.xyz", 0)
    atoms.calc = MACECalculator(model_paths=str(relaxed / f"{NAME}.model"), device="cpu", default_dtype="float64")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.rotate(37, (1, 2, 3))
    turned = Atoms(positions=forces)
    turned.rotate(37, (1, 2, 3))
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    assert atoms.get_forces() == pytest.approx(turned.positions, abs=1e-9)


def test_the_terms_have_acted_and_are_over_at_the_end(relaxed: Path) -> None:
    (log,) = relaxed.glob("logs/*[0-9].log")
    told = [line.split("relaxify: ")[1] for line in log.read_text().splitlines() if "relaxify: Epoch" in line]
    theta = [float(line.split("theta=")[1].split(",")[0]) for line in told]
    penalty = [float(line.split("penalty=")[1]) for line in told]
    assert max(theta) > 0.3
    assert max(penalty) > 0
    assert theta[-1] == 0


@STAGES
def test_killed_twice_and_resumed_is_as_if_it_had_never_been(relaxed: Path, resumed: Path, stage: str) -> None:
    expected, found = (model_of(run, stage).state_dict() for run in (relaxed, resumed))
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


def test_a_training_that_is_lengthened_goes_on_by_its_new_length_and_says_so(relaxed: Path) -> None:
    longer = relaxed.with_name("longer")
    shutil.copytree(relaxed, longer)
    arguments = (*TRAINING, *RELAXED, "--restart_latest", "--max_num_epochs", "6")
    done = run(relaxed.parent, "longer", OURS, *arguments)
    finished(done, relaxed.parent, "longer")
    begun, now = 4 * STEPS_PER_EPOCH, 6 * STEPS_PER_EPOCH
    said = f"total_steps is {now}, and was {begun}. From here, step {begun}, theta is that of a training which had been so"
    assert said in done.stdout + done.stderr
    assert f"and 0 from step {0.75 * now:g} on." in done.stdout + done.stderr


def test_checkpoints_hold_the_terms_and_convert_to_the_model_that_is_saved(relaxed: Path) -> None:
    from relaxify.checkpoint import convert

    (checkpoint,) = relaxed.glob("checkpoints/*_swa.pt")
    convert(checkpoint, relaxed / "plain.pt")
    before = torch.load(checkpoint, weights_only=True)["model"]
    after = torch.load(relaxed / "plain.pt", weights_only=True)["model"]
    expected = model_of(relaxed, "_stagetwo").state_dict()
    assert any("relaxation" in key for key in before)
    assert list(after) == list(expected)
    assert [key for key in expected if not torch.equal(expected[key], after[key])] == []


@pytest.mark.parametrize("e3nn", [None, NEWER_E3NN], ids=["pinned", "newer"])
def test_with_theta_at_zero_it_is_the_plain_training_to_the_last_bit(folder: Path, e3nn: Path | None) -> None:
    name = e3nn.name if e3nn else "pinned"
    short = ("--max_num_epochs", "2", "--ema")
    expected = finished(run(folder, f"{name}-plain", MACE, *short, e3nn=e3nn), folder, f"{name}-plain")
    found = finished(run(folder, f"{name}-still", OURS, *short, "--peak", "0", e3nn=e3nn), folder, f"{name}-still")
    assert (found / f"{NAME}_compiled.model").is_file()
    states = [
        torch.load(path / "checkpoints" / f"{NAME}_run-1_epoch-1.pt", weights_only=True)["model"]
        for path in (expected, found)
    ]
    assert [key for key, value in states[0].items() if not torch.equal(value, states[1][key])] == []
    files = [(path / f"{NAME}.model").stat().st_size for path in (expected, found)]
    assert files[0] == files[1]


def test_a_plain_training_s_checkpoint_is_not_gone_on_from(plain: Path) -> None:
    done = run(plain.parent, plain.name, OURS, *TRAINING, "--restart_latest", "--max_num_epochs", "6")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("relaxify: the checkpoint to restart from is of a plain training")


@pytest.mark.parametrize("option", ["--distributed", "--lora=True", "--lbfgs", "--enable_oeq=True"])
def test_what_is_not_known_to_work_is_refused_by_name(option: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from relaxify_cli.main import run as command

    assert command(["mace-train", "--name", "x", "--train_file", "none.xyz", option]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"leave {option.partition('=')[0]} out" in said


def test_no_option_is_one_of_mace_s_or_an_abbreviation_of_one() -> None:
    from mace.tools import build_default_arg_parser

    from relaxify_cli.main import Commands

    own = [
        name
        for option in Commands().get_command(None, "mace-train").params
        for name in (*option.opts, *option.secondary_opts)
    ]
    theirs = [
        name
        for action in build_default_arg_parser()._actions
        for name in action.option_strings
        if name not in ("-h", "--help")
    ]
    assert "--until" in own
    assert [name for name in own if name.startswith("--") and any(other.startswith(name) for other in theirs)] == []
    assert [name for name in theirs if name in own] == []
