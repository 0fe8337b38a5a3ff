"""Full disks, little memory, read-only inputs: measured in processes of their own, with limits set by the kernel."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from relaxed_states import IRREPS, Relaxed, digest, load, relaxed_layer, save

from relaxify.checkpoint import convert
from relaxify.checkpoint.safetensors_file import CHUNK

MIB = 1024**2
LIMITED = """
import json, resource, sys, warnings
from relaxify.checkpoint import convert
kind, amount, source, target, mode = sys.argv[1:]
limit = int(amount)
if kind == "memory":  # anonymous and private memory; a file that is only mapped to be read does not count
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(status["VmData"].split()[0]) + limit,) * 2)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    convert(source, target, mode=mode)
    print(json.dumps("done"))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def convert_limited(kind: str, amount: int, source: Path, target: Path, mode: str = "drop") -> object:
    command = [sys.executable, "-c", LIMITED, kind, str(amount), str(source), str(target), mode]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("left", [0, 500, 2_000_000])
def test_a_full_disk(suffix: str, left: int, tmp_path: Path) -> None:
    state = {"big": torch.ones(1_000_000), **relaxed_layer().state("lin.")}
    source, target = save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    before = digest(source)
    kind, message = convert_limited("disk", left, source, target)  # type: ignore[misc]
    assert kind == "CheckpointError"
    assert str(source) in message
    assert str(target) in message
    assert "File too large; nothing was written: free some space" in message
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    assert digest(source) == before


@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_no_more_than_one_tensor_is_in_memory(mode: str, tmp_path: Path) -> None:
    """A file eight times as large as the memory allowed beyond what the process had before."""
    state = {f"tensor{i}": torch.full((4 * MIB,), float(i)) for i in range(16)}
    source = save({**state, **relaxed_layer().state("lin.")}, tmp_path / "in.safetensors")
    assert source.stat().st_size > 8 * 32 * MIB
    assert CHUNK < 32 * MIB
    assert convert_limited("memory", 32 * MIB, source, tmp_path / "out.safetensors", mode) == "done"
    found = load(tmp_path / "out.safetensors")
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_the_memory_limit_is_felt(tmp_path: Path) -> None:
    """The measurement above can fail: to fold into one tensor larger than the limit is more than it allows."""
    base = {**relaxed_layer().base, "bias": torch.ones(4), "weight": torch.ones(26)}
    layer = Relaxed(IRREPS, base, relaxed_layer().term)
    source = save({"big": torch.ones(16 * MIB), **layer.state("lin.")}, tmp_path / "in.safetensors")
    kind, message = convert_limited("memory", 32 * MIB, source, tmp_path / "out.pt")  # type: ignore[misc]
    assert kind == "CheckpointError"
    assert "could not be converted" in message
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_read_only_input_and_its_folder_are_enough(suffix: str, tmp_path: Path) -> None:
    """Folding in memory never reaches the file, which is mapped."""
    (tmp_path / "data").mkdir()
    layer = relaxed_layer()
    source = save(layer.state("lin."), tmp_path / "data" / f"in{suffix}")
    before = digest(source)
    source.chmod(0o444)
    source.parent.chmod(0o555)
    try:
        convert(source, tmp_path / f"out{suffix}", mode="fold")
    finally:
        source.parent.chmod(0o755)
    assert digest(source) == before
    assert not torch.equal(load(tmp_path / f"out{suffix}")["lin.weight"], layer.base["weight"])


def test_the_output_is_readable_as_any_new_file_is(tmp_path: Path) -> None:
    convert(save(relaxed_layer().state(), tmp_path / "in.pt"), tmp_path / "out.pt")
    (tmp_path / "new").touch()
    assert stat.S_IMODE((tmp_path / "out.pt").stat().st_mode) == stat.S_IMODE((tmp_path / "new").stat().st_mode)
