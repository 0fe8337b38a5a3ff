"""Converting while everything goes wrong: a kill or an interrupt at any line, and any call of the system failing.

Each leaves the input as it was, and the output old, whole or absent. tests/checkpoint/test_faults.py runs some of each;

    PYTHONPATH=tests .venv/bin/python -m faults 3000

kills at that many lines. The process is forked for each, with nothing but the conversion left to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from relaxed_states import digest, relaxed_layer, save

from relaxify import output
from relaxify.checkpoint import convert

ORPHAN = re.compile(r"\.relaxify-[0-9a-f]{16}\.\w+")
CALLS = ("open", "fsync", "link", "replace", "unlink", "pwrite", "preadv", "fstat", "stat", "lseek")
OLD = b"the old output"


@dataclass(frozen=True)
class Scene:
    """A folder with an input and perhaps an old output, and what the output must become."""

    folder: Path
    suffix: str
    force: bool
    expected: str

    @property
    def source(self) -> Path:
        return self.folder / f"in{self.suffix}"

    @property
    def target(self) -> Path:
        return self.folder / f"out{self.suffix}"

    def reset(self) -> None:
        for path in self.folder.iterdir():
            if path != self.source:
                path.unlink()
        if self.force:
            self.target.write_bytes(OLD)

    def convert(self) -> None:
        convert(self.source, self.target, mode="fold", force=self.force)

    def problem(self, before: str) -> str | None:
        """What is wrong with the folder, if anything."""
        others = [path.name for path in self.folder.iterdir() if path not in (self.source, self.target)]
        if digest(self.source) != before:
            return "the input changed"
        if any(not ORPHAN.fullmatch(name) for name in others):
            return f"left behind: {others}"
        if not self.target.exists():
            return "the old output is lost" if self.force else None
        old = self.force and self.target.read_bytes() == OLD
        return None if old or digest(self.target) == self.expected else "the output is neither old nor whole"


@contextlib.contextmanager
def scene(suffix: str, *, force: bool) -> Iterator[Scene]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save({"big": torch.arange(150_000.0), **relaxed_layer().state("lin.")}, folder / f"in{suffix}")
        convert(folder / f"in{suffix}", folder / f"out{suffix}", mode="fold")
        made = Scene(folder, suffix, force, digest(folder / f"out{suffix}"))
        made.reset()
        yield made


@contextlib.contextmanager
def at_line(number: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """Do something at the so-manieth line of the engine that runs in this block; yields how many ran."""
    ran = [0]

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if f"{os.sep}relaxify{os.sep}" not in frame.f_code.co_filename:
            return None
        if event == "line":
            ran[0] += 1
            if ran[0] == number:
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield ran
    finally:
        sys.settrace(before)


def lines(of: Scene) -> int:
    """How many lines a conversion runs."""
    with at_line(0, lambda: None) as ran:
        of.convert()
    of.reset()
    return ran[0]


def kill(of: Scene, line: int) -> int:
    """Convert in a process that kills itself at a line; its wait status."""
    child = os.fork()
    if child == 0:
        with at_line(line, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            of.convert()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def kills(count: int) -> dict[str, Any]:
    """Kill at about so many lines in all; how many kills there were, and what was wrong after any."""
    found: dict[str, Any] = {"kills": 0, "orphans": 0, "problems": []}
    ways = [
        (suffix, force, named) for suffix in (".pt", ".safetensors") for force in (False, True) for named in (False, True)
    ]
    unnamed = output._open_unnamed
    for suffix, force, named in ways:
        output._open_unnamed = (lambda folder, mode: None) if named else unnamed
        with scene(suffix, force=force) as here:
            before, total = digest(here.source), lines(here)
            for line in range(1, total + 1, max(1, total * len(ways) // count)):
                found["kills"] += os.WIFSIGNALED(kill(here, line))
                found["orphans"] += any(path.name.startswith(".") for path in here.folder.iterdir())
                if (problem := here.problem(before)) is not None:
                    found["problems"].append((suffix, force, named, line, problem))
                here.reset()
    output._open_unnamed = unnamed
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(kills(int(sys.argv[1]))) + "\n")
