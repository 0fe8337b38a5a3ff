"""Folders of torch.distributed.checkpoint, from one process, several, or Lightning: converted, and loaded by these."""

from __future__ import annotations

import argparse
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from relaxed_states import assert_same, digest, load, relaxed_layer
from torch import nn
from torch.distributed.checkpoint.format_utils import torch_save_to_dcp

from relaxify.checkpoint import CheckpointError, convert

LAYER = relaxed_layer()
pytestmark = pytest.mark.filterwarnings("ignore")


def saved(content: Any, folder: Path) -> Path:
    dcp.save(content, checkpoint_id=folder, no_dist=True)
    return folder


def others() -> dict[str, Any]:
    return {
        "half": torch.arange(7.0).half(),
        "bits": torch.ones(3, dtype=torch.bool),
        "float8": torch.ones(4).to(torch.float8_e4m3fn),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
    }


@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_all_that_is_in_a_folder(mode: Any, tmp_path: Path) -> None:
    content = {
        "model": LAYER.state("lin.") | others(),
        "epoch": 3,
        "deep": {"list": [torch.ones(2), {"a": "text"}, 5], "args": argparse.Namespace(a=1)},
    }
    folder = saved(content, tmp_path / "in")
    before = {path: digest(path) for path in folder.iterdir()}
    for source in (folder, folder / ".metadata"):
        conversion = convert(source, tmp_path / "out.pt", mode=mode, force=True)
    found = load(tmp_path / "out.pt")
    if mode == "drop":
        assert_same(found["model"], LAYER.plain("lin.") | others())
    else:
        torch.testing.assert_close(found["model"]["lin.weight"].double(), LAYER.folded()["weight"], atol=1e-5, rtol=1e-5)
    assert conversion.left_out == ("deep.args",)
    assert found["epoch"] == 3
    assert torch.equal(found["deep"]["list"][0], torch.ones(2))
    assert found["deep"]["list"][1:] == [{"a": "text"}, 5]
    assert {path: digest(path) for path in folder.iterdir()} == before


def test_torch_loads_what_was_converted(tmp_path: Path) -> None:
    """By torch.distributed.checkpoint itself, into what a plain model's state dict is."""
    convert(saved({"model": LAYER.state("lin.")}, tmp_path / "in"), tmp_path / "out.pt")
    found = {"model": {key: torch.zeros_like(value) for key, value in LAYER.plain("lin.").items()}}
    torch_save_to_dcp(tmp_path / "out.pt", tmp_path / "again")
    dcp.load(found, checkpoint_id=tmp_path / "again", no_dist=True)
    assert_same(found["model"], LAYER.plain("lin."))


def test_parts_of_two_processes(tmp_path: Path) -> None:
    """Along either axis, in parts of different sizes, or one of them with nothing."""
    rest = {"odd": torch.arange(35.0).view(5, 7), "wide": torch.arange(21).view(3, 7), "one": torch.ones(1, 4)}
    rest |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5, dtype=torch.float64), "three": torch.ones(3)}
    torch.save({"model": LAYER.state("lin.") | rest, "epoch": 3}, tmp_path / "whole.pt")
    script = Path(__file__).with_name("two_processes.py")
    arguments = [str(tmp_path / name) for name in ("meet", "whole.pt", "in")]
    started = [subprocess.Popen([sys.executable, str(script), str(rank), *arguments]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    assert len(list((tmp_path / "in").glob("*.distcp"))) == 2
    convert(tmp_path / "in", tmp_path / "out.pt")
    found = load(tmp_path / "out.pt")
    assert_same(found["model"], LAYER.plain("lin.") | rest)
    assert found["epoch"] == 3
    convert(tmp_path / "in", tmp_path / "out.safetensors", mode="fold")
    folded = load(tmp_path / "out.safetensors")
    torch.testing.assert_close(folded["lin.weight"].double(), LAYER.folded()["weight"], atol=1e-5, rtol=1e-5)
    assert torch.equal(folded["odd"], rest["odd"])


class Net(lightning.LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lin = nn.Module()
        self.lin.weight = nn.Parameter(torch.zeros(26))
        self.lin.bias = nn.Parameter(torch.zeros(4))


@pytest.mark.parametrize("strategy", [ModelParallelStrategy, FSDPStrategy])
def test_folders_of_lightning(strategy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its strategies for many devices write them; what they keep beside the weights is where it is in one file."""
    model_key = "state_dict" if strategy is ModelParallelStrategy else "model"
    saved({model_key: LAYER.state("lin."), "optimizer_0": {"state": {"a": torch.ones(1)}}}, tmp_path / "in.ckpt")
    extra = {"pytorch-lightning_version": "2.6.0", "epoch": 3, "hyper_parameters": {"width": 8}, "loops": {}}
    torch.save(extra, tmp_path / "in.ckpt" / "meta.pt")
    convert(tmp_path / "in.ckpt", tmp_path / "out.ckpt")
    found = Net.load_from_checkpoint(tmp_path / "out.ckpt")
    assert found.hparams["width"] == 8
    assert_same(found.state_dict(), LAYER.plain("lin."))


def changed(folder: Path, change: Callable[[Any], None]) -> None:
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


def overlapping(metadata: Any) -> None:
    places = list(metadata.storage_data.values())
    places[0].offset, places[0].length = places[1].offset, places[1].length


def elsewhere(metadata: Any) -> None:
    next(iter(metadata.storage_data.values())).relative_path = "../in/__0_0.distcp"


def far(metadata: Any) -> None:
    max(metadata.storage_data.values(), key=lambda place: place.offset).length += 1


def compressed(metadata: Any) -> None:
    next(iter(metadata.storage_data.values())).transform_descriptors = ["zstd"]


def lost(metadata: Any) -> None:
    del metadata.storage_data[next(iter(metadata.storage_data))]


def wide(metadata: Any) -> None:
    entry = metadata.state_dict_metadata["model.lin.bias"]
    entry.size = torch.Size([2**40])


def another(metadata: Any) -> None:
    entry = metadata.state_dict_metadata["model.lin.bias"]
    entry.chunks[0].sizes = entry.size = torch.Size([2, 2])


def long_list(metadata: Any) -> None:
    metadata.planner_data["model.lin.bias"] = ("model", 2**50)


def deep(metadata: Any) -> None:
    metadata.planner_data["model.lin.bias"] = ("a",) * 1000


def nameless(metadata: Any) -> None:
    metadata.state_dict_metadata = None


WRONG: dict[str, tuple[Callable[[Any], None], str]] = {
    "overlapping parts": (overlapping, "two parts in __0_0.distcp overlap"),
    "a file elsewhere": (elsewhere, r"names '\.\./in/__0_0\.distcp', which is no file beside it"),
    "a part beyond the end": (far, r"__0_0\.distcp ends before byte"),
    "compressed parts": (compressed, "compressed or encrypted"),
    "a part that is nowhere": (lost, "does not say where"),
    "a huge shape": (wide, "its parts are not a tensor of shape"),
    "another shape": (another, "is no tensor of its shape|its parts are not a tensor"),
    "a long list": (long_list, "do not agree|more places than entries"),
    "a deep way": (deep, "the way to an entry"),
    "no names": (nameless, "not as torch.distributed.checkpoint writes it"),
}


@pytest.mark.parametrize(("change", "why"), WRONG.values(), ids=WRONG)
def test_what_can_be_wrong_with_a_folder(change: Callable[[Any], None], why: str, tmp_path: Path) -> None:
    folder = saved({"model": LAYER.state("lin.")}, tmp_path / "in")
    changed(folder, change)
    with pytest.raises(CheckpointError, match=why) as caught:
        convert(folder, tmp_path / "out.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.pt").exists()


def test_files_that_are_missing_cut_or_hostile(tmp_path: Path) -> None:
    folder = saved({"model": LAYER.state("lin.")}, tmp_path / "in")
    (part,) = folder.glob("*.distcp")

    def refused(why: str) -> None:
        with pytest.raises(CheckpointError, match=why):
            convert(folder, tmp_path / "out.pt")
        assert not (tmp_path / "out.pt").exists()

    whole = part.read_bytes()
    part.write_bytes(whole[:-100])
    refused("ends before byte")
    part.write_bytes(whole[:2000] + b"\0" * 64 + whole[2064:])
    refused("is not a complete torch checkpoint|do not match its own checksum")
    part.unlink()
    refused("its file __0_0.distcp is missing")
    (folder / ".metadata").write_bytes(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.")
    refused(r"would run code \(posix\.system\)")
    (folder / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    refused(r"what should be Metadata in it is none")


def test_a_part_that_changes_meanwhile(tmp_path: Path) -> None:
    folder = saved({"model": LAYER.state("lin.")}, tmp_path / "in")
    (part,) = folder.glob("*.distcp")

    def again(*_: Any) -> None:
        shutil.copy(part, tmp_path / "copy")
        shutil.copy(tmp_path / "copy", part)

    with pytest.raises(CheckpointError, match="changed while it was read"):
        convert(folder, tmp_path / "out.pt", progress=again)
    assert not (tmp_path / "out.pt").exists()
