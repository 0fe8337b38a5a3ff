"""`relaxify diagnose` prints shares, chance and advice for a factory, its batches and its loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaxify_cli.main import run

SOURCE = """
import torch
from e3nn import o3

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(o3.Linear("4x1o", "8x1o"), o3.Linear("8x1o", "1x1o"))

def batches():
    generator = torch.Generator().manual_seed(0)
    while True:
        x = torch.randn(256, 12, generator=generator)
        yield x, x[:, :3] + x[:, 3:6]

def posed():
    for x, _ in batches():
        yield x, x[:, :3] * torch.tensor([1.0, -1.0, 2.0])

def loss(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "task.py"
    path.write_text(SOURCE)
    return str(path)


@pytest.mark.parametrize(("data", "advice"), [("batches", "as symmetric as the model"), ("posed", "end theta early")])
def test_it_tells_symmetric_data_from_others(
    source: str, data: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", f"{source}:{data}", "--loss", f"{source}:loss", "--group", "O3", "--batches", "4"]
    assert run(["diagnose", f"{source}:model", *arguments]) == 0
    shown = capsys.readouterr().out
    assert advice in shown
    assert shown.count("chance 0.111") == 3


def test_bad_input_is_one_sentence(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["diagnose", f"{source}:model", "--data", f"{source}:batches", "--loss"]
    assert run([*parts, f"{source}:loss"]) == 2
    assert "pass group=" in capsys.readouterr().err
    assert run([*parts, f"{source}:nothing", "--group", "O3"]) == 2
    assert "has no nothing" in capsys.readouterr().err


@pytest.mark.parametrize("data", ["nothing", "number"])
def test_data_that_are_no_batches(source: str, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Path(source).open("a") as file:
        file.write("\ndef nothing():\n    return None\n\ndef number():\n    return 3\n")
    arguments = ["--data", f"{source}:{data}", "--loss", f"{source}:loss", "--group", "O3"]
    assert run(["diagnose", f"{source}:model", *arguments]) == 2
    assert "it must return batches, such as a list or a DataLoader" in capsys.readouterr().err
