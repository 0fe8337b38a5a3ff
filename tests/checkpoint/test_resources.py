"""Full disks, bounded memory, read-only inputs."""

from __future__ import annotations

import contextlib
import mmap
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from relaxed_states import digest, load, relaxed_layer, save

from relaxify.checkpoint import convert
from relaxify.record import CheckpointError

MIB = 1024**2
FORMATS = pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
MEASURE = """
import resource, sys
from pathlib import Path
import safetensors.torch
import torch
from relaxify.checkpoint import convert

def peak():
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's peak may be that of the process which started this one
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

source, target = sys.argv[1:]
ballast = torch.ones(64 * 1024**2)  # what importing took and gave back would hide as much growth
peaks = [peak()]
for mode in ("drop", "fold"):
    convert(source, target, mode=mode, force=True)
    peaks.append(peak())
tensors = {key: value.clone() for key, value in safetensors.torch.load_file(target).items()}
print(*peaks, peak())
"""


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@FORMATS
@pytest.mark.parametrize("left", [0, 500, 2_000_000, 3_999_000, 4_000_300])
def test_a_full_disk(suffix: str, left: int, tmp_path: Path) -> None:
    state = {"big": torch.ones(1_000_000), **relaxed_layer().state("lin.")}
    source, target = save(state, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    before = digest(source)
    with pytest.raises(CheckpointError) as caught, no_file_larger_than(left):
        convert(source, target)
    assert str(caught.value) == (
        f"{source} could not be converted to {target}: File too large; nothing was written: free some space, or choose "
        f"another folder."
    )
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    assert digest(source) == before


def test_no_more_than_one_tensor_is_in_memory(tmp_path: Path) -> None:
    """Of a file of 256 MiB in tensors of 16 MiB, converting holds less than two of them; loading it holds them all."""
    state = {f"tensor{i}": torch.full((4 * MIB,), float(i)) for i in range(16)}
    source = save({**state, **relaxed_layer().state("lin.")}, tmp_path / "in.safetensors")
    command = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "out.safetensors")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    before, dropped, folded, loaded = map(int, result.stdout.split())
    assert dropped - before < 32 * MIB
    assert folded - before < 32 * MIB
    assert loaded - before > 200 * MIB
    found = load(tmp_path / "out.safetensors")
    assert all(torch.equal(found[key], value) for key, value in state.items())


@FORMATS
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


def test_a_shared_mapping_asked_for_elsewhere_is_not_used(tmp_path: Path) -> None:
    """Some programs have torch map checkpoints for writing; folding would then change the input."""
    source = save(relaxed_layer().state("lin."), tmp_path / "in.pt")
    before = digest(source)
    torch.serialization.set_default_mmap_options(mmap.MAP_SHARED)
    try:
        convert(source, tmp_path / "out.pt", mode="fold")
    finally:
        torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE)
    assert digest(source) == before
