"""Small files do not cost much: memory at most the file's size and 300 MB, little time, and refusals are sentences."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_bombs import BOMBS, MIB

FREE, SECONDS = 300 * 10**6, 10.0
CONVERTS = {"a_graph_of_many_ways", "a_wide_rank"}
MEASURE = """
import json, sys, time
from pathlib import Path
from relaxify.checkpoint import CheckpointError, convert

def peak():
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

for path in sorted(Path(sys.argv[1]).iterdir()):
    for suffix in (".pt", ".safetensors"):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is used now
        before, start = peak(), time.process_time()
        try:
            convert(path, Path(sys.argv[2]) / f"out{suffix}", mode="fold", force=True)
            said = ""
        except CheckpointError as error:
            said = str(error)
        print(json.dumps([path.stem, time.process_time() - start, peak() - before, said]), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are told by Linux")
def test_no_small_file_costs_much(tmp_path: Path) -> None:
    for name in ("bombs", "out"):
        (tmp_path / name).mkdir()
    for name, (write, suffix) in BOMBS.items():
        write(tmp_path / "bombs" / f"{name}{suffix}")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "bombs"), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(found) == 2 * len(BOMBS), result.stderr
    for name, seconds, growth, said in found:
        size = next((tmp_path / "bombs").glob(f"{name}.*")).stat().st_size
        assert size < 5 * MIB, name
        assert growth < size + FREE, (name, growth / MIB)
        assert seconds < SECONDS, (name, seconds)
        assert len(said) < 500, name
        assert "\n" not in said, name
        assert bool(said) != (name in CONVERTS) or name == "repeated_entries", name
