"""What `convert` takes: its rate beside that of cp and fsync, the memory it needs, and how long many keys take.

Copies and conversions are made in turn, on one disk, of one file that is in the system's cache; a ratio is of one round.
Each runs in a process of its own, whose anonymous memory (what is no file's) is looked at a hundred times a second.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from relaxify import RelaxConfig, relaxify, set_theta

MIB = 2**20
RESULTS = Path(__file__).parent / "results" / "converting.json"
MEASURE = """
import json, os, sys, threading, time
from pathlib import Path
from relaxify.checkpoint import convert
import relaxify.checkpoint.torch_file, torch

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

before, highest, ended = anonymous(), 0, threading.Event()

def watch():
    global highest
    while not ended.wait(0.01):
        highest = max(highest, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
convert(sys.argv[1], sys.argv[2], mode=sys.argv[3], force=True)
seconds = time.perf_counter() - start
ended.set()
watcher.join()
print(json.dumps({"seconds": seconds, "before": before, "highest": highest}))
"""
COPY = "import sys, os, subprocess, time; start = time.perf_counter(); "
COPY += "subprocess.run(['cp', '--reflink=never', *sys.argv[1:3]], check=True); "
COPY += "os.fsync(os.open(sys.argv[2], os.O_RDONLY)); print(time.perf_counter() - start)"


@dataclass(frozen=True)
class Case:
    """A conversion from one kind of file to another; `sharded` says that the source is in several files."""

    source: str
    target: str

    @property
    def name(self) -> str:
        return f"{self.source} to {self.target}"


CASES = [
    Case("in.pt", "out.pt"),
    Case("in.safetensors", "out.safetensors"),
    Case("in.pt", "out.safetensors"),
    Case("in.safetensors", "out.pt"),
    Case("in.safetensors.index.json", "out.safetensors"),
]


def relaxed_state() -> dict[str, Tensor]:
    """A small relaxed model's, so that there is something to convert."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False))
    relaxify(model, "SO(3)", example_inputs=torch.randn(16, 3, 4), config=RelaxConfig(rank=2))
    set_theta(model, 0.5)
    return dict(model.state_dict())


def large_state(size: int) -> dict[str, Tensor]:
    """Tensors of 64 MiB, together of that many bytes."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(16 * MIB, generator=generator)
    return {**{f"large.{i}": block.roll(i) for i in range(size // (64 * MIB))}, **relaxed_state()}


def write(folder: Path, source: str, state: dict[str, Tensor]) -> list[Path]:
    """The source of a case, in the format that its name says, and the files that hold its bytes."""
    path = folder / source
    if source.endswith(".pt"):
        torch.save(state, path)
    elif source.endswith(".safetensors"):
        safetensors.torch.save_file(state, path)
    else:
        return _shards(folder, path, state)
    return [path]


def _shards(folder: Path, index: Path, state: dict[str, Tensor]) -> list[Path]:
    keys, places, parts = list(state), {}, []
    for number in range(4):
        part = folder / f"in-{number + 1:05}-of-00004.safetensors"
        safetensors.torch.save_file({key: state[key] for key in keys[number::4]}, part)
        places |= dict.fromkeys(keys[number::4], part.name)
        parts.append(part)
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return parts


def converted(source: Path, target: Path, mode: str = "drop") -> dict[str, float]:
    """Seconds and bytes of one conversion, in a process of its own."""
    command = [sys.executable, "-c", MEASURE, str(source), str(target), mode]
    measured: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    target.unlink()
    return measured


def copied(files: list[Path], target: Path) -> float:
    """Seconds of cp and fsync."""
    total = 0.0
    for file in files:
        command = [sys.executable, "-c", COPY, str(file), str(target)]
        total += float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        target.unlink()
    return total


def rates(folder: Path, case: Case, size: int, rounds: int) -> dict[str, Any]:
    """How fast, relative to cp and fsync; and the anonymous memory that it takes on top of what importing took."""
    files = write(folder, case.source, large_state(size))
    ratios, rows = [], []
    for round_ in range(rounds + 1):
        copy, row = copied(files, folder / "copy"), converted(folder / case.source, folder / case.target)
        if round_:
            ratios.append(copy / row["seconds"])
            rows.append((copy, row))
    for path in (folder / case.source, *files):
        path.unlink(missing_ok=True)
    return {
        "case": case.name,
        "GB": size / 1e9,
        "cp + fsync, MB/s": size / 1e6 / statistics.median(copy for copy, _ in rows),
        "convert, MB/s": size / 1e6 / statistics.median(row["seconds"] for _, row in rows),
        "convert / cp": statistics.median(ratios),
        "anonymous MiB": max(row["highest"] for _, row in rows) / MIB,
        "of which imports": min(row["before"] for _, row in rows) / MIB,
    }


def many_keys(folder: Path, keys: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Seconds for a checkpoint of so many small tensors, and relative to torch.save and load of it."""
    state = {f"layers.{i}.weight": torch.ones(4) for i in range(keys)} | relaxed_state()
    for source in ("in.pt", "in.safetensors"):
        write(folder, source, state)
        rows = [converted(folder / source, folder / f"out{Path(source).suffix}") for _ in range(rounds)]
        seconds = statistics.median(row["seconds"] for row in rows)
        yield {
            "case": f"{source}, {keys:,} keys",
            "seconds": seconds,
            "anonymous MiB": max(r["highest"] for r in rows) / MIB,
        }
        (folder / source).unlink()


def measured(folder: Path | None, size: int, rounds: int, only: str) -> Iterator[dict[str, Any]]:
    """Every case, in a temporary folder in `folder`, whose disk is the one that is measured."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for case in CASES:
            if only.lower() in case.name.lower():
                yield rates(Path(name), case, size, rounds)
        if only.lower() in "keys":
            yield from many_keys(Path(name), 100_000, rounds)


def save(rows: list[dict[str, Any]], machine: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
