"""`make setup` installs a system package only where somebody said so: at a prompt, or by SYSTEM_PACKAGES."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"

# a Python without ensurepip until apt-get has been asked for it, and which makes no environment then
PYTHON = """#!/bin/bash
case "$*" in *ensurepip*) [ -e {folder}/asked ] ;; *-m*venv*) exit 7 ;; esac
"""
APT_GET = """#!/bin/bash
echo "$@" >> {folder}/asked
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with the sources that make looks at, and programs that stand in for the machine's."""
    for name, program in (("python3", PYTHON), ("apt-get", APT_GET), ("sudo", '#!/bin/bash\nexec "$@"\n')):
        (tmp_path / name).write_text(program.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    return tmp_path


def setup(machine: Path, *, stdin: int = subprocess.DEVNULL, answer: str = "") -> str:
    """What make says on standard error; a make around this test does not pass its own settings on."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "SYSTEM_PACKAGES"}
    ours |= {"PATH": f"{machine}:{os.environ['PATH']}"} | ({"SYSTEM_PACKAGES": answer} if answer else {})
    command = ["make", "--file", str(MAKEFILE), "setup"]
    return subprocess.run(command, cwd=machine, env=ours, stdin=stdin, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("answer", ["", "no"])
def test_where_nobody_can_answer_nothing_is_installed(answer: str, machine: Path) -> None:
    said = setup(machine, answer=answer)
    assert "install python3-venv (apt-get install python3-venv), or let make do it: make SYSTEM_PACKAGES=yes." in said
    assert not (machine / "asked").exists()


def test_the_environment_may_answer(machine: Path) -> None:
    assert "Error 7" in setup(machine, answer="yes")
    assert (machine / "asked").read_text().splitlines()[-1].endswith("install -y --no-install-recommends python3-venv")


@pytest.mark.parametrize(("typed", "installs"), [("n", False), ("", False), ("y", True)])
def test_a_terminal_is_asked(typed: str, installs: bool, machine: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{typed}\n".encode())
        said = setup(machine, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Install python3-venv with apt-get? [y/N]" in said
    assert (machine / "asked").exists() == installs
