"""relaxify symmetry: what it finds in files, and what it says of files that hold nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relaxify_cli.main import run


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    np.savez(tmp_path / "vectors.npz", X=normal(6000, 3))
    return tmp_path / "vectors.npz"


def test_it_names_the_symmetry_with_its_evidence(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["symmetry", str(vectors), "--against", "so(3)"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "distribution about the origin: symmetry so(3)",
        "would have shown with probability 0.95",
        "dimension 3 of gl(3), as an algebra so(3) = su(2)",
        "Killing form 0+/3-",
        "degrees with 95 % confidence (200 resamplings)",
        "(chance 0.3333)",
    ):
        assert text in shown


def test_few_data_are_said_to_be_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "vectors.npz", X=normal(300, 3))
    assert run(["symmetry", str(tmp_path / "vectors.npz"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["verdict"], record["found"], record["name"]) == ("too few data", False, None)
    assert record["samples_needed"] > 300


def test_data_without_a_symmetry_get_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three coordinates of one skewed distribution may be exchanged, and turned by no angle."""
    np.savez(tmp_path / "data.npz", X=np.random.default_rng(0).exponential(size=(1500, 3)) - 1)
    assert run(["symmetry", str(tmp_path / "data.npz")]) == 0
    assert "discrete symmetry S(3)" in capsys.readouterr().out
    assert run(["symmetry", str(tmp_path / "data.npz"), "--distribution", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["found"], record["name"], record["dimension"]) == (False, None, 0)


def test_labels_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A label that is one of four coordinates leaves the others free; in second moments these turn."""
    X = normal(1500, 4)
    np.savez(tmp_path / "data.npz", X=X, Y=X[:, :1])
    assert run(["symmetry", str(tmp_path / "data.npz"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["name"], record["dimension"]) == ("ignored(3)", 12)
    assert np.shape(record["generators"]) == (12, 4, 4)
    assert run(["symmetry", str(tmp_path / "data.npz"), "--json", "--second-moments", "--resamplings", "99"]) == 0
    assert json.loads(capsys.readouterr().out)["dimension"] == 3


def test_the_page_says_the_verdict_first_and_needs_no_network(vectors: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    assert run(["symmetry", str(vectors), "--html", str(target)]) == 0
    page = target.read_text()
    assert "<h1>Symmetry so(3)" in page
    assert page.count("<svg") >= 6
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert run(["symmetry", str(vectors), "--html", str(target)]) == 2


def test_pictures_of_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", X=normal(400, 1, 4, 4))
    target = tmp_path / "flows.png"
    assert run(["symmetry", str(tmp_path / "images.npz"), "--pictures", str(target), "--resamplings", "0"]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def blobs(count: int = 1200, *channels: int) -> Any:
    """Images of one off-centre blob that is turned anywhere about the middle."""
    y, x = np.mgrid[-1:1:12j, -1:1:12j]
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, (count, 1, 1))
    images = np.exp(-8 * ((y - np.sin(angle) / 2) ** 2 + (x - np.cos(angle) / 2) ** 2))
    return np.repeat(images[:, None], channels[0], 1) if channels else images


@pytest.mark.parametrize("shape", ["n h w", "n c h w", "flat"])
def test_families_are_looked_at_on_images_of_every_shape(shape: str, tmp_path: Path, capsys: Any) -> None:
    images = {"n h w": blobs(), "n c h w": blobs(1200, 2), "flat": blobs().reshape(1200, -1)}[shape]
    np.save(tmp_path / "images.npy", (200 * images).astype(np.uint8))
    target = tmp_path / "page.html"
    arguments = ["--family", "rotation,translations", "--json", "--html", str(target), "--pictures", str(tmp_path / "a.png")]
    assert run(["symmetry", str(tmp_path / "images.npy"), *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["verdict"], record["name"], record["family"]) == ("found", "rotation", "ImageAlgebra")
    assert "<h1>Symmetry rotation" in target.read_text()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_families_that_learn_and_signals(tmp_path: Path, capsys: Any) -> None:
    at = np.random.default_rng(0).uniform(0, 16, (800, 1))
    signals = np.exp(2 * np.cos(2 * np.pi * (np.arange(16) - at) / 16)) / 5 + 0.05 * normal(800, 16)
    points = np.arange(16)
    edges = np.stack([np.tile(points, 2), np.concatenate([(points + 1) % 16, (points - 1) % 16])])
    path = str(tmp_path / "signals.npz")
    np.savez(path, X=signals, edges=edges)
    families = {}
    for family in (["translation"], ["low-rank"], ["grid"], ["graph", "--edges", "edges"]):
        assert run(["symmetry", path, "--family", *family, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        families[family[0]] = (record["family"], record["found"])
    assert families["translation"] == ("SignalAlgebra", True)
    assert families["graph"] == ("Sparse", True)
    assert {name: kind for name, (kind, _) in families.items()}["low-rank"] == "LowRank"
    assert families["grid"][0] == "Grid"


def test_points_and_their_labels_have_affine_symmetries(tmp_path: Path, capsys: Any) -> None:
    X = normal(3000, 2, 2) + 2
    np.savez(tmp_path / "points.npz", X=X, Y=np.linalg.norm(X[:, 0] - X[:, 1], axis=-1))
    assert run(["symmetry", str(tmp_path / "points.npz"), "--affine", "--against", "e(2)", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["name"] == "e(2)"
    assert record["overlaps"]["e(2)"]["value"] > 0.95


def test_pairs_have_the_flow_between_them(tmp_path: Path, capsys: Any) -> None:
    X, c, s = normal(400, 2), np.cos(0.3), np.sin(0.3)
    np.savez(tmp_path / "pairs.npz", X=X, after=X @ np.array([[c, s], [-s, c]]), other=normal(400, 2, seed=1))
    assert run(["symmetry", str(tmp_path / "pairs.npz"), "--pairs", "after", "--against", "so(2)"]) == 0
    shown = capsys.readouterr().out
    assert "pairs: symmetry so(2)" in shown
    assert "overlap 1.0000" in shown
    assert run(["symmetry", str(tmp_path / "pairs.npz"), "--pairs", "other"]) == 0
    assert "pairs: no symmetry" in capsys.readouterr().out


def saved(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "bad.npz", **arrays)
    return str(folder / "bad.npz")


def written(folder: Path, text: bytes) -> str:
    (folder / "bad.npz").write_bytes(text)
    return str(folder / "bad.npz")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (lambda folder: [str(folder / "none.npz")], "there is no file"),
        (lambda folder: [written(folder, b"not an archive")], "is not a .npz file of plain numbers"),
        (lambda folder: [written(folder, b"")], "is not a .npz file of plain numbers"),
        (lambda folder: [saved(folder, X=np.array([object()]))], "is not a .npz file of plain numbers"),
        (lambda folder: [saved(folder, Z=normal(9, 2))], "has no array X (it has Z)"),
        (lambda folder: [saved(folder, X=np.array(["a"]))], "save real numbers, samples in rows"),
        (lambda folder: [saved(folder, X=normal(9, 2) * 1j)], "save real numbers"),
        (lambda folder: [saved(folder, X=normal(9, 2) / 0)], "NaN or infinite"),
        (lambda folder: [saved(folder, X=normal(3, 4))], "needs more samples"),
        (lambda folder: [saved(folder, X=normal(9, 2), Y=normal(8, 1))], "one row for each in both"),
        (lambda folder: [saved(folder, X=normal(9, 2)), "--against", "so(3)"], "acts on 3 dimensions"),
        (lambda folder: [saved(folder, X=normal(9, 2)), "--against", "nonsense"], "'nonsense' names no algebra"),
        (lambda folder: [saved(folder, X=normal(9, 2)), "--resamplings", "5"], "cannot tell a confidence of 95 %"),
        (lambda folder: [saved(folder, X=normal(99, 4, 4)), "--family", "spin"], "--family spin: 'spin' is none; known are"),
        (lambda folder: [saved(folder, X=normal(99, 4)), "--family", "graph"], "name the array (2, edges)"),
        (lambda folder: [saved(folder, X=normal(99, 4)), "--family", "graph", "--edges", "E"], "--edges: "),
        (
            lambda folder: [saved(folder, X=normal(99, 4), E=np.array([[0], [7]])), "--family", "graph", "--edges", "E"],
            "samples have 4 nodes",
        ),
        (
            lambda folder: [saved(folder, X=normal(99, 4), E=normal(2, 3)), "--family", "graph", "--edges", "E"],
            "save whole numbers (2, edges)",
        ),
        (lambda folder: [saved(folder, X=normal(99, 4)), "--edges", "E"], "--edges are those of --family graph"),
        (lambda folder: [saved(folder, X=normal(99, 4)), "--family", "grid", "--affine"], "ask for different searches"),
        (lambda folder: [saved(folder, X=normal(99, 4)), "--family", "grid", "--against", "so(2)"], "--against compares"),
        (lambda folder: [saved(folder, X=normal(99, 2, 2)), "--affine"], "--affine is about what labels say"),
        (lambda folder: [saved(folder, X=normal(99, 4)), "--pairs", "Z"], "has no array Z"),
        (lambda folder: [saved(folder, X=normal(99, 4), Z=normal(99, 3)), "--pairs", "Z"], "save as many of both"),
        (lambda folder: [saved(folder, X=normal(99, 4)), "--pairs", "X", "--labels", "X"], "which has no --labels"),
        (
            lambda folder: [saved(folder, X=normal(9, 2)), "--resamplings", "0", "--pictures", str(folder / "a.png")],
            "are not square images",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_bad_input_is_one_sentence(arguments: Any, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["symmetry", *arguments(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_pairs_that_are_not_there_are_asked_for_by_their_option(tmp_path: Path, capsys: Any) -> None:
    np.savez(tmp_path / "in.npz", X=np.ones((9, 2)))
    assert run(["symmetry", str(tmp_path / "in.npz"), "--pairs", "later"]) == 2
    assert "--pairs: " in capsys.readouterr().err
