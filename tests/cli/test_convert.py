"""relaxify convert: what it writes, what it says, and how it exits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from relaxed_states import IRREPS, assert_same, digest, load, relaxed_layer, save
from torch import Tensor

from relaxify.checkpoint import convert
from relaxify_cli import progress
from relaxify_cli.main import run

MODEL = """
from torch import nn
from torch import ones

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(ones(26)), nn.Parameter(ones(4))

class Plain(nn.Module):
    def __init__(self, width=1):
        super().__init__()
        self.lin = Layer()

def wider():
    model = Plain()
    model.extra = nn.Linear(2, 2)
    return model

def broken():
    raise KeyError("a setting")

def number():
    return 5

constant = 7
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "plain_model.py").write_text(MODEL)
    return str(tmp_path / "code" / "plain_model.py")


@pytest.fixture(autouse=True)
def _forget_user_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "plain_model", raising=False)


LAYER = relaxed_layer(replace(IRREPS, path="lin"))


def relaxed_file(folder: Path, suffix: str = ".safetensors", prefix: str = "") -> Path:
    return save(LAYER.state(f"{prefix}lin."), folder / f"in{suffix}")


def words(text: str) -> str:
    """What a table says, without its frame and line breaks."""
    return " ".join("".join(c if c.isascii() else " " for c in text).split())


def test_it_writes_the_clean_checkpoint_and_says_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.safetensors"
    assert run(["convert", str(relaxed_file(tmp_path)), "-o", str(target)]) == 0
    assert_same(load(target), LAYER.plain("lin."))
    shown = words(capsys.readouterr().out)
    assert f"lin 0.7 {float(LAYER.relaxation.norm()):.4g} dropped" in shown
    assert "2 keys kept, 3 removed; 30 of 150 parameters (with buffers) remain." in shown
    assert shown.endswith(f"Wrote {target}.")


def test_it_folds_and_says_how_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(relaxed_file(tmp_path)), "-o", str(tmp_path / "out.pt"), "--mode", "fold"]) == 0
    torch.testing.assert_close(
        load(tmp_path / "out.pt")["lin.weight"].double(), LAYER.folded()["weight"], atol=1e-5, rtol=1e-5
    )
    assert f"{LAYER.share():.1%} folded" in words(capsys.readouterr().out)


def test_every_part_of_a_nested_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = relaxed_layer(replace(IRREPS, path="lin", unfoldable="its attribute [varies]"))
    optimizer: dict[str, object] = {"state": {}, "param_groups": []}
    checkpoint = {"net": LAYER.state("lin."), "ema": told.state("lin."), "optimizer": optimizer}
    source = save(checkpoint, tmp_path / "in.pt")
    assert run(["convert", str(source), "-o", str(tmp_path / "out.pt"), "--mode", "fold"]) == 0
    shown = words(capsys.readouterr().out)
    for text in (" ema ", "dropped: its attribute [varies]", "Left out: optimizer."):
        assert text in shown


@pytest.mark.parametrize(("bound", "code"), [("0", 1), ("0.5", 1), ("0.71", 0)])
def test_theta_above_the_bound_is_a_failed_threshold(
    bound: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = relaxed_file(tmp_path), tmp_path / "out.pt"
    assert run(["convert", str(source), "-o", str(target), "--max-theta", bound]) == code
    assert target.exists() == (code == 0)
    if code:
        assert f"{source}: lin has theta 0.7" in capsys.readouterr().err


def bad_mode(source: Path, folder: Path) -> list[str]:
    return [str(source), "-o", str(folder / "out.pt"), "--mode", "fit"]


def no_input(source: Path, folder: Path) -> list[str]:
    return [str(folder / "missing.pt"), "-o", str(folder / "out.pt")]


def existing_output(source: Path, folder: Path) -> list[str]:
    (folder / "out.pt").touch()
    return [str(source), "-o", str(folder / "out.pt")]


def output_is_input(source: Path, folder: Path) -> list[str]:
    return [str(source), "-o", str(source), "--force"]


def negative_bound(source: Path, folder: Path) -> list[str]:
    return [str(source), "-o", str(folder / "out.pt"), "--max-theta", "-1"]


def clean_input(source: Path, folder: Path) -> list[str]:
    return [str(save(LAYER.plain(), folder / "clean.pt")), "-o", str(folder / "out.pt")]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (bad_mode, "'fit' is not one of 'drop', 'fold' (--help lists what there is)."),
        (no_input, "No such file or directory; give an existing, readable file."),
        (existing_output, "out.pt exists; choose another name, or overwrite it with --force."),
        (output_is_input, "which is never overwritten; choose another name."),
        (negative_bound, "Invalid value for '--max-theta'"),
        (clean_input, "is it already clean?"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: Callable[[Path, Path], list[str]], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = relaxed_file(tmp_path)
    before, command = digest(source), ["convert", *arguments(source, tmp_path)]
    files = sorted(tmp_path.iterdir())
    assert run(command) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert digest(source) == before
    assert sorted(tmp_path.iterdir()) == files


def test_force_and_strip_prefix(tmp_path: Path) -> None:
    source, target = relaxed_file(tmp_path, ".pt", "module._orig_mod."), tmp_path / "out.pt"
    target.touch()
    assert run(["convert", str(source), "-o", str(target), "--force", "--strip-prefix"]) == 0
    assert_same(load(target), LAYER.plain("lin."))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_verify_loads_strictly_behind_any_wrapper(
    suffix: str, prefix: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = relaxed_file(tmp_path, suffix, prefix), tmp_path / f"out{suffix}"
    assert run(["convert", str(source), "-o", str(target), "--verify", f"{model}:Plain"]) == 0
    assert "Loads with strict=True into" in words(capsys.readouterr().out)
    assert_same(load(target), LAYER.plain(f"{prefix}lin."))


def test_verify_looks_at_every_state_dict(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other: dict[str, Tensor] = {"more": torch.ones(1), **LAYER.state("lin.")}
    source = save({"net": LAYER.state("lin."), "ema": [other]}, tmp_path / "in.pt")
    assert run(["convert", str(source), "-o", str(tmp_path / "out.pt"), "--verify", f"{model}:Plain"]) == 1
    assert "ema.0 does not load into Plain" in capsys.readouterr().err


def test_what_does_not_load_is_not_written(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = relaxed_file(tmp_path), tmp_path / "out.safetensors"
    target.write_text("precious")
    assert run(["convert", str(source), "-o", str(target), "--force", "--verify", f"{model}:wider"]) == 1
    error = capsys.readouterr().err
    assert "does not load into Plain" in error
    assert "extra.weight" in error
    assert "was not written; give the factory of the plain model." in error
    assert target.read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        ("{}:broken", "failed with KeyError: 'a setting'"),
        ("{}:number", "returned int; it must return a torch.nn.Module"),
        ("{}:constant", "constant cannot be called (int)"),
        ("{}:missing", "has no missing; give the name of a function or class in it"),
        ("{}", "names no factory; write PKG.MOD:FACTORY"),
        ("{}:", "names no factory"),
        ("nowhere/model.py:f", "there is no file nowhere/model.py"),
        ("no_such_package.module:f", "importing no_such_package.module failed with ModuleNotFoundError"),
    ],
)
def test_a_factory_that_fails_is_bad_input_before_anything_is_written(
    factory: str, text: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = relaxed_file(tmp_path), tmp_path / "out.pt"
    assert run(["convert", str(source), "-o", str(target), "--verify", factory.format(model)]) == 2
    assert text in capsys.readouterr().err
    assert not target.exists()


def test_a_factory_may_be_named_as_a_module_of_the_working_folder(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(model).parent)
    command = ["convert", str(relaxed_file(tmp_path)), "-o", str(tmp_path / "out.pt")]
    assert run([*command, "--verify", "plain_model:Plain"]) == 0


def test_a_file_that_fails_to_import_or_exits_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = relaxed_file(tmp_path)
    for code, text in (("1 / 0", "ZeroDivisionError"), ("import sys; sys.exit(3)", "SystemExit"), ("def (", "SyntaxError")):
        (tmp_path / "bad_model.py").write_text(code)
        command = ["convert", str(source), "-o", str(tmp_path / "out.pt"), "--verify", f"{tmp_path / 'bad_model.py'}:f"]
        assert run(command) == 2
        assert f"failed with {text}" in capsys.readouterr().err


@pytest.mark.parametrize("delay", [0.0, 60.0])
def test_a_terminal_sees_how_far_it_is_if_it_takes_long(
    delay: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "DELAY", delay)
    state = {"big": torch.ones(2_000_000), **LAYER.state("lin.")}
    assert run(["convert", str(save(state, tmp_path / "in.pt")), "-o", str(tmp_path / "out.pt")]) == 0
    shown = capsys.readouterr()
    assert ("writing and comparing" in shown.err, "8.0/8.0 MB" in shown.err) == (delay == 0, delay == 0)
    assert "writing and comparing" not in shown.out


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_progress_counts_every_byte(suffix: str, tmp_path: Path) -> None:
    state, told = {"big": torch.ones(2_000_000), **LAYER.state("lin.")}, []
    convert(save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}", progress=lambda *both: told.append(both))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == (tmp_path / f"out{suffix}").stat().st_size
    assert 0.99 < told[0][1] / told[-1][0] <= 1
