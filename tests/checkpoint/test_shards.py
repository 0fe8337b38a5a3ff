"""Checkpoints as model libraries save them: in several files with an index, in a folder, one memory under one name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, load_checkpoint_in_model
from e3nn import o3
from huggingface_hub import load_torch_model
from relaxed_states import digest
from safetensors.torch import load_file, load_model, save_model
from torch import nn

from relaxify import project, relaxify
from relaxify.checkpoint import CheckpointError, Conversion, check_loads, convert, load_weights


class Twice(nn.Module):
    """One layer under two names, and another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = o3.Linear("4x1o", "4x1o")
        self.second = self.first
        self.last = o3.Linear("4x0e+4x1o", "2x0e+4x1o", biases=True)


def relaxed() -> Twice:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = relaxify(Twice(), "O(3)")
    for name, parameter in model.named_parameters():
        if "relaxation" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with shards of at most 1 kB and their index, written by Accelerate."""
    Accelerator(cpu=True).save_model(relaxed(), tmp_path / "saved", max_shard_size="1KB")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    return tmp_path / "saved"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_shards_become_one_file(suffix: str, mode: str, saved: Path, tmp_path: Path) -> None:
    """Told by the index or the folder; what is in the shards is what one file of them holds."""
    whole = tmp_path / "whole.safetensors"
    Accelerator(cpu=True).save_model(relaxed(), tmp_path / "one")
    (tmp_path / "one" / "model.safetensors").rename(whole)
    before = {path: digest(path) for path in saved.iterdir()}
    expected = tmp_path / f"expected{suffix}"
    convert(whole, expected, mode=mode)  # type: ignore[arg-type]
    for source in (saved, saved / "model.safetensors.index.json"):
        target = tmp_path / f"out{suffix}"
        convert(source, target, mode=mode, force=True)  # type: ignore[arg-type]
        load = load_file if suffix == ".safetensors" else torch.load
        found, wanted = load(target), load(expected)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert {path: digest(path) for path in saved.iterdir()} == before


def test_what_can_be_wrong_with_shards(saved: Path, tmp_path: Path) -> None:
    index, target = saved / "model.safetensors.index.json", tmp_path / "out.safetensors"
    document = json.loads(index.read_text())
    shard, other = sorted(saved.glob("*.safetensors"))[:2]

    def refused(source: Path, why: str) -> None:
        with pytest.raises(CheckpointError, match=why):
            convert(source, target)
        assert not target.exists()

    refused(shard, "one of several files of a checkpoint; give their index, model.safetensors.index.json")
    with pytest.raises(CheckpointError, match="written with its files, to a folder"):
        convert(index, tmp_path / "out.safetensors.index.json")
    key = next(key for key, name in document["weight_map"].items() if name == shard.name)
    for changed, why in (
        ({"weight_map": []}, "no weight_map"),
        ({}, "no weight_map"),
        ({"weight_map": {**document["weight_map"], key: "../elsewhere.safetensors"}}, "no file of its kind beside it"),
        ({"weight_map": {**document["weight_map"], key: other.name}}, f"has '{key}', of which it does not say so"),
        ({"weight_map": {**document["weight_map"], "more": shard.name}}, "'more' is not in"),
    ):
        index.write_text(json.dumps(changed))
        refused(index, why)
    index.write_text(json.dumps(document))
    other.unlink()
    refused(saved, f"its file {other.name} is missing")


def test_folders(saved: Path, tmp_path: Path) -> None:
    empty, two = tmp_path / "empty", tmp_path / "two"
    empty.mkdir()
    two.mkdir()
    for name in ("a.pt", "b.pt"):
        torch.save(relaxed().state_dict(), two / name)
    for folder, why in ((empty, "without a checkpoint in it"), (two, "has 2 checkpoints, such as a.pt; give one")):
        with pytest.raises(CheckpointError, match=why):
            convert(folder, tmp_path / "out.pt")
    (two / "b.pt").unlink()
    convert(two, tmp_path / "out.pt")
    project(relaxed()).load_state_dict(torch.load(tmp_path / "out.pt"))


@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_one_memory_under_one_name_as_save_model_writes_it(mode: str, tmp_path: Path) -> None:
    """safetensors' save_model leaves a layer's second name out, and notes which it was."""
    model = relaxed()
    with torch.no_grad():
        for module in (model.first, model.last):
            module.relaxation.theta.fill_(0.5)
    save_model(model, str(tmp_path / "in.safetensors"))
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", mode=mode)  # type: ignore[arg-type]
    clean = Twice()
    load_model(clean, str(tmp_path / "out.safetensors"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = project(model, mode=mode)  # type: ignore[arg-type]
    for found, wanted in zip(clean.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)
    assert clean.second is clean.first


def pretrained(folder: Path, *, safe: bool = True) -> Path:
    """What save_pretrained leaves in a folder: shards, their index, settings; and what a trainer puts beside."""
    Accelerator(cpu=True).save_model(relaxed(), folder, max_shard_size="1KB", safe_serialization=safe)
    (folder / "config.json").write_text('{"width": 4}')
    (folder / "optimizer.bin").write_bytes(b"x")
    return folder


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize(("size", "several"), [("0.1KB", True), (90, True), (None, False), ("1 MiB", False)])
def test_shards_become_shards_that_libraries_load(safe: bool, size: str | int | None, several: bool, tmp_path: Path) -> None:
    source, target = pretrained(tmp_path / "in", safe=safe), tmp_path / "out"
    before = {path: digest(path) for path in source.iterdir()}
    conversion = convert(source, target, max_shard_size=size)
    assert {path: digest(path) for path in source.iterdir()} == before
    names = {path.name for path in target.iterdir()}
    assert ("model.safetensors.index.json" in names) == several
    assert "config.json" in names
    assert (target / "config.json").read_text() == '{"width": 4}'
    assert conversion.left_out == ("optimizer.bin",)
    expected = project(relaxed())
    # of a layer under two names safetensors keep one, and not every shard has all
    for load_folder in (
        lambda model: load_checkpoint_in_model(model, str(target), strict=not (safe or several)),
        lambda model: load_torch_model(model, target, strict=not safe),
    ):
        found = Twice()
        for parameter in found.parameters():
            parameter.data.zero_()
        load_folder(found)
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))
    if several and size is not None:
        for path in target.glob("*.safetensors"):
            tensors = load_file(path).values()
            assert len(tensors) == 1 or sum(value.nbytes for value in tensors) <= 100


def test_an_index_of_torch_files_becomes_one_file(tmp_path: Path) -> None:
    source = pretrained(tmp_path / "in", safe=False)
    state = project(relaxed()).state_dict()
    for target in (tmp_path / "out.pt", tmp_path / "out.safetensors"):
        convert(source / "pytorch_model.bin.index.json", target)
        found = torch.load(target) if target.suffix == ".pt" else load_file(target)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)
    shard = min(source.glob("pytorch_model-*.bin"))
    with pytest.raises(CheckpointError, match=r"give their index, pytorch_model\.bin\.index\.json"):
        convert(shard, tmp_path / "more.pt")
    torch.save([1], shard)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        convert(source, tmp_path / "more.pt")


def test_a_folder_is_whole_or_absent_and_never_overwritten(saved: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"

    def stop(path: Path, _: Conversion) -> None:
        assert (path / "model.safetensors.index.json").exists()
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        convert(saved, target, max_shard_size=100, check=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    target.mkdir()
    for force in (False, True):
        with pytest.raises(CheckpointError, match=r"out exists, and a folder is never overwritten; choose another name"):
            convert(saved, target, force=force)
    target.rmdir()
    with pytest.raises(CheckpointError, match=r"out\.pt is the name of one file; give several the name of a folder"):
        convert(saved, tmp_path / "out.pt", max_shard_size="1KB")
    for size in ("many", "0", -1, "1PB"):
        with pytest.raises(CheckpointError, match=r"the size .* is none; give a number of bytes"):
            convert(saved, target, max_shard_size=size)
    with pytest.raises(CheckpointError, match="its folder does not exist"):
        convert(saved, tmp_path / "no" / "out")


def test_a_shard_is_an_input_too(saved: Path) -> None:
    shard = min(saved.glob("*.safetensors"))
    before = digest(shard)
    with pytest.raises(CheckpointError, match="which is never overwritten"):
        convert(saved, shard, force=True)
    assert digest(shard) == before


def test_a_folder_left_by_a_writer_that_was_killed_is_removed(saved: Path, tmp_path: Path) -> None:
    orphan = tmp_path / f".relaxify-{'0' * 16}"
    orphan.mkdir()
    (orphan / "model.safetensors").write_bytes(b"x")
    convert(saved, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "saved"]


def test_progress_adds_up_over_files(saved: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(saved, tmp_path / "out", max_shard_size=100, progress=lambda done, total: seen.append((done, total)))
    done = [count for count, _ in seen]
    assert done == sorted(done)
    assert done[-1] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert all(count <= total for count, total in seen)


def test_a_model_is_verified_in_a_folder(saved: Path, tmp_path: Path) -> None:
    convert(saved, tmp_path / "out", check=lambda path, done: check_loads(Twice(), path, done))
    load_weights(Twice(), tmp_path / "out")
