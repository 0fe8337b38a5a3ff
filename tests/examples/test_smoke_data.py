"""The smoke plumes' loaders: splits that share nothing that is asked for, windows where they belong, two kinds of files."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from relaxify_examples.smoke.data import (
    LEAD,
    NAMES,
    PUBLISHED_DOMAIN,
    Simulations,
    Task,
    Windows,
    load,
    members,
    time_ranges,
    windows,
)
from relaxify_examples.smoke.generation import Symmetry


def numbered(simulations: int, time: int, size: int = 2) -> Tensor:
    """Velocities that tell where they are from: 1000 * simulation + time in v_x, the same and a half in v_y."""
    index = 1000.0 * torch.arange(simulations)[:, None] + torch.arange(time)
    return torch.stack([index, index + 0.5], 2)[..., None, None].expand(-1, -1, -1, size, size)


def asked_for(part: Windows) -> set[tuple[int, int]]:
    """(simulation, time) of every frame that is a target."""
    return {(int(i), int(start) + LEAD + part.frames + t) for i, start in part.places for t in range(part.horizon)}


def seen(part: Windows) -> set[tuple[int, int]]:
    return {(int(i), int(start) + LEAD + t) for i, start in part.places for t in range(part.frames)}


tasks = st.builds(Task, frames=st.integers(1, 12), horizon=st.integers(1, 6), reach=st.integers(1, 20))


@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(20, 320), tasks, st.sampled_from(["rotation", "scale"]))
def test_splits_share_nothing_that_is_asked_for(simulations: int, time: int, task: Task, symmetry: Symmetry) -> None:
    data = Simulations(symmetry, torch.zeros(1, 1, 1, 1, 1).expand(simulations, time, 2, 1, 1))
    try:
        train, valid, future, domain = (windows(data, name, task) for name in NAMES)
    except ValueError:
        assume(False)
    known = asked_for(train) | seen(train)
    assert not known & asked_for(valid)
    assert not (known | asked_for(valid) | seen(valid)) & asked_for(future)
    assert not {i for i, _ in known} & {i for i, _ in asked_for(domain)}
    assert {i for i, _ in known} == {i for i, _ in asked_for(future)} == {i for i, _ in asked_for(valid)}
    last = max(t for part in (train, valid, future, domain) for _, t in asked_for(part))
    assert last < time


def test_later_splits_lie_later() -> None:
    data = Simulations("rotation", numbered(8, 63))
    train, valid, future = (asked_for(windows(data, name, Task(10, 3, 8))) for name in ("train", "valid", "future"))
    assert max(t for _, t in train) < min(t for _, t in valid)
    assert max(t for _, t in valid) < min(t for _, t in future)


def test_published_ranges_and_simulations() -> None:
    """`list(range(200, 250))` and the like in the published code; training and validation end 5 windows earlier."""
    ranges = time_ranges(309, Task())
    assert ranges == {"train": (0, 155), "valid": (160, 195), "future": (200, 250), "domain": (0, 100)}
    counts: dict[Symmetry, tuple[int, int]] = {"rotation": (36, 25), "scale": (38, 28)}
    for symmetry, (simulations, trained) in counts.items():
        data = Simulations(symmetry, numbered(simulations, 309))
        of_train, of_domain = members(data)
        assert tuple(of_domain) == PUBLISHED_DOMAIN[symmetry, simulations]
        assert len(of_train) == trained


def test_a_window_is_ten_frames_and_those_after_them() -> None:
    data = Simulations("scale", numbered(4, 63, size=3))
    part = windows(data, "train", Task(frames=10, horizon=3, reach=8))
    x, y = part.batch(torch.tensor([0, 1, len(part) - 1]))
    assert x.shape == (3, 20, 3, 3)
    assert y.shape == (3, 3, 2, 3, 3)
    first, start = (int(value) for value in part.places[0])
    expected = 1000.0 * first + start + LEAD + torch.arange(10)
    torch.testing.assert_close(x[0, ::2, 0, 0], expected)
    torch.testing.assert_close(x[0, 1::2, 0, 0], expected + 0.5)
    torch.testing.assert_close(y[0, :, 0, 0, 0], 1000.0 * first + start + LEAD + 10 + torch.arange(3.0))
    torch.testing.assert_close(y[:, 0, 0] - x[:, -2], torch.ones(3, 3, 3))


def test_published_files_are_turned_over(tmp_path: Path) -> None:
    frames = torch.randn(5, 2, 4, 4)
    for number, direction in ((1, 0), (10, 1), (2, 1)):
        torch.save(frames + number, tmp_path / f"raw_data_{number}_{direction}.pt")
    data = load(tmp_path, "rotation")
    # by number, and not by name
    expected = torch.stack([frames + number for number in (1, 2, 10)])
    torch.testing.assert_close(data.velocity.flip(-2), expected)


def test_generated_files_are_read(tmp_path: Path) -> None:
    frames = torch.randn(3, 5, 2, 4, 4)
    for index, velocity in enumerate(frames):
        safetensors.torch.save_file({"velocity": velocity}, tmp_path / f"scale-{index:02d}.safetensors")
    assert torch.equal(load(tmp_path, "scale").velocity, frames)
    with pytest.raises(ValueError, match="neither rotation-"):
        load(tmp_path, "rotation")


def broken_shape(folder: Path) -> None:
    safetensors.torch.save_file({"velocity": torch.zeros(5, 2, 4)}, folder / "rotation-00.safetensors")


def not_finite(folder: Path) -> None:
    safetensors.torch.save_file({"velocity": torch.full((5, 2, 4, 4), float("nan"))}, folder / "rotation-00.safetensors")


def truncated(folder: Path) -> None:
    broken_shape(folder)
    path = folder / "rotation-00.safetensors"
    path.write_bytes(path.read_bytes()[:20])


def other_sizes(folder: Path) -> None:
    for index in (0, 1):
        file = folder / f"rotation-{index:02d}.safetensors"
        safetensors.torch.save_file({"velocity": torch.zeros(5 + index, 2, 4, 4)}, file)


def no_tensor(folder: Path) -> None:
    torch.save({"velocity": 1}, folder / "raw_data_0_0.pt")


def both(folder: Path) -> None:
    no_tensor(folder)
    broken_shape(folder)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (broken_shape, "has shape"),
        (not_finite, "NaN or infinite"),
        (truncated, "cannot be read"),
        (other_sizes, "differ in shape"),
        (no_tensor, "holds a dict and no tensor"),
        (both, "has both"),
        (lambda folder: None, "has neither"),
    ],
)
def test_bad_files_are_refused(make: object, text: str, tmp_path: Path) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=text):
        load(tmp_path, "rotation")


def test_an_unknown_device_is_refused() -> None:
    data = Simulations("rotation", numbered(2, 3))
    assert torch.equal(data.to("cpu").velocity, data.velocity)
    with pytest.raises(ValueError, match="device 'abacus' cannot be used"):
        data.to("abacus")


def test_too_little_data_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="20 frames are too few"):
        windows(Simulations("rotation", numbered(8, 20)), "train", Task())
    with pytest.raises(ValueError, match="1 simulation cannot be split"):
        windows(Simulations("rotation", numbered(1, 309)), "train", Task())
    with pytest.raises(ValueError, match="predicts nothing"):
        Task(frames=0)
