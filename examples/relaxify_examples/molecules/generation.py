"""Molecules simulated with GFN2-xTB at 500 K, as MD17's were with density functional theory.

Langevin dynamics of steps of 0.5 fs (ASE), energies and forces by tight binding (GFN2-xTB, Bannwarth et al. 2019, by
tblite). Both are needed here and nowhere else. The molecule turns freely, so that it is seen in all poses.

    python -m relaxify_examples.molecules generate DATA
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from relaxify_examples.molecules.frames import Frames, load, save

METHOD = "GFN2-xTB"

ASPIRIN = """
O 1.2333 0.5540 0.7792; O -0.6952 -2.7148 -0.7502; O 0.7958 -2.1843 0.8685; O 1.7813 0.8105 -1.4821;
C -0.0857 0.6088 0.4403; C -0.7927 -0.5515 0.1244; C -0.7288 1.8464 0.4133; C -2.1426 -0.4741 -0.2184;
C -2.0787 1.9238 0.0706; C -2.7855 0.7636 -0.2453; C -0.1409 -1.8536 0.1477; C 2.1094 0.6715 -0.3113;
C 3.5305 0.5996 0.1635; H -0.1851 2.7545 0.6593; H -2.7247 -1.3605 -0.4564; H -2.5797 2.8872 0.0506;
H -3.8374 0.8238 -0.5090; H 3.7290 1.4184 0.8593; H 4.2045 0.6969 -0.6924; H 3.7105 -0.3659 0.6426;
H -0.2555 -3.5916 -0.7337
"""
"""Acetylsalicylic acid near a minimum, in Angstrom: where the dynamics start, once it is relaxed."""


@dataclass(frozen=True)
class Dynamics:
    """One trajectory: `frames`, each `every` steps of `step` fs after the one before, the first `settling` steps left out.

    `friction` of the thermostat is in 1/fs, and `temperature` in K.
    """

    molecule: str
    frames: int
    every: int
    settling: int = 10_000
    step: float = 0.5
    temperature: float = 500.0
    friction: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.molecule not in MOLECULES:
            raise ValueError(f"{self.molecule!r} is not a molecule that is known here; choose {' or '.join(MOLECULES)}.")
        if min(self.frames, self.every) < 1 or self.settling < 0:
            raise ValueError(
                f"{self.frames} frames, each {self.every} steps after the one before and after {self.settling} steps of "
                "settling, are no trajectory; give at least 1 frame, 1 step and 0 steps."
            )


def _ethanol() -> Any:
    from ase.build import molecule

    return molecule("CH3CH2OH")


def _aspirin() -> Any:
    from ase import Atoms

    rows = [row.split() for row in ASPIRIN.split(";")]
    return Atoms([row[0] for row in rows], [[float(x) for x in row[1:]] for row in rows])


MOLECULES: dict[str, Callable[[], Any]] = {"ethanol": _ethanol, "aspirin": _aspirin}

DYNAMICS: dict[str, Dynamics] = {
    "ethanol": Dynamics("ethanol", frames=1_500, every=100),
    "aspirin": Dynamics("aspirin", frames=500, every=40, settling=3_000),
}


def simulate(dynamics: Dynamics) -> Frames:
    """The trajectory, with what was simulated and how good it is in `about`."""
    from ase import units
    from ase.md.langevin import Langevin

    atoms = _at_a_minimum(dynamics)
    driver = Langevin(
        atoms,
        dynamics.step * units.fs,
        temperature_K=dynamics.temperature,
        friction=dynamics.friction / units.fs,
        fixcm=False,
        rng=np.random.RandomState(dynamics.seed + 1),
    )
    driver.run(dynamics.settling)
    quality = {"largest error of a force, eV/Angstrom": force_error(atoms), "drift, eV/ps": drift(atoms)}
    frames, temperature = _kept(atoms, driver, dynamics)
    about = {
        **asdict(dynamics),
        "method": METHOD,
        "tblite": version("tblite"),
        "ase": version("ase"),
        "units": "eV, Angstrom",
        "mean temperature, K": round(temperature, 1),
        **{name: float(f"{value:.2g}") for name, value in quality.items()},
    }
    return replace(frames, about=about)


def _kept(atoms: Any, driver: Any, dynamics: Dynamics) -> tuple[Frames, float]:
    """The frames, and the mean temperature of their velocities.

    Positions are from the centre of mass, and rounded to float32 before energies and forces are computed, so that these
    belong to what is kept.
    """
    probe, kept, temperatures = _calculated(atoms.copy()), [], []
    for _ in range(dynamics.frames):
        driver.run(dynamics.every)
        temperatures.append(atoms.get_temperature())
        positions = (atoms.positions - atoms.get_center_of_mass()).astype(np.float32)
        probe.positions[:] = positions
        kept.append((positions, probe.get_potential_energy(), probe.get_forces().astype(np.float32)))
    arrays = (np.stack(each) for each in zip(*kept, strict=True))
    return Frames(atoms.numbers.astype(np.int64), *arrays), float(np.mean(temperatures))


def force_error(atoms: Any, shift: float = 1e-3) -> float:
    """max |F + dE/dx| by central differences of so many Angstrom, at these positions."""
    probe = _calculated(atoms.copy())
    forces, slopes = probe.get_forces(), np.zeros_like(probe.positions)
    for index in np.ndindex(*slopes.shape):
        energies = []
        for sign in (1, -1):
            probe.positions[:] = atoms.positions
            probe.positions[index] += sign * shift
            energies.append(probe.get_potential_energy())
        slopes[index] = (energies[0] - energies[1]) / (2 * shift)
    return float(np.abs(forces + slopes).max())


def drift(atoms: Any, steps: int = 1_000, step: float = 0.5) -> float:
    """What the total energy changes in a picosecond without a thermostat: the slope of a line through all steps."""
    from ase import units
    from ase.md.verlet import VelocityVerlet

    copy = _calculated(atoms.copy())
    driver, energies = VelocityVerlet(copy, step * units.fs), []
    for _ in range(steps):
        driver.run(1)
        energies.append(copy.get_total_energy())
    times = np.arange(steps) * step * 1e-3
    return float(np.polyfit(times, energies, 1)[0])


def _at_a_minimum(dynamics: Dynamics) -> Any:
    """At a minimum, with velocities of the temperature and without a momentum."""
    from ase import units
    from ase.md.velocitydistribution import Stationary
    from ase.optimize import BFGS

    atoms = _calculated(MOLECULES[dynamics.molecule]())
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=500)
    widths = np.sqrt(atoms.get_masses() * units.kB * dynamics.temperature)
    atoms.set_momenta(widths[:, None] * np.random.RandomState(dynamics.seed).standard_normal((len(atoms), 3)))
    Stationary(atoms)
    return atoms


def _calculated(atoms: Any) -> Any:
    atoms.calc = _tblite()(method=METHOD, verbosity=0)
    return atoms


def _tblite() -> Any:
    try:
        import ase  # noqa: F401
        from tblite.ase import TBLite
    except ImportError as error:
        raise ValueError(
            f"molecules are simulated with ASE and tblite, which are not there ({error}): pip install ase tblite."
        ) from error
    return TBLite


def generate(dynamics: Dynamics, folder: Path) -> tuple[Path, bool]:
    """Write the trajectory's file, and say whether it was simulated now; one of the same dynamics is kept.

    ValueError if the file is of other dynamics, or a library is missing.
    """
    path = folder / f"{dynamics.molecule}.npz"
    if path.exists():
        recorded = load(path).about
        if any(recorded.get(key) != value for key, value in asdict(dynamics).items()):
            raise ValueError(f"{path} is of other dynamics; give a folder of its own to each.")
        return path, False
    _tblite()
    folder.mkdir(parents=True, exist_ok=True)
    save(simulate(dynamics), path)
    return path, True
