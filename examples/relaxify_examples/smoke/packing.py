"""A data set of smoke plumes in one small file: velocities in whole numbers of a small unit, compressed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from relaxify.output import write_whole
from relaxify_examples.smoke.data import Simulations
from relaxify_examples.smoke.generation import SYMMETRIES

# in cells a step; the velocities' own size is about 1
UNIT = 1 / 256
LARGEST = np.iinfo(np.int16).max


def pack(data: Simulations, path: Path) -> None:
    """Write all simulations to a .npz file, rounded to UNIT. ValueError if 16 bits do not hold them.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "smoke.npz"
    ...     pack(Simulations("rotation", torch.full((1, 1, 2, 1, 1), 0.3)), file)
    ...     float(unpack(file).velocity.max())
    0.30078125
    """
    numbers = (data.velocity.cpu().double() / UNIT).round().numpy()
    if not (largest := np.abs(numbers).max()) <= LARGEST:
        raise ValueError(
            f"velocities of {largest * UNIT:g} cells a step do not fit in 16 bits; keep the simulations as they are."
        )
    # sums of 16 bits undo their differences, where these overflow too
    changes = np.diff(numbers.astype(np.int16), axis=1, prepend=np.int16(0))
    content = io.BytesIO()
    np.savez_compressed(content, changes=changes, unit=UNIT, symmetry=data.symmetry)
    write_whole(path, content.getvalue(), force=True)


def unpack(path: Path) -> Simulations:
    """What `pack` wrote. ValueError for another file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            changes, unit, symmetry = file["changes"], float(file["unit"]), str(file["symmetry"])
    except (zipfile.BadZipFile, OSError, EOFError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as packed smoke plumes ({error}); pack the simulations again.") from error
    known = next((name for name in SYMMETRIES if name == symmetry), None)
    if known is None or changes.ndim != 5 or changes.dtype != np.int16:
        raise ValueError(f"{path} holds no packed smoke plumes; pack the simulations again.")
    numbers = changes.cumsum(1, dtype=np.int16)
    return Simulations(known, torch.from_numpy(numbers * np.float32(unit)))
