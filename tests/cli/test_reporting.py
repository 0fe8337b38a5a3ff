"""Standard output is the report alone, whatever the user's code prints; names may be of models and of inputs themselves."""

from __future__ import annotations

import io
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import save_file

from relaxify_cli import progress
from relaxify_cli.main import COMMANDS, Commands, app, run

SOURCE = """
import numpy as np
import torch
from torch import nn

print("imported")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        print("made")
        self.mix = nn.Linear(1, 4, bias=False)
        self.out = nn.Linear(4, 1, bias=False)

    def forward(self, x, scale=1.0):
        print("run")
        return self.out(self.mix(x.unsqueeze(-1) * scale)).squeeze(-1)

net = Net()
cnn = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
points = np.random.default_rng(0).standard_normal((20, 3)).astype("float32")
images = torch.randn(2, 1, 9, 9)

def by_name():
    return {"x": points, "scale": 2}

def misnamed():
    return {"pos": points}

def batches():
    for seed in range(4):
        yield torch.randn(5, 1, 9, 9, generator=torch.Generator().manual_seed(seed))

def loss(model, batch):
    print("loss")
    return (model(batch) - 1).square().mean()

def fails():
    raise RuntimeError("no data")
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "talking.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "talking", raising=False)
    save_file({"0": torch.randn(20, 3)}, tmp_path / "x.safetensors")
    save_file({"pos": torch.randn(20, 3)}, tmp_path / "pos.safetensors")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("plan talking:Net -g SO3 -i talking:points", lambda report: [site["path"] for site in report["sites"]]),
        ("plan talking:Net -g SO3", lambda report: [each["path"] for each in report["rejected"]]),
        ("inspect talking:Net -g SO3 -i talking:points", lambda report: [layer["path"] for layer in report["layers"]]),
        ("diagnose talking:cnn -d talking:batches -l talking:loss -g C4", lambda report: list(report["layers"])),
    ],
)
@pytest.mark.usefixtures("code")
def test_json_is_alone_on_standard_output(command: str, found: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code = run([*command.split(), "--json"])
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert code in (0, 2)
    assert found(report) in (["mix", "out"], ["0", "2"])
    assert {"imported", "made", "run", "loss"} & set(shown.err.split())


@pytest.mark.usefixtures("code")
def test_a_plan_as_json_says_what_python_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "talking:cnn", "--group", "C4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "relaxify-plan/1"
    assert report["group"] == "C(4)"
    assert [(site["op"], site["rep_out"], site["parameters"]) for site in report["sites"]] != []
    assert report["verdict"] is None


@pytest.mark.usefixtures("code")
def test_swaps_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lconv.safetensors"
    assert run(["lconv", "talking:cnn", "--json", "-o", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(layer["path"], layer["was"], layer["refused"]) for layer in report["layers"]] == [
        ("0", "Conv2d", None),
        ("2", "Conv2d", None),
    ]
    assert report["written"] == str(out)
    assert out.is_file()


@pytest.mark.usefixtures("code")
def test_inputs_by_name_with_numbers_and_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "talking:net", "--group", "SO3", "--inputs", "talking:by_name"]) == 0
    assert "2 sites" in capsys.readouterr().out


@pytest.mark.parametrize("inputs", ["talking:misnamed", "pos.safetensors"])
def test_keys_that_are_no_arguments(inputs: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = f"{code}/{inputs}" if inputs.endswith("s") else inputs
    assert run(["inspect", "talking:Net", "--group", "SO3", "--inputs", given]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "what the model's forward takes, which is x, scale" in shown.err
    assert "it gives pos: name the keys as these arguments, or 0, 1, ... in their order." in shown.err


@pytest.mark.usefixtures("code")
def test_data_that_cannot_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diagnose", "talking:Net", "--data", "talking:fails", "--loss", "talking:loss", "--group", "SO3"]) == 2
    assert "talking:fails failed with RuntimeError: no data; fix the factory, or wrap it." in capsys.readouterr().err


@pytest.mark.usefixtures("code")
def test_nothing_wraps_where_no_terminal_reads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert run(["plan", "talking:Net", "--group", "SO3", "--inputs", "talking:points"]) == 0
    assert any("mix" in line and "1xvector -> 4xvector" in line for line in capsys.readouterr().out.splitlines())


def test_nothing_else_prints() -> None:
    """A command that prints to standard output on its own would mix with what a factory prints."""
    sources = {path.name: path.read_text() for path in Path("cli/relaxify_cli").glob("*.py")}
    found = {name for name, text in sources.items() if "typer.echo(" in text or "Console()" in text}
    assert found <= {"reporting.py", "main.py", "progress.py"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_a_commands_help_can_be_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = Commands().get_command(None, name)
    example = command.epilog.removeprefix("Example: ")
    program, first, *arguments = shlex.split(example)
    assert (program, first) == ("relaxify", name)
    command.make_context(name, arguments)
    assert run([name, "-h"]) == 0
    assert " ".join(example.split()[:3]) in capsys.readouterr().out


def test_completion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words, word in (("relaxify pl", "plan"), ("relaxify convert --ver", "--verify")):
        monkeypatch.setenv("_RELAXIFY_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        with pytest.raises(SystemExit):
            typer.main.get_command(app).main([], prog_name="relaxify", standalone_mode=False)
        assert capsys.readouterr().out.split() == [word]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_takes_long_moves_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.delenv("CI", raising=False)
    for stream, moves in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress.waiting("planning"):
            time.sleep(0.3)
        assert ("planning ..." in stream.getvalue()) is moves
