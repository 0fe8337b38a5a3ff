"""A file that something writes to while it is converted gives no output, and the old output stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from relaxed_states import load, relaxed_layer, save

from relaxify.checkpoint import SourceChangedError, conversion, convert, load_weights
from relaxify.checkpoint.copying import Copy
from relaxify.checkpoint.source import Range

FORMATS = pytest.mark.parametrize("suffix", [".safetensors", ".pt"])


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def saved_again(path: Path) -> None:
    """In place, with as many bytes, as torch.save does."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def replaced(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)


def first_call(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[], None]) -> None:
    """Do it at the first call of a function."""
    original, done = getattr(owner, name), []

    def call(*arguments: Any, **keywords: Any) -> Any:
        if not done:
            done.append(True)
            action()
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, call)


@FORMATS
@pytest.mark.parametrize("change", [cut_short, emptied, grown, saved_again, replaced])
@pytest.mark.parametrize("stage", [(conversion, "plan_states"), (Range, "read"), (Copy, "write"), (Copy, "finish")])
def test_a_change_at_any_stage_is_noticed(
    stage: tuple[Any, str], change: Callable[[Path], None], suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"big": torch.ones(200_000), **relaxed_layer().state("lin.")}
    source, target = save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    target.write_text("precious")
    first_call(monkeypatch, *stage, lambda: change(source))
    with pytest.raises(SourceChangedError, match=r"in\.\w+: it (changed|was cut short) while.*; convert it once"):
        convert(source, target, force=True)
    assert target.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {source.name, target.name}


@FORMATS
def test_what_was_written_is_compared(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that is not written as it was read, as by a bad disk."""
    state = {"big": torch.ones(200_000), **relaxed_layer().state("lin.")}
    source, target = save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    real = os.pwrite

    def spoil(descriptor: int, data: memoryview, begin: int) -> int:
        count = real(descriptor, data, begin)
        real(descriptor, b"!", begin + count // 2)
        return count

    monkeypatch.setattr(os, "pwrite", spoil)
    with pytest.raises(ValueError, match="differs from what was to be in it"):
        convert(source, target)
    assert not target.exists()


@FORMATS
def test_what_goes_elsewhere_is_noticed(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said to be written and is not, and what makes the file longer."""
    state = {"big": torch.ones(200_000), **relaxed_layer().state("lin.")}
    source, target, real = save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}", os.pwrite

    def too_much(descriptor: int, data: memoryview, begin: int) -> int:
        return real(descriptor, bytes(data) + b"more", begin) - 4

    for write in (lambda _, data, __: len(data), too_much):
        monkeypatch.setattr(os, "pwrite", write)
        with pytest.raises(ValueError, match="differs from what was to be in it"):
            convert(source, target)
        assert not target.exists()


def test_what_the_system_writes_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, begin: real(file, data[: len(data) // 3 + 1], begin))
    state = {"big": torch.arange(200_000.0), **relaxed_layer().state("lin.")}
    for suffix in (".safetensors", ".pt"):
        convert(save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}")
        assert torch.equal(load(tmp_path / f"out{suffix}")["big"], state["big"])


@FORMATS
def test_weights_are_not_loaded_from_a_changing_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path / f"in{suffix}")
    first_call(monkeypatch, Range, "read", lambda: saved_again(path))
    with pytest.raises(SourceChangedError, match=f"{path}: it changed while it was read"):
        load_weights(torch.nn.Linear(3, 2), path)
