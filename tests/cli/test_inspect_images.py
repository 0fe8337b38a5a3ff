"""`relaxify inspect --images` prints local equivariance errors, and wants either a group or images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relaxify_cli.main import run

SOURCE = """
import torch
from torch import nn

def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )

def images():
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))

def two():
    return images(), images()
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


def inspect(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(["inspect", *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_every_transformation_and_layer_is_printed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = inspect(capsys, f"{file}:cnn", "-i", f"{file}:images", "--images")
    assert code == 0
    for text in ("translation_x", "shear_y", "AvgPool2d", "t = 0.05", "forward-mode AD", "the layers' parts are exact"):
        assert text in output


def test_json_and_threshold(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = inspect(capsys, f"{file}:cnn", "-i", f"{file}:images", "--images", "--periodic", "--json")
    assert code == 0
    report = json.loads(output)
    assert report["derivative"] == "spectral"
    # the mean over all pixels does not see translations of periodic images
    assert report["transformations"][0]["relative"] < 1e-12
    code, output = inspect(capsys, f"{file}:cnn", "-i", f"{file}:images", "--images", "--fail-above", "1e-3")
    assert code == 1
    assert "the largest local equivariance error" in output


def test_either_a_group_or_images(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("--images", "-g", "C4")):
        code, output = inspect(capsys, f"{file}:cnn", "-i", f"{file}:images", *arguments)
        assert code == 2
        assert "give either --group, such as --group SO3, or --images" in output
    code, output = inspect(capsys, f"{file}:cnn", "-i", f"{file}:images", "--images", "--plot", str(tmp_path / "o.png"))
    assert code == 2
    assert "use --html or --json instead" in output
    code, output = inspect(capsys, f"{file}:cnn", "-i", f"{file}:images", "--images", "--html", str(tmp_path / "o.html"))
    assert code == 0
    assert "What each layer adds" in (tmp_path / "o.html").read_text()
    code, output = inspect(capsys, f"{file}:cnn", "-i", f"{file}:two", "--images")
    assert code == 2
    assert "--images takes one tensor of images" in output
