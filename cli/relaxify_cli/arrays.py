"""Arrays from .npy and .npz files: nothing in them is unpickled, and none unpacks to more than its file allows for."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FREE_BYTES = 256 * 1024**2


def read_arrays(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
    """Those of the arrays that an .npz file has, and the names of all. ValueError if it is no such file, or a trap."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist() if entry.filename.removesuffix(".npy") in names)
            check_unpacked(path, size, "save it with numpy.savez, which does not compress")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _array(arrays[name]) for name in names if name in arrays}, list(arrays)
    except UnpackedError:
        raise
    # of damaged archives and headers, numpy and zipfile say it in many ways
    except Exception as error:
        raise ValueError(
            f"{path} is not a .npz file of plain numbers; save it with numpy.savez({path.name!r}, X=X, Y=Y)."
        ) from error


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """What an .npy file holds, on the disk until it is read. ValueError if it is no such file."""
    try:
        # a header that promises more than the file has is refused before memory is taken for it
        return _array(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:
        raise ValueError(
            f"{path} is not a .npy file of plain numbers; save it with numpy.save({path.name!r}, X)."
        ) from error


def check_unpacked(path: Path, size: int, remedy: str) -> None:
    """UnpackedError if so many bytes are far more than the file has."""
    if size > path.stat().st_size + FREE_BYTES:
        raise UnpackedError(f"{path} unpacks to {size:,} bytes; {remedy}.")


def _array(found: Any) -> np.ndarray[Any, Any]:
    if not isinstance(found, np.ndarray):
        raise TypeError(type(found).__name__)
    return found


class UnpackedError(ValueError):
    """A file that unpacks to far more than it has."""
