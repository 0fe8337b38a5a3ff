"""Columns of .parquet files, through pyarrow or whatever pandas reads them with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relaxify_cli.arrays import check_unpacked
from relaxify_cli.columns import Array, choose, not_a_number


def read_parquet(path: Path, chosen: Sequence[str], labels: Sequence[str]) -> tuple[Array, list[Array], tuple[str, ...]]:
    """As `read_text`. ValueError also if neither library is there."""
    columns = _reader(path)
    names = choose(path, columns.names, chosen, labels)
    columns.check_size(len({*names, *labels}))
    numbers = [_numbers(path, name, columns.read(name)) for name in names]
    return np.stack(numbers, 1), [columns.read(name) for name in labels], names


def _numbers(path: Path, name: str, column: Array) -> Array:
    if column.dtype.kind in "fiub":
        return column.astype(np.float64)
    raise ValueError(not_a_number(path, name, str(column[0]) if len(column) else ""))


def _reader(path: Path) -> _Arrow | _Pandas:
    for kind in (_Arrow, _Pandas):
        try:
            return kind(path)
        except ImportError:
            continue
        # damaged files make either library raise anything
        except Exception as error:
            raise ValueError(f"{path} is not a .parquet file that can be read ({error}); write it anew.") from error
    raise ValueError(f"{path} needs pyarrow to be read, which is not installed; install it, or save a .csv file.")


class _Arrow:
    """A file whose columns are read one by one."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._file: Any = parquet.ParquetFile(path)
        self.path, self.names = path, tuple(self._file.schema_arrow.names)

    def check_size(self, columns: int) -> None:
        check_unpacked(self.path, 8 * columns * self._file.metadata.num_rows, "save a .npy file, which does not compress")

    def read(self, name: str) -> Array:
        try:
            return np.asarray(self._file.read(columns=[name])[name].to_numpy())
        except Exception as error:
            raise ValueError(f"column {name} of {self.path} cannot be read ({error}); write the file anew.") from error


class _Pandas:
    """A file that pandas has read whole, with an engine of its own choice."""

    def __init__(self, path: Path) -> None:
        import pandas as pd

        self._frame: Any = pd.read_parquet(path)
        self.path, self.names = path, tuple(map(str, self._frame.columns))

    def check_size(self, columns: int) -> None:
        """It is in memory already."""

    def read(self, name: str) -> Array:
        return np.asarray(self._frame.iloc[:, self.names.index(name)])
