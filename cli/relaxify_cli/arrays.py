"""Arrays from .npz files: nothing in them is unpickled, and none unpacks to more than its file allows for."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FREE_BYTES = 256 * 1024**2


def read_arrays(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
    """Those of the arrays that the file has, and the names of all. ValueError if it is no .npz file, or a trap."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a .npz file with the array X.")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist() if entry.filename.removesuffix(".npy") in names)
            if size > path.stat().st_size + FREE_BYTES:
                raise _UnpackedError(path, size)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _array(arrays, name) for name in names if name in arrays}, list(arrays)
    except _UnpackedError as error:
        raise ValueError(str(error)) from error
    # of damaged archives and headers, numpy and zipfile say it in many ways
    except Exception as error:
        raise ValueError(
            f"{path} is not a .npz file of plain numbers; save it with numpy.savez({path.name!r}, X=X, Y=Y)."
        ) from error


def _array(arrays: Any, name: str) -> np.ndarray[Any, Any]:
    array = arrays[name]
    if not isinstance(array, np.ndarray):
        raise TypeError(name)
    return array


class _UnpackedError(ValueError):
    """An archive that unpacks to far more than it has."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(f"{path} unpacks to {size:,} bytes; save it with numpy.savez, which does not compress.")
