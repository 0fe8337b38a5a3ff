"""Frames of a molecule's trajectory with energies and forces: relaxify's own files, and MD17's and rMD17's.

Everything is in eV and Angstrom. MD17 (Chmiela et al. 2017, arXiv 1611.04678) and rMD17 (Christensen, von Lilienfeld 2020,
arXiv 2007.09593) are published in kcal/mol and Angstrom, one .npz a molecule.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from relaxify.output import write_whole

KCAL_PER_MOL = 4184 / 96485.33212331
"""In eV."""


@dataclass(frozen=True)
class Frames:
    """A trajectory in the order of time; `about` says what was simulated, and is empty for published files.

    Attributes:
        numbers: atomic numbers.
        positions: in Angstrom.
        energies: in eV; of all electrons, so that they need more digits than float32 has.
        forces: -dE/dx, in eV/Angstrom.
        about: what a file of relaxify's says of its simulation.
    """

    numbers: Int[NDArray[np.int64], " atom"]
    positions: Float[NDArray[np.float32], "frame atom 3"]
    energies: Float[NDArray[np.float64], " frame"]
    forces: Float[NDArray[np.float32], "frame atom 3"]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Frames:
        return Frames(self.numbers, self.positions[rows], self.energies[rows], self.forces[rows], self.about)


class Layout(NamedTuple):
    """What a kind of file calls its arrays, and its unit of energy in eV."""

    numbers: str
    positions: str
    energies: str
    forces: str
    unit: float


LAYOUTS: dict[str, Layout] = {
    "relaxify": Layout("numbers", "positions", "energies", "forces", 1.0),
    "rMD17": Layout("nuclear_charges", "coords", "energies", "forces", KCAL_PER_MOL),
    "MD17": Layout("z", "R", "E", "F", KCAL_PER_MOL),
}


def load(path: Path) -> Frames:
    """The frames of a file of any layout, which its keys tell.

    ValueError where the file is of none, or its arrays do not belong to one molecule. No object of the file is unpickled.
    """
    name, layout, arrays = _read(path)
    numbers, positions, energies, forces = (arrays[key] for key in layout[:4])
    _check(path, numbers, positions, energies, forces)
    return Frames(
        numbers.astype(np.int64),
        positions.astype(np.float32),
        energies.reshape(-1).astype(np.float64) * layout.unit,
        (forces * layout.unit).astype(np.float32),
        json.loads(str(arrays["about"])) if "about" in arrays and name == "relaxify" else {},
    )


def _read(path: Path) -> tuple[str, Layout, dict[str, NDArray[Any]]]:
    """The arrays of a file's layout, and what is said about them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = list(file.files)
            known = {name: layout for name, layout in LAYOUTS.items() if set(layout[:4]) <= set(keys)}
            for name, layout in known.items():
                return name, layout, {key: np.asarray(file[key]) for key in (*layout[:4], "about") if key in keys}
    except (zipfile.BadZipFile, OSError, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a .npz file of a molecule ({error}); give one of MD17's.") from error
    choice = "; ".join(f"{name}: {', '.join(layout[:4])}" for name, layout in LAYOUTS.items())
    raise ValueError(f"{path} has the arrays {', '.join(keys)}, which are those of no known file ({choice}).")


def _check(path: Path, numbers: NDArray[Any], positions: NDArray[Any], energies: NDArray[Any], forces: NDArray[Any]) -> None:
    shape = (energies.size, numbers.size, 3)
    if numbers.ndim != 1 or positions.shape != shape or forces.shape != shape:
        raise ValueError(
            f"{path} is not of one molecule: {numbers.size} atoms and {energies.size} energies ask for positions and forces "
            f"of shape {shape}, and theirs are {positions.shape} and {forces.shape}."
        )
    if not all(np.isfinite(array).all() for array in (positions, energies, forces)):
        raise ValueError(f"{path} holds positions, energies or forces that are not finite; fetch or simulate it anew.")


def save(frames: Frames, path: Path) -> None:
    """Write frames whole, compressed, in relaxify's own layout."""
    content = io.BytesIO()
    arrays = {name: getattr(frames, name) for name in ("numbers", "positions", "energies", "forces")}
    np.savez_compressed(content, about=np.array(json.dumps(dict(frames.about))), **arrays)
    write_whole(path, content.getvalue(), force=True)
