"""Samples and their labels from a file of any format that people keep them in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from relaxify_cli.arrays import read_array, read_arrays
from relaxify_cli.columns import Array, choose, listed, read_text
from relaxify_cli.parquet import read_parquet

SAMPLES, LABELS = "X", "Y"


@dataclass(frozen=True)
class Choice:
    """What to read of a file: an array's name, columns and labels by name, and the shape of one sample."""

    key: str | None = None
    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    option: str = "--labels"


@dataclass(frozen=True, eq=False)
class Samples:
    """X (n, ...) in float64, and Y (n, ...): numbers in float64, or classes in int64.

    One whole number for each sample is its class; so is a text, and then `classes` are their names. X has the `columns`.
    """

    X: Array
    Y: Array | None = None
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = field(default=())


def read_samples(path: Path, choice: Choice | None = None) -> Samples:
    """ValueError, in one sentence, if the file does not hold what is asked for; nothing in it is unpickled."""
    choice = choice or Choice()
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a .csv, .tsv, .npy, .npz or .parquet file.")
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path} is of no format that is read here; save a .csv, .tsv, .npy, .npz or .parquet file.")
    found = read(path, choice)
    return replace(found, X=_shaped(path, found.X, choice.shape)) if choice.shape else found


def _of_npz(path: Path, choice: Choice) -> Samples:
    key = choice.key or SAMPLES
    # labels by their usual name belong to samples by theirs
    wanted = choice.labels or ((LABELS,) if choice.key is None else ())
    if len(wanted) > 1:
        raise ValueError(f"--labels names {len(wanted)} arrays of {path}; name one, with all labels in it.")
    found, names = read_arrays(path, (key, *wanted))
    if key not in found:
        raise ValueError(
            f"{path} has no array {key} (it has {listed(names)}); save the samples under that name, or name another "
            "with --key."
        )
    if missing := set(choice.labels) - found.keys():
        raise ValueError(
            f"{choice.option}: {path} has no array {missing.pop()} (it has {listed(names)}); name one that it has."
        )
    X, columns = _columns(path, found[key], choice.columns, ())
    Y = found.get(wanted[0]) if wanted else None
    return _samples(path, X, Y, columns, key)


def _of_npy(path: Path, choice: Choice) -> Samples:
    array = read_array(path)
    X, columns = _columns(path, array, choice.columns, choice.labels)
    Y = array[:, [int(name) for name in choice.labels]] if choice.labels else None
    return _samples(path, X, Y, columns, "the array")


def _columns(path: Path, array: Array, chosen: Sequence[str], labels: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """Columns of an array are named by their numbers."""
    if not chosen and not labels:
        return array, ()
    if array.ndim != 2:
        raise ValueError(
            f"{path} has an array of {array.ndim} axes, which has no columns; leave --columns and --labels out."
        )
    names = choose(path, [str(number) for number in range(array.shape[1])], chosen, labels)
    return array[:, [int(name) for name in names]], names


def _of_table(read: Callable[..., tuple[Array, list[Array], tuple[str, ...]]]) -> Callable[[Path, Choice], Samples]:
    def samples(path: Path, choice: Choice) -> Samples:
        if choice.key is not None:
            raise ValueError(f"--key names an array of a .npz file, and {path} is a table; choose columns with --columns.")
        X, labels, columns = read(path, choice.columns, choice.labels)
        return _samples(path, X, _together(path, labels), columns, "the table")

    return samples


def _together(path: Path, labels: Sequence[Array]) -> Array | None:
    if len(labels) < 2:
        return labels[0] if labels else None
    if any(each.dtype.kind not in "fiub" for each in labels):
        raise ValueError(f"some of the {len(labels)} labels of {path} are text; give one column of classes, or numbers.")
    return np.stack([each.astype(np.float64) for each in labels], 1)


def _samples(path: Path, X: Array, Y: Array | None, columns: tuple[str, ...], name: str) -> Samples:
    _check_real(path, name, X)
    X = X.astype(np.float64)
    if Y is None:
        return Samples(X, columns=columns)
    if Y.dtype.kind in "OSU" and Y.ndim == 1:
        from relaxify.lconv.symmetry.labelled import may_be_classes

        classes, codes = np.unique(Y.astype(str), return_inverse=True)
        if not may_be_classes(len(classes), len(Y)):
            raise ValueError(
                f"the labels of {path} are {len(classes):,} different texts for {len(Y):,} samples, which are names "
                "of samples and no classes; give another column, fewer classes, or numbers."
            )
        return Samples(X, codes.astype(np.int64), tuple(map(str, classes)), columns)
    _check_real(path, "the labels", Y)
    is_class = Y.size == len(Y) and Y.dtype.kind in "iub"
    return Samples(X, Y.reshape(-1).astype(np.int64) if is_class else Y.astype(np.float64), columns=columns)


def _check_real(path: Path, name: str, array: Array) -> None:
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} in {path} is {array.dtype} in {array.ndim} dimensions; save real numbers, samples in rows."
        )


def _shaped(path: Path, X: Array, shape: tuple[int, ...]) -> Array:
    size = math.prod(X.shape[1:])
    if math.prod(shape) != size:
        raise ValueError(
            f"--shape: a sample of {path} is {size} numbers, and {','.join(map(str, shape))} holds {math.prod(shape)}; "
            "give sizes whose product is the first."
        )
    return X.reshape(len(X), *shape)


_READERS: dict[str, Callable[[Path, Choice], Samples]] = {
    ".npz": _of_npz,
    ".npy": _of_npy,
    ".csv": _of_table(read_text),
    ".tsv": _of_table(read_text),
    ".parquet": _of_table(read_parquet),
}
