"""Columns of tables by name, .csv and .tsv here: the samples' are numbers, the labels' numbers or text."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

LONGEST_CELL = 40
MOST_NAMES = 20
# as pandas names them
NAMELESS = "Unnamed: "

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TextTable:
    """A table in text: its column names, whether they stand in its first row, and what separates them."""

    path: Path
    names: tuple[str, ...]
    has_header: bool
    separator: str

    @classmethod
    def of(cls, path: Path) -> TextTable:
        """ValueError if the file holds no rows, or is no text."""
        separator = _separator(path)
        with _opened(path) as file:
            rows = list(itertools.islice(_rows(file, separator), 2))
        has_header = bool(rows) and _is_header(rows)
        if len(rows) <= has_header:
            raise ValueError(f"{path} holds no rows; save a table with one sample in each row.")
        names = (cell.strip() or f"{NAMELESS}{number}" for number, cell in enumerate(rows[0]))
        return cls(path, tuple(names if has_header else map(str, range(len(rows[0])))), has_header, separator)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """All columns but the row numbers that pandas writes under no name."""
        return self.names[1:] if self.names[0] == f"{NAMELESS}0" else self.names

    def numbers(self, names: Sequence[str]) -> Array:
        """(rows, names). ValueError names the first cell that is no number."""
        places = [self.names.index(name) for name in names]
        with _opened(self.path) as file:
            if self.has_header:
                next(_rows(file, self.separator))
            try:
                return np.loadtxt(file, delimiter=self.separator, usecols=places, ndmin=2, comments=None, quotechar='"')
            except (ValueError, OverflowError) as error:
                raise ValueError(self._first_fault(names) or f"{self.path} cannot be read: {error}") from error

    def texts(self, name: str) -> list[str]:
        """A column as it is written. ValueError names the first row that lacks it."""
        place = self.names.index(name)
        return [cells[place].strip() for _, cells in self._whole_rows()]

    def _whole_rows(self) -> Iterator[tuple[int, list[str]]]:
        with _opened(self.path) as file:
            for number, cells in enumerate(_rows(file, self.separator), 1):
                if len(cells) != len(self.names):
                    raise ValueError(
                        f"row {number} of {self.path} has {len(cells)} columns and the first has {len(self.names)}; "
                        "give each row the same."
                    )
                if number > 1 or not self.has_header:
                    yield number, cells

    def _first_fault(self, names: Sequence[str]) -> str | None:
        for number, cells in self._whole_rows():
            for name in names:
                cell = cells[self.names.index(name)]
                if not _is_number(cell):
                    return not_a_number(self.path, name, cell, f" in row {number}")
        return None


def read_text(path: Path, chosen: Sequence[str], labels: Sequence[str]) -> tuple[Array, list[Array], tuple[str, ...]]:
    """The chosen columns (rows, columns), each column of labels, and the names of the chosen ones.

    Chosen are all but the labels if none are named. ValueError if a column is not there, or a chosen one holds something
    else than numbers.
    """
    table = TextTable.of(path)
    names = choose(path, table.coordinates, chosen, labels, known=table.names)
    return table.numbers(names), [numbers_or_texts(table.texts(name)) for name in labels], names


def choose(
    path: Path, columns: Sequence[str], chosen: Sequence[str], labels: Sequence[str], *, known: Sequence[str] = ()
) -> tuple[str, ...]:
    """The names of the samples' columns. ValueError for names that are not there, twice there, or if none are left."""
    there = known or columns
    if twice := sorted({name for name in there if list(there).count(name) > 1}):
        raise ValueError(f"{path} has the column {twice[0]} twice; give each its own name.")
    for option, names in (("--columns", chosen), ("--labels", labels)):
        if missing := [name for name in names if name not in there]:
            raise ValueError(f"{option}: {path} has no column {missing[0]} (it has {listed(there)}); name one that it has.")
    found = tuple(chosen) or tuple(name for name in columns if name not in labels)
    if not found:
        raise ValueError(f"{path} has no column beside the labels; name the samples' with --columns.")
    return found


def not_a_number(path: Path, column: str, cell: str, where: str = "") -> str:
    """The sentence about a cell that holds something else."""
    short = cell if len(cell) <= LONGEST_CELL else f"{cell[:LONGEST_CELL]}..."
    what = f"holds {short!r}, which is no number" if cell.strip() else "is empty"
    return (
        f"column {column} of {path} {what}{where}; fix it, leave the column out with --columns, or make it the labels with "
        "--labels."
    )


def listed(names: Sequence[str]) -> str:
    """The first names of many."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "none") + more


def numbers_or_texts(texts: list[str]) -> Array:
    """Labels as whole numbers or as numbers if all of them are."""
    if not all(map(_is_number, texts)):
        return np.array(texts, dtype=object)
    is_whole = all(re.fullmatch(r"[+-]?\d{1,18}", text) for text in texts)
    return np.array([int(text) for text in texts]) if is_whole else np.array(texts, dtype=np.float64)


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _rows(file: TextIO, separator: str) -> Iterator[list[str]]:
    """Rows that hold something. ValueError for what is no text, or not in rows of cells."""
    try:
        yield from (row for row in csv.reader(file, delimiter=separator) if row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} is not a table in UTF-8 ({error}); save it as such.") from error


def _separator(path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open("rb") as file:
        first = file.readline(2**16)
    return ";" if b";" in first and b"," not in first else ","


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row holds names: all is text, or text above a number, or 0, 1, 2, ... of pandas."""
    first = rows[0]
    if [cell for cell in first if cell] == [str(number) for number in range(len(first) - (first[0] == ""))]:
        return len(rows) > 1
    if not any(map(_is_number, first)):
        return True
    return len(rows) > 1 and any(not _is_number(a) and _is_number(b) for a, b in zip(*rows, strict=False))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
