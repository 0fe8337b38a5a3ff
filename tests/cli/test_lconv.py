"""relaxify lconv: what it swaps, says and writes, and how it exits."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from relaxify.lconv import lconvify
from relaxify_cli.main import run

MODEL = """
from torch import manual_seed, nn

def network():
    manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

def no_layers():
    return nn.Sequential(nn.ReLU())
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "network_for_lconv", raising=False)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "network_for_lconv.py").write_text(MODEL)
    return str(tmp_path / "code" / "network_for_lconv.py")


def network(path: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location("network_again", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.network()


def words(text: str) -> str:
    return " ".join("".join(c if c.isascii() else " " for c in text).split())


def test_the_exact_model_is_shown_and_written_with_the_keys_it_had(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.safetensors"
    assert run(["lconv", f"{model}:network", "-o", str(target), "--shape", "1,1,6,6"]) == 0
    shown = words(capsys.readouterr().out)
    assert "0 Conv2d 9 shifts 40" in shown
    assert "3 Linear 36 points 435" in shown
    assert "2 of 2 layers swapped; they had 475 parameters and have 475." in shown
    assert shown.endswith(f"Wrote {target}.")
    original, state = network(model), safetensors.torch.load_file(target)
    original.load_state_dict(state, strict=True)
    with safetensors.safe_open(target, "pt") as file:
        record = json.loads(file.metadata()["lconv"])
    assert record["format"] == "relaxify-lconv/1"
    assert record["layers"] == {"0": ["Conv2d", "9 shifts"], "3": ["Linear", "36 points"]}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_learnable_model_is_made_again_from_its_record(suffix: str, model: str, tmp_path: Path) -> None:
    target = tmp_path / f"out{suffix}"
    command = ["lconv", f"{model}:network", "-o", str(target), "--mode", "low_rank", "--shape", "2,1,6,6", "--rank", "3"]
    assert run(command) == 0
    x = torch.randn(2, 1, 6, 6)
    state = torch.load(target, weights_only=True)["state_dict"] if suffix == ".pt" else safetensors.torch.load_file(target)
    twin = lconvify(network(model), mode="low_rank", example_inputs=(x,), rank=3)
    twin.load_state_dict(state, strict=True)
    assert twin(x).shape == (2, 3)


def test_layers_are_selected_and_left_with_their_reason(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lconv", f"{model}:network", "--mode", "low_rank"]) == 0
    assert "0 (Conv2d) stays: low-rank generators fill the image, and its one size is not known: give --shape." in words(
        capsys.readouterr().out
    )
    assert run(["lconv", f"{model}:network", "--exclude", "3"]) == 0
    assert "1 of 1 layers swapped" in words(capsys.readouterr().out)
    assert run(["lconv", f"{model}:network", "--mode", "grid", "--include", "3"]) == 2
    assert "No layer can be swapped." in capsys.readouterr().out


def existing(folder: Path) -> list[str]:
    (folder / "out.pt").write_text("precious")
    return ["-o", str(folder / "out.pt")]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (lambda folder: ["--shape", "1,x"], "is not a shape; write its sizes as in 1,3,32,32."),
        (lambda folder: ["--shape", "1,0"], "has an empty axis"),
        (lambda folder: ["--shape", "1,1,6"], "the model does not run on the inputs (RuntimeError: "),
        (lambda folder: ["--mode", "dense"], "'dense' is not one of"),
        (lambda folder: ["--include", "head"], "the pattern 'head' matches no"),
        (lambda folder: ["-o", str(folder / "out.bin")], "name a .safetensors or a .pt file"),
        (lambda folder: ["-o", str(folder / "nowhere" / "out.pt")], "its folder does not exist"),
        (existing, "out.pt exists; choose another name, or overwrite it with --force."),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: Any, text: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lconv", f"{model}:network", *arguments(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "out.pt").exists() or (tmp_path / "out.pt").read_text() == "precious"


def test_force_overwrites(model: str, tmp_path: Path) -> None:
    assert run(["lconv", f"{model}:network", *existing(tmp_path), "--force"]) == 0
    assert torch.load(tmp_path / "out.pt", weights_only=True)["lconv"]["mode"] == "exact"


def test_a_model_without_layers_is_said_to_have_none(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lconv", f"{model}:no_layers"]) == 2
    assert "No layer can be swapped." in capsys.readouterr().out
