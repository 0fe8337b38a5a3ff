"""`relaxify plan` shows sites, rejected candidates and faults, with example inputs from a file or a factory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from relaxify_cli.main import run

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, bias=False):
        super().__init__()
        self.parts = nn.ModuleDict({"first": nn.Linear(1, 4, bias=False), "second": nn.Linear(4, 4, bias=bias)})
        self.gate = nn.Linear(4, 4)

    def forward(self, x, scale=1.0):
        v = self.parts["second"](self.parts["first"]((x - x.mean(0)).unsqueeze(-1) * scale))
        return v * self.gate(v.norm(dim=1)).unsqueeze(1)

def broken():
    return Net(bias=True)

def inputs():
    return torch.randn(20, 3, generator=torch.Generator().manual_seed(0))

def by_name():
    return {"x": inputs(), "scale": 2.0}

def action(g, inputs):
    return tuple(x @ g.mT.to(x) for x in inputs)

def makes_action():
    return action

class Features(Net):
    def forward(self, x):
        return super().forward(x[:, 2:])

def features():
    return torch.randn(20, 5, generator=torch.Generator().manual_seed(0))

def images():
    return torch.randn(2, 1, 8, 8)

def numbers():
    return torch.ones(20, 3, dtype=torch.long)

def cnn():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

def fails():
    raise RuntimeError("no data")
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "110")
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(["plan", *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_the_tree_of_sites_with_their_sizes_and_places(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = plan(capsys, f"{file}:Net", "-g", "O3", "--inputs", f"{file}:inputs")
    assert code == 0
    lines = [line.split() for line in output.splitlines()]
    assert ["parts"] in lines
    assert ["first", "1xvector", "->", "4xvector", "4", "36", "net.py:12"] in lines
    assert ["second", "4xvector", "->", "4xvector", "16", "144", "net.py:12"] in lines
    assert "invariant -> invariant: it cannot break O(3)" in output
    assert "2 sites: 2 Linear." in output
    assert "Dense terms add 180 parameters during training." in output


def test_an_ordinary_cnn_is_told_what_would_become_of_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = plan(capsys, f"{file}:cnn", "-g", "C4")
    printed = " ".join(output.split())
    assert code == 0
    assert "their kernels would be symmetrised" in printed
    assert "Each then commutes with C(4)" in printed


@pytest.mark.parametrize("keys", [("0",), ("x",)])
def test_inputs_from_a_file_by_position_or_by_name(
    keys: tuple[str], file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({keys[0]: torch.randn(20, 3)}, tmp_path / "x.safetensors")
    code, output = plan(capsys, f"{file}:Net", "-g", "O3", "-i", str(tmp_path / "x.safetensors"))
    assert code == 0
    assert "2 sites: 2 Linear." in output


@pytest.mark.parametrize("verb", ["plan", "inspect"])
def test_inputs_by_irreps(file: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    arguments = [verb, f"{file}:Features", "-g", "O3", "-i", f"{file}:features"]
    assert run([*arguments, "--irreps", "x=2x0e+1o"]) == 0
    assert run([*arguments, "--irreps", "x=8x0e"]) == 2
    assert "x has shape (20, 5), but 8x0e has 8 components" in " ".join(capsys.readouterr().err.split())
    for wrong in (["x"], ["x=1o", "--irreps", "x=2x0e"]):
        assert run([*arguments, "--irreps", *wrong]) == 2
        assert "such as x=8x0e" in capsys.readouterr().err.replace("write for example --irreps", "such as").replace(
            "\n", " "
        )


@pytest.mark.parametrize("verb", ["plan", "inspect"])
@pytest.mark.parametrize("named", ["action", "makes_action"])
def test_an_action_may_be_named_or_made(file: Path, capsys: pytest.CaptureFixture[str], verb: str, named: str) -> None:
    assert run([verb, f"{file}:Net", "-g", "O3", "-i", f"{file}:inputs", "--action", f"{file}:{named}"]) == 0


@pytest.mark.parametrize("verb", ["plan", "inspect"])
@pytest.mark.parametrize(
    ("group", "inputs", "words"),
    [
        ("C4", "images", "is ambiguous; give --action relaxify:MovePixels, or inputs with other sizes."),
        ("C8", "images", "try --group C4 or --group D4, or give --action PKG.MOD:FUNCTION."),
        ("O3", "numbers", "input.0 is int64 (20, 3), and O(3) moves floating-point numbers; give floating-point positions."),
        ("O3", "features", "give --action PKG.MOD:FUNCTION, or --irreps NAME=IRREPS for features."),
    ],
)
def test_what_cannot_be_moved_is_told_in_the_words_of_the_command_line(
    file: Path, capsys: pytest.CaptureFixture[str], verb: str, group: str, inputs: str, words: str
) -> None:
    assert run([verb, f"{file}:cnn", "-g", group, "-i", f"{file}:{inputs}"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_images_may_be_named_as_such(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", f"{file}:cnn", "-g", "C4", "-i", f"{file}:images", "--action", "relaxify:MovePixels"]) == 0


def test_inputs_by_keyword_and_a_users_action(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(capsys, f"{file}:Net", "-g", "O3", "-i", f"{file}:by_name")[0] == 0
    assert plan(capsys, f"{file}:Net", "-g", "O3", "-i", f"{file}:inputs", "--action", f"{file}:action")[0] == 0


def test_a_fault_ends_with_one_and_says_where(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = plan(capsys, f"{file}:broken", "-g", "O3", "-i", f"{file}:inputs")
    assert code == 1
    output = " ".join(output.split())
    assert "It breaks O(3) at parts.second, Linear: its output does not transform" in output
    assert "a bias on vector channels breaks" in output


def test_without_inputs_it_says_what_they_would_tell(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = plan(capsys, f"{file}:Net", "-g", "O3")
    assert code == 2
    assert "its type proves nothing; give --inputs" in " ".join(output.split())
    assert "\\n" not in output
    assert "No layer can be relaxed for O(3)." in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--action", "{file}:action"], "--action says how the group moves the example inputs; give those with --inputs"),
        (["--inputs", "{file}:fails"], "failed with RuntimeError: no data; fix the factory"),
        (["--inputs", "{file}:nothing"], "has no nothing"),
        (["--inputs", "gc:enable"], "gc:enable returned NoneType; it must return forward's arguments"),
        (["--inputs", "builtins:set"], "builtins:set returned set; it must return forward's arguments"),
        (["--inputs", "none.safetensors"], "there is no file none.safetensors; give"),
        (["--inputs", "{text}"], "is not a safetensors file"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], words: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("these are no tensors, though the name says so")
    code, output = plan(capsys, f"{file}:Net", "-g", "O3", *(a.format(file=file, text=text) for a in arguments))
    assert code == 2
    assert words in output
    assert output.count("\n") == 1


def test_without_inputs_it_says_that_the_model_is_not_checked(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = plan(capsys, f"{file}:cnn", "-g", "C4")
    assert code == 0
    assert "Whole model not checked, only layers one by one; give --inputs." in out
    assert "not checked" not in plan(capsys, f"{file}:Net", "-g", "SO3", "--inputs", f"{file}:inputs")[1]
