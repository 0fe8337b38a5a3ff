"""The one writer of files: whole or not at all, never over an input, no less private than its sources, without orphans."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from relaxify import output
from relaxify.output import TargetExistsError, check_target, replacing, write_whole
from relaxify.record import CheckpointError


@pytest.fixture(params=["unnamed", "named"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With O_TMPFILE, and as on systems that do not have it."""
    if request.param == "named":
        monkeypatch.setattr(output, "_open_unnamed", lambda folder, mode: None)
    return request.param


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("force", [False, True])
def test_it_appears_whole_and_alone(force: bool, tmp_path: Path) -> None:
    with replacing(tmp_path / "out.txt", force=force) as new:
        new.file.write(b"half")
        assert not (tmp_path / "out.txt").exists()
        new.file.write(b" and half")
    assert (tmp_path / "out.txt").read_bytes() == b"half and half"
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_what_stops_it_leaves_all_as_it_was(error: BaseException, force: bool, tmp_path: Path) -> None:
    if force:
        (tmp_path / "out.txt").write_text("precious")
    before = names(tmp_path)

    def write() -> None:
        with replacing(tmp_path / "out.txt", force=force) as new:
            new.named()
            raise error

    with pytest.raises((KeyboardInterrupt, OSError)):
        write()
    assert names(tmp_path) == before
    assert not force or (tmp_path / "out.txt").read_text() == "precious"


def test_what_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"

    def write() -> None:
        with replacing(target, force=False):
            target.write_text("theirs")

    with pytest.raises(TargetExistsError):
        write()
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["out.txt"]


def test_a_dangling_link_is_kept_or_replaced_itself(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(TargetExistsError):
        write_whole(target, b"ours", force=False)
    write_whole(target, b"ours", force=True)
    assert not target.is_symlink()
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_an_input_is_never_a_target(link: object, tmp_path: Path) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("precious")
    link(target, source)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=r"is the input .* itself, which is never overwritten"):
        write_whole(target, b"ours", inputs=(tmp_path / "other", source), force=True)
    assert source.read_text() == "precious"


@pytest.mark.parametrize(("of_input", "of_target", "wanted"), [
    (0o600, None, 0o600), (0o644, None, 0o644), (0o640, None, 0o640), (0o444, None, 0o644), (0o644, 0o600, 0o600),
    (0o600, 0o644, 0o600), (0o755, None, 0o644),
])  # fmt: skip
def test_a_new_file_is_no_more_open_than_its_source_or_what_was_there(
    of_input: int, of_target: int | None, wanted: int, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    for path, bits in ((source, of_input), (target, of_target)):
        if bits is not None:
            path.touch()
            path.chmod(bits)
    before = os.umask(0o022)
    try:
        write_whole(target, b"ours", inputs=(source,), force=True)
    finally:
        os.umask(before)
    assert mode(target) == wanted


def test_the_umask_counts(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_whole(tmp_path / "out.txt", b"ours", force=False)
    finally:
        os.umask(before)
    assert mode(tmp_path / "out.txt") == 0o600


def test_orphans_go_and_files_of_writers_at_work_stay(tmp_path: Path) -> None:
    orphan = tmp_path / ".relaxify-0123456789abcdef.txt"
    strangers = [tmp_path / name for name in (".relaxify-notes", "relaxify-0123456789abcdef.txt", ".relaxify-0123")]
    for path in (orphan, *strangers):
        path.write_text("left by a kill")
    with replacing(tmp_path / "a.txt", force=False) as new:
        at_work = new.named()
        write_whole(tmp_path / "b.txt", b"ours", force=False)
        assert at_work.exists()
        assert not orphan.exists()
    assert names(tmp_path) == sorted(["a.txt", "b.txt", *(path.name for path in strangers)])


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with replacing(tmp_path / "out.txt", force=False) as new:
        new.named()
    assert names(tmp_path) == ["out.txt"]
    (tmp_path / "out.txt").write_text("precious")
    with pytest.raises(TargetExistsError):
        write_whole(tmp_path / "out.txt", b"", force=False)


@pytest.mark.parametrize(("name", "match"), [("folder", "is a folder"), ("nowhere/out.txt", "its folder does not exist")])
def test_where_no_file_can_be(name: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=match):
        check_target(tmp_path / name, force=True)


KILLED = """
import importlib.util, os, signal, sys, types
from pathlib import Path
# without the rest of the package, and torch, which would take seconds to import
sys.modules["relaxify.record"] = types.SimpleNamespace(CheckpointError=ValueError)
spec = importlib.util.spec_from_file_location("output", sys.argv[3])
output = importlib.util.module_from_spec(spec)
spec.loader.exec_module(output)
if sys.argv[2] == "named":
    output._open_unnamed = lambda folder, mode: None
with output.replacing(Path(sys.argv[1]) / "out.txt", force=True) as new:
    new.file.write(b"half")
    new.file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_kill_leaves_the_next_writer_removes(way: str, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), way, output.__file__], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == (way == "named")
    write_whole(tmp_path / "out.txt", b"whole", force=False)
    assert names(tmp_path) == ["out.txt"]
