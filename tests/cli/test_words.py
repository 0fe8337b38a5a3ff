"""What is printed: names from files cannot drive the terminal, and a reader who has seen enough is no failure."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from relaxed_states import IRREPS, load, relaxed_layer, save

from relaxify.checkpoint import CheckpointError, convert
from relaxify.representations import Block
from relaxify_cli.errors import sentence
from relaxify_cli.main import Output, run

LAYER = relaxed_layer(replace(IRREPS, path="lin"))


def test_names_from_a_file_are_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "\x1b[2J\x07\ud800[red]"
    source = save({odd: LAYER.state("lin."), "opt\x1b": {"state": {}, "param_groups": []}}, tmp_path / "in.pt")
    assert run(["convert", str(source), "-o", str(tmp_path / "out.pt")]) == 0
    assert run(["convert", str(source), "-o", str(tmp_path / "out.pt"), "--max-theta", "0", "--force"]) == 1
    (tmp_path / "bad.safetensors").write_bytes(b"\x1b" * 99)
    assert run(["convert", str(tmp_path / "bad.safetensors"), "-o", str(tmp_path / "\x1b.pt")]) == 2
    shown = capsys.readouterr()
    assert (shown.out + shown.err).replace("\n", "").isprintable()
    assert "\\x1b[2J" in shown.out
    assert "opt\\x1b" in shown.out


def test_a_reader_who_has_seen_enough_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:  # noqa: PTH123
        output = Output(pipe)
        for _ in range(3):
            assert output.write("a line\n" * 9999) == 7 * 9999
            output.flush()
        assert output.encoding == pipe.encoding


@pytest.mark.parametrize("stdout", ["closed", "head"])
def test_the_command_ends_well_without_a_reader(stdout: str) -> None:
    """`relaxify --help` imports little."""
    command = f"{sys.executable} -m relaxify_cli --help"
    line = f"{command} >&-; echo $? >&2" if stdout == "closed" else f"({command}; echo $? >&2) | true"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert result.stderr == "0\n"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_memory_that_there_is_not(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    assert "needs more memory than there is" in sentence(error)
    source = save(LAYER.state("lin."), tmp_path / "in.pt")
    monkeypatch.setattr("relaxify.checkpoint.conversion.plan_states", fail)
    with pytest.raises(CheckpointError, match="needs more memory than there is, so nothing was written"):
        convert(source, tmp_path / "out.pt")


def test_a_read_error_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.FileIO):
        def readinto(self, buffer: object) -> int:
            raise OSError(5, "Input/output error")

    source = save(LAYER.state("lin."), tmp_path / "in.pt")
    monkeypatch.setattr(io, "FileIO", Broken)
    with pytest.raises(CheckpointError, match=r"in\.pt: it cannot be read \(Input/output error\); check the disk, or copy"):
        convert(source, tmp_path / "out.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_irreps_of_no_copies_fold(suffix: str, tmp_path: Path) -> None:
    """As of 0x0e+4x1o."""
    blocks, path = (Block("0e", 0, 1), Block("1o", 2, 3)), IRREPS.paths[0]
    paths = (replace(path, offset=0, block_in=0, block_out=0), replace(path, offset=0, block_in=1, block_out=1))
    record = replace(IRREPS, rep_in=blocks, rep_out=blocks, paths=paths, base_shapes={"weight": (4,), "bias": (0,)})
    layer = relaxed_layer(replace(record, path="lin"))
    convert(save(layer.state("lin."), tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}", mode="fold")
    found = load(tmp_path / f"out{suffix}")["lin.weight"].double()
    torch.testing.assert_close(found, layer.folded()["weight"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("content", [b"", b"x" * 99, b"PK\x03\x04", b"PK\x05\x06" + b"\xff" * 18])
def test_odd_npz_files_are_one_sentence(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.npz").write_bytes(content)
    assert run(["symmetry", str(tmp_path / "in.npz")]) == 2
    assert "is not a .npz file of plain numbers" in capsys.readouterr().err


def test_an_npz_file_that_unpacks_to_far_more_than_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez_compressed(tmp_path / "in.npz", X=np.zeros(2**28, dtype=np.int8), Y=np.zeros(2**20, dtype=np.int8))
    assert run(["symmetry", str(tmp_path / "in.npz")]) == 2
    assert "unpacks to 269,484,288 bytes; save it with numpy.savez" in capsys.readouterr().err


@pytest.mark.parametrize(
    "rows", ["1,a,share", "1,a,share,x", '1,a,share,"' + "9" * 200_000, "\0,\0", "1.5,a,share,1", "\udcff"]
)
def test_odd_logs_are_one_sentence(rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"step,layer,quantity,value\n{rows}\n"
    (tmp_path / "log.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert run(["history", str(tmp_path / "log.csv"), "-o", str(tmp_path / "out.png")]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "is not a log of a Monitor" in shown or "has no 'share'" in shown


def test_pictures_are_never_an_input_and_need_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in.npz", tmp_path / "out.png"
    np.savez(source, X=np.random.default_rng(0).normal(size=(50, 4)))
    before = source.read_bytes()
    target.write_text("precious")
    command = ["symmetry", str(source), "--resamplings", "0", "--pictures"]
    assert run([*command, str(target)]) == 2
    assert run([*command, str(source), "--force"]) == 2
    assert target.read_text() == "precious"
    assert source.read_bytes() == before
    shown = capsys.readouterr().err
    assert "out.png exists; choose another name, or overwrite it with --force." in shown
    assert "which is never overwritten" in shown
    assert run([*command, str(target), "--force"]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_page_is_never_an_input_and_needs_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told before anything is computed; a link that leads nowhere is something that is there."""
    inputs, checkpoint, link = (tmp_path / name for name in ("x.safetensors", "in.pt", "page.html"))
    safetensors.torch.save_file({"0": torch.ones(2, 3)}, inputs)
    save(LAYER.state("lin."), checkpoint)
    link.symlink_to(tmp_path / "nowhere")
    before = inputs.read_bytes(), checkpoint.read_bytes()
    command = ["inspect", "torch.nn:Identity", "-i", str(inputs), "-g", "SO3", "--checkpoint", str(checkpoint)]
    for option in ("--html", "--plot"):
        for path in (inputs, checkpoint):
            assert run([*command, option, str(path), "--force"]) == 2
            assert "which is never overwritten" in capsys.readouterr().err
        assert run([*command, option, str(link)]) == 2
        assert "page.html exists; choose another name, or overwrite it with --force." in capsys.readouterr().err
    assert (inputs.read_bytes(), checkpoint.read_bytes()) == before
