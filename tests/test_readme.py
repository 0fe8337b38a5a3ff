"""The README's commands run as they are printed, in any folder, and show what it shows; its other names exist."""

from __future__ import annotations

import doctest
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import readme

from relaxify_cli.main import COMMANDS, run

ROOT = readme.README.parent


@pytest.fixture(autouse=True)
def _environment_stays() -> Iterator[None]:
    """What doctor imports sets variables: MACE lets torch.load unpickle anything."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "output"), readme.shown(), ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_a_command_prints_what_is_shown(arguments: list[str], output: str, capsys: pytest.CaptureFixture[str]) -> None:
    """To the digits shown; errors of rounding are any machine's own."""
    assert run(arguments) == 0
    seen, expected = (re.sub(r"\de-1[4-7]", "ROUNDING", text) for text in (capsys.readouterr().out, output))
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(expected, seen, flags), seen


def test_the_commands_follow_one_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme.write_files(folder)
    # the demo takes longest, and has tests of its own; from the wheel it is run
    commands = [arguments for arguments in readme.commands() if arguments[0] != "demo"]
    failed = {" ".join(arguments): capsys.readouterr().err for arguments in commands if run(arguments)}
    assert failed == {}
    assert len(commands) >= 8


def test_the_table_of_commands_is_complete() -> None:
    rows = re.findall(r"^\| (`relaxify .*?) \|", readme.README.read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`relaxify ([a-z-]+)`", row)}
    assert named == set(COMMANDS)


def test_what_is_to_be_installed_or_made_exists() -> None:
    text, makefile = readme.README.read_text(), (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"pip install \"\.\[([\w-]+)\]\"", text)) <= set(extras)
    assert [name for name in re.findall(r"`make (\w+)`", text) if f"\n{name}:" not in makefile] == []
