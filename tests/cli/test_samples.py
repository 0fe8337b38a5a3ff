"""Samples and labels are the same from every format, in the shapes and with the names that were asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relaxify_cli.main import run
from relaxify_cli.samples import Choice, read_samples

NUMBERS = np.random.default_rng(0).normal(size=(6, 3))
KINDS = ["b", "a", "b", "c", "a", "b"]


def text(separator: str = ",", header: bool = True, index: bool = False) -> str:
    rows = [["x", "y", "z", "kind"]] if header else []
    rows += [[*map(repr, row.tolist()), kind] for row, kind in zip(NUMBERS, KINDS, strict=True)]
    if index:
        rows = [["" if number < 0 else str(number), *row] for number, row in enumerate(rows, -1)]
    return "\n".join(separator.join(row) for row in rows) + "\n"


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "label"),
    [
        ("in.csv", text(), "kind"),
        ("in.CSV", text(";"), "kind"),
        ("in.tsv", text("\t"), "kind"),
        ("in.csv", text(header=False), "3"),
        ("in.csv", text(index=True), "kind"),
        ("in.csv", "\ufeff" + text().replace("\n", "\r\n"), "kind"),
        ("in.csv", text().replace("kind", '"kind"').replace(",b", ',"b"').replace("\n", "\n\n"), "kind"),
    ],
)
def test_tables_in_text(name: str, content: str, label: str, tmp_path: Path) -> None:
    found = read_samples(written(tmp_path / name, content), Choice(labels=(label,)))
    np.testing.assert_array_equal(found.X, NUMBERS)
    assert found.Y is not None
    assert found.classes == ("a", "b", "c")
    assert [found.classes[code] for code in found.Y] == KINDS


def test_columns_of_a_table_are_chosen_by_name_and_in_order(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", text())
    found = read_samples(path, Choice(columns=("z", "x"), labels=("y", "z")))
    np.testing.assert_array_equal(found.X, NUMBERS[:, [2, 0]])
    np.testing.assert_array_equal(found.Y, NUMBERS[:, [1, 2]])
    assert found.columns == ("z", "x")


def test_a_header_of_numbers_is_one_if_it_counts(tmp_path: Path) -> None:
    """As pandas writes arrays, with and without its index."""
    plain = "\n".join(",".join(map(repr, row)) for row in NUMBERS.tolist())
    for content in (plain, f"0,1,2\n{plain}", ",0,1,2\n" + "\n".join(f"{n},{row}" for n, row in enumerate(plain.split()))):
        np.testing.assert_array_equal(read_samples(written(tmp_path / "in.csv", content)).X, NUMBERS)


@pytest.mark.parametrize(
    ("column", "kind", "expected"),
    [("12012", np.int64, [1, 2, 0, 1, 2]), (["1", "2.5", "0", "1", "2"], np.float64, [1, 2.5, 0, 1, 2])],
)
def test_whole_numbers_are_classes_and_others_are_numbers(column: Any, kind: type, expected: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", "x,label\n" + "\n".join(f"{n}.5,{each}" for n, each in enumerate(column)))
    Y = read_samples(path, Choice(labels=("label",))).Y
    assert Y is not None
    assert Y.dtype == kind
    np.testing.assert_array_equal(Y, expected)


def test_arrays_by_any_name_and_in_any_shape(tmp_path: Path) -> None:
    images, classes = np.zeros((5, 1, 4, 4), np.uint8), np.array(list("abcab"))
    np.savez(tmp_path / "in.npz", images=images, target=classes, codes=np.arange(5)[:, None], X=NUMBERS, Y=NUMBERS[:, :2])
    chosen = read_samples(tmp_path / "in.npz", Choice(key="images", labels=("target",)))
    assert (chosen.X.shape, chosen.X.dtype, chosen.classes) == ((5, 1, 4, 4), np.float64, ("a", "b", "c"))
    assert read_samples(tmp_path / "in.npz", Choice(key="images")).Y is None
    coded = read_samples(tmp_path / "in.npz", Choice(key="images", labels=("codes",), shape=(2, 8)))
    assert coded.X.shape == (5, 2, 8)
    np.testing.assert_array_equal(coded.Y, np.arange(5))
    usual = read_samples(tmp_path / "in.npz", Choice(columns=("0", "2")))
    np.testing.assert_array_equal(usual.X, NUMBERS[:, [0, 2]])
    np.testing.assert_array_equal(usual.Y, NUMBERS[:, :2])


def test_a_single_array(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", NUMBERS)
    np.testing.assert_array_equal(read_samples(tmp_path / "in.npy").X, NUMBERS)
    split = read_samples(tmp_path / "in.npy", Choice(labels=("1",)))
    np.testing.assert_array_equal(split.X, NUMBERS[:, [0, 2]])
    np.testing.assert_array_equal(split.Y, NUMBERS[:, [1]])


def test_the_command_reads_columns_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X = np.random.default_rng(0).normal(size=(1500, 4))
    rows = "\n".join(",".join(map(repr, [*row, 3 * row[0]])) for row in X.tolist())
    written(tmp_path / "in.csv", f"t,x,y,z,label\n{rows}")
    command = ["symmetry", str(tmp_path / "in.csv"), "--second-moments", "--resamplings", "99", "--json"]
    assert run([*command, "--columns", "x, y, z"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert run([*command, "--labels", "label"]) == 0
    labelled = json.loads(capsys.readouterr().out)
    assert np.shape(plain["generators"]) == (3, 3, 3)
    assert np.shape(labelled["generators"]) == (3, 4, 4)


def saved(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


LONG_PROMISE = saved(NUMBERS).replace(b"(6, 3), }   ", b"(60000, 3),}")


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("in.bin", b"", "", "is of no format that is read here"),
        ("in.csv", b"", "", "holds no rows"),
        ("in.csv", "x,y\n", "", "holds no rows"),
        ("in.csv", b"\xff\xfe\x00x,y", "", "is not a table in UTF-8"),
        ("in.csv", text(), "", "column kind of in.csv holds 'b', which is no number in row 2"),
        ("in.csv", "x,y\n1,2\n3,\n", "", "column y of in.csv is empty in row 3"),
        ("in.csv", "x,y\n1,2\n3\n", "", "row 3 of in.csv has 1 columns and the first has 2"),
        ("in.csv", "x,y\n1,2\n3,1_0\n", "", "'1_0', which is no number in row 3"),
        ("in.csv", "x,y\n1,nan\n3,4\n2,3\n", "", "NaN or infinite"),
        ("in.csv", "x,x\n1,2\n", "", "has the column x twice"),
        ("in.csv", text(), "--columns x,w", "--columns: in.csv has no column w (it has x, y, z, kind)"),
        ("in.csv", text(), "--labels w", "--labels: in.csv has no column w"),
        ("in.csv", text(), "--columns x,y --labels kind,z", "some of the 2 labels of in.csv are text"),
        ("in.csv", "x\n1\n2\n", "--labels x", "has no column beside the labels"),
        ("in.csv", text(), "--key X", "--key names an array of a .npz file, and in.csv is a table"),
        ("in.csv", text(), "--columns x,y --shape 3", "a sample of in.csv is 2 numbers, and 3 holds 3"),
        ("in.csv", text(), "--columns x,y --shape 3,a", "'3,a' is not a shape"),
        ("in.npy", b"\x93NUMPY", "", "is not a .npy file of plain numbers"),
        ("in.npy", LONG_PROMISE, "", "is not a .npy file of plain numbers"),
        ("in.npy", saved(np.array([{}], dtype=object)), "", "is not a .npy file of plain numbers"),
        ("in.npy", saved(np.array(["a"])), "", "the array in in.npy is <U1 in 1 dimensions"),
        ("in.npy", saved(np.ones((3, 2, 2))), "--columns 0", "an array of 3 axes, which has no columns"),
        ("in.npy", saved(NUMBERS), "--columns 5", "has no column 5 (it has 0, 1, 2)"),
        ("in.parquet", b"PAR1", "", "in.parquet"),
    ],
)
def test_bad_files_are_one_sentence(
    name: str,
    content: str | bytes,
    options: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written(tmp_path / name, content)
    monkeypatch.chdir(tmp_path)
    assert run(["symmetry", name, *options.split()]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert "unexpected" not in shown.err
    assert shown.out == ""
