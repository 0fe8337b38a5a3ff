"""Kills, interrupts and failing calls of the system leave the input as it was, and the output old, whole or absent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
from faults import CALLS, Scene, at_line, digest, lines, scene

from relaxify import output
from relaxify.checkpoint import CheckpointError

WAYS = [(suffix, force) for suffix in (".pt", ".safetensors") for force in (False, True)]


@pytest.fixture(params=WAYS, ids=str)
def here(request: pytest.FixtureRequest) -> Iterator[Scene]:
    suffix, force = request.param
    with scene(suffix, force=force) as made:
        yield made


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_kill_at_any_line() -> None:
    script = str(Path(faults.__file__))
    result = subprocess.run([sys.executable, script, "320"], capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(result.stdout)
    assert found["problems"] == []
    assert found["kills"] >= 300


def interrupt() -> None:
    raise KeyboardInterrupt


# a file that was opened on the very line is closed by Python, which warns of it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
def test_an_interrupt_at_any_line(named: bool, here: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    if named:
        monkeypatch.setattr(output, "_open_unnamed", lambda folder, mode: None)
    before, total = digest(here.source), lines(here)
    for line in range(1, total, total // 40):
        with pytest.raises(KeyboardInterrupt), at_line(line, interrupt):
            here.convert()
        assert here.problem(before) is None, line
        here.reset()


@pytest.mark.parametrize("name", [name for name in CALLS if hasattr(os, name)])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EPERM])
def test_any_call_of_the_system_failing(name: str, code: int, here: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call once. What is written may be whole all the same, where there is another way."""
    real, before, fails = getattr(os, name), digest(here.source), [0]

    def call(*arguments: Any, **keywords: Any) -> Any:
        fails[0] -= 1
        if fails[0] == 0:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **keywords)

    for failing in range(1, 60):
        fails[0] = failing
        monkeypatch.setattr(os, name, call)
        with contextlib.suppress(CheckpointError):
            here.convert()
        monkeypatch.setattr(os, name, real)
        assert here.problem(before) is None, failing
        here.reset()
        if fails[0] > 0:
            return
    pytest.fail(f"more than 60 calls of {name}")
