"""`relaxify inspect` prints, writes and plots a report, and ends with 1 where --fail-above says so."""

from __future__ import annotations

import json
from pathlib import Path

import points
import pytest
import torch

from relaxify_cli.main import run

SOURCE = """
import torch
from torch import nn
from relaxify import relaxify, set_theta

class Net(nn.Module):
    def __init__(self, bias=False):
        super().__init__()
        self.mix = nn.Linear(1, 4, bias=bias)

    def forward(self, x):
        return self.mix((x - x.mean(0)).unsqueeze(-1))

def broken():
    torch.manual_seed(0)
    return Net(bias=True)

def relaxed():
    model = relaxify(Net(), "O(3)", example_inputs=inputs())
    set_theta(model, 1.0)
    nn.init.ones_(model.mix.relaxation.weight)
    return model

def inputs():
    return torch.randn(20, 3, generator=torch.Generator().manual_seed(0))

def still(g, output):
    return output
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "120")
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


def inspect(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(["inspect", *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_fault_is_named_and_fails_above_any_bound(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"{file}:broken", "-g", "O3", "-i", f"{file}:inputs"]
    code, output = inspect(capsys, *arguments)
    assert code == 0
    assert "It breaks in mix: a constant (a bias) is added" in output
    assert "return self.mix(" in output
    assert inspect(capsys, *arguments, "--fail-above", "1e-4")[0] == 1


def test_under_a_product_each_factor_has_its_fault(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-g", "o3 x s5", "-i", f"{points.__file__}:clouds", "--fail-above", "1e-4"]
    code, output = inspect(capsys, f"{points.__file__}:broken", *arguments)
    assert code == 1
    of_turns, of_permutations = output.split("Under S(5)")
    assert "Under O(3)" in of_turns
    assert "It breaks in gate: a constant (a bias) is added" in of_turns
    assert "It breaks in the model: mul combines components that transform" in of_permutations


def test_a_sound_model_is_within_the_bound(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"{file}:Net", "-g", "O3", "-i", f"{file}:inputs", "--fail-above", "1e-10"]
    code, output = inspect(capsys, *arguments)
    assert code == 0
    assert "No operation breaks the symmetry." in output
    assert "vector on axis -2" in output
    code, output = inspect(capsys, *arguments, "--output-action", f"{file}:still")
    assert code == 1
    assert "the largest relative error" in output


def test_json_page_and_plot(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, plot = tmp_path / "out.html", tmp_path / "out.png"
    arguments = [f"{file}:relaxed", "-g", "O3", "-i", f"{file}:inputs", "--json", "--html", str(page), "--plot", str(plot)]
    code, output = inspect(capsys, *arguments)
    assert code == 0
    assert json.loads(output)["layers"][0]["share"] > 0
    assert page.read_text().startswith("<!doctype html>")
    assert plot.read_bytes().startswith(b"\x89PNG")
    code, output = inspect(capsys, *arguments)
    assert code == 2
    assert "out.html exists; choose another name, or overwrite it with --force." in output
    assert inspect(capsys, *arguments, "--force")[0] == 0


def test_a_checkpoint_is_loaded_first(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model": {"module.mix.weight": torch.zeros(4, 1), "module.mix.bias": torch.ones(4)}}, path)
    code, output = inspect(capsys, f"{file}:broken", "-g", "O3", "-i", f"{file}:inputs", "--checkpoint", str(path))
    assert code == 0
    assert "0.0e+00" in output
    code, output = inspect(capsys, f"{file}:Net", "-g", "O3", "-i", f"{file}:inputs", "--checkpoint", str(path))
    assert code == 2
    assert "does not load into Net" in output
    code, output = inspect(capsys, f"{file}:Net", "-g", "O3", "-i", f"{file}:inputs", "--checkpoint", "none.pt")
    assert code == 2
    assert "there is no checkpoint none.pt" in output
