"""Checkpoints as model libraries save them: in several files with an index, in a folder, one memory under one name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from e3nn import o3
from relaxed_states import digest
from safetensors.torch import load_file, load_model, save_model
from torch import nn

from relaxify import project, relaxify
from relaxify.checkpoint import CheckpointError, convert


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
    with pytest.raises(CheckpointError, match="written to one file"):
        convert(index, tmp_path / "out.safetensors.index.json")
    key = next(key for key, name in document["weight_map"].items() if name == shard.name)
    for changed, why in (
        ({"weight_map": []}, "no weight_map"),
        ({}, "no weight_map"),
        ({"weight_map": {**document["weight_map"], key: "../elsewhere.safetensors"}}, "no safetensors file beside it"),
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
