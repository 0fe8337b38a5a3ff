"""Zip files and pickles that torch.save did not write so: read right or refused in a sentence, never as other bytes."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from relaxed_states import assert_same, digest, load, relaxed_layer, save
from torch import nn

from relaxify.checkpoint import CheckpointError, convert

LAYER = relaxed_layer()
STATE = {"big": torch.arange(100_000.0), **LAYER.state("lin.")}
PLAIN = {"big": STATE["big"], **LAYER.plain("lin.")}


def rezipped(source: Path, target: Path, change: Callable[[str, bytes], tuple[bytes, int]]) -> Path:
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as out:
        for name in archive.namelist():
            content, how = change(name, archive.read(name))
            out.writestr(name, content, compress_type=how)
    return target


def refused(source: Path, match: str, suffix: str = ".pt") -> None:
    before = digest(source)
    with pytest.raises(CheckpointError, match=match) as caught:
        convert(source, source.with_name(f"out{suffix}"))
    assert "\n" not in str(caught.value)
    assert digest(source) == before
    assert not source.with_name(f"out{suffix}").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("mode", ["drop", "fold"])
def test_compressed_members_are_read_right(mode: Any, suffix: str, tmp_path: Path) -> None:
    """As `zip` packs what was unpacked."""
    plain = save(STATE, tmp_path / "plain.pt")
    packed = rezipped(plain, tmp_path / "in.pt", lambda name, content: (content, zipfile.ZIP_DEFLATED))
    convert(plain, tmp_path / f"expected{suffix}", mode=mode)
    convert(packed, tmp_path / f"out{suffix}", mode=mode)
    assert_same(load(tmp_path / f"out{suffix}"), load(tmp_path / f"expected{suffix}"))


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("change", [lambda data: data[:20], lambda data: data + b"more", lambda data: b""])
@pytest.mark.parametrize("size", [400_000, 104])
def test_a_member_of_another_size_than_its_storage(
    size: int, change: Callable[[bytes], bytes], how: int, tmp_path: Path
) -> None:
    source = save(STATE, tmp_path / "whole.pt")
    rezipped(source, tmp_path / "in.pt", lambda _, content: (change(content) if len(content) == size else content, how))
    refused(tmp_path / "in.pt", r"the storage '\d' has \d+ bytes and not \d+")


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [400_000, 104], ids=["large", "small"])
def test_a_member_that_does_not_have_its_checksum(size: int, how: int, tmp_path: Path) -> None:
    source = rezipped(save(STATE, tmp_path / "a.pt"), tmp_path / "in.pt", lambda _, content: (content, how))
    with zipfile.ZipFile(source) as archive:
        member = next(entry for entry in archive.infolist() if entry.file_size == size)
    data = bytearray(source.read_bytes())
    data[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 1
    source.write_bytes(data)
    refused(source, "do not match its own checksum, so it is damaged")


def test_checksums_that_torch_did_not_write_are_not_missed(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        source = save(STATE, tmp_path / "in.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    convert(source, tmp_path / "out.pt")
    assert_same(load(tmp_path / "out.pt"), PLAIN)
    with zipfile.ZipFile(tmp_path / "out.pt") as archive:
        assert archive.testzip() is None


def test_what_is_written_is_a_zip_file_that_torch_maps(tmp_path: Path) -> None:
    convert(save(STATE, tmp_path / "in.pt"), tmp_path / "out.pt")
    with zipfile.ZipFile(tmp_path / "out.pt") as archive:
        assert archive.testzip() is None
    assert_same(torch.load(tmp_path / "out.pt", weights_only=True, mmap=True), PLAIN)


def moved(data: bytearray, directory: int, name: bytes, field: int, value: int) -> None:
    """Write a field of 4 bytes of a member's entry in the directory."""
    entry = data.index(name, directory) - 46
    struct.pack_into("<I", data, entry + field, value)


@pytest.mark.parametrize(("field", "value"), [(42, 0), (42, 10), (42, 2**31), (20, 2**31), (24, 2**31), (24, 1), (20, 1)])
def test_a_directory_that_does_not_agree_with_the_members(field: int, value: int, tmp_path: Path) -> None:
    source = save(STATE, tmp_path / "in.pt")
    with zipfile.ZipFile(source) as archive:
        directory = archive.start_dir
    data = bytearray(source.read_bytes())
    moved(data, directory, b"in/data/1", field, value)
    source.write_bytes(data)
    refused(source, "is not a complete torch checkpoint")


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_has_another_name_than_in_the_directory(how: int, tmp_path: Path) -> None:
    source = rezipped(save(STATE, tmp_path / "a.pt"), tmp_path / "in.pt", lambda _, content: (content, how))
    data = bytearray(source.read_bytes())
    at = data.index(b"a/data/1")
    data[at : at + 8] = b"a/data/2"
    source.write_bytes(data)
    refused(source, "'a/data/1' is not where the directory says")


def test_two_members_of_one_name(tmp_path: Path) -> None:
    source = save(STATE, tmp_path / "in.pt")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(source, "a") as archive:
        archive.writestr("in/data/0", b"x" * 400_000)
    refused(source, "two members are called 'data/0'")


def test_an_archive_in_several_parts(tmp_path: Path) -> None:
    source = save(STATE, tmp_path / "in.pt")
    data = bytearray(source.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\x06\x07") + 16, 2)
    source.write_bytes(data)
    refused(source, "is not a complete torch checkpoint")


def with_pickle(folder: Path, content: bytes) -> Path:
    source = save(STATE, folder / "plain.pt")
    return rezipped(
        source, folder / "in.pt", lambda name, data: (content if name.endswith("data.pkl") else data, zipfile.ZIP_STORED)
    )


@pytest.mark.parametrize(("old", "new"), [
    (b"J\xa0\x86\x01\x00\x85", b"J\xa1\x86\x01\x00\x85"),  # a shape of one more
    (b"QK\x00J\xa0\x86\x01\x00", b"QK\x01J\xa0\x86\x01\x00"),  # an offset
    (b"QK\x00J\xa0\x86\x01\x00", b"QK\x00J\xa0\x86\x01\xff"),  # a negative shape
    (b"FloatStorage", b"HalfStorage\n"),
    (b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"),
])  # fmt: skip
def test_a_tensor_that_does_not_fit_its_storage(old: bytes, new: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(save(STATE, tmp_path / "plain.pt")) as archive:
        content = archive.read("plain/data.pkl")
    assert content.count(old)
    refused(with_pickle(tmp_path, content.replace(old, new, 1)), "in.pt: ")


@pytest.mark.parametrize("content", [
    b"", b".", b"\x80\x02.", b"\x80\x02}", b"\x80\x02(.", b"\x80\x02h\x05.", b"\x80\x02tu.", b"\x80\x02\xff.",
    b"\x80\x02X\xff\xff\xff\x7fa.", b"\x80\x02K\x01K\x02s.", b"\x80\x02]K\x01e.", b"\x80\x02cos\nsystem\n.",
    b"\x80\x02}Q.", b"\x80\x02K\x01K\x02R.", b"\x80\x02}}b.", b"\x80\x02\x8b\xff\xff\xff\x7f.", b"\x80\x02(K\x01d.",
    b"\x80\x02]]Ns.", b"\x80\x02}]Ns.", b"c", b"\x80\x02cos.", b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
])  # fmt: skip
def test_a_pickle_that_no_checkpoint_has(content: bytes, tmp_path: Path) -> None:
    refused(with_pickle(tmp_path, content), "is not a complete torch checkpoint|holds no relaxify records|would run code")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_protocol_of_pickle(protocol: int, legacy: bool, tmp_path: Path) -> None:
    values = {"ints": (0, -1, 255, 256, 2**31, -(2**31), 2**63, -(2**70)), "floats": [0.5, float("inf")], 7: b"\xff",
              "set": {"a", 1}, "text": "é\ud800\0", ("a", 1): None, "flags": (True, False), "empty": ((), [], {}),
              b"k": ""}  # fmt: skip
    content = {"model": STATE, "values": values, "size": torch.Size([2, 3]), "dtype": torch.bfloat16}
    torch.save(content, tmp_path / "in.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    convert(tmp_path / "in.pt", tmp_path / "out.pt")
    found = load(tmp_path / "out.pt")
    assert found["values"] == values
    assert (found["size"], found["dtype"]) == (torch.Size([2, 3]), torch.bfloat16)
    assert type(found["values"]["flags"][0]) is bool
    assert_same(found["model"], PLAIN)


@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:Sparse", "ignore:TypedStorage")
def test_tensors_of_every_kind_are_carried_over(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    others = {"sparse": torch.eye(3).to_sparse(), "csr": torch.eye(3).to_sparse_csr(), "quantised": quantised,
              "parameter": nn.Parameter(torch.ones(2)), "uint16": torch.ones(3, dtype=torch.uint16),
              "complex": torch.ones(2, dtype=torch.complex128), "meta": torch.ones(2, device="meta"),
              "conjugate": torch.tensor([1 + 2j]).conj(), "negative": torch.tensor([1 + 2j]).conj().imag,
              "empty": torch.ones(0, 3), "turned": torch.arange(6.0).view(2, 3).mT,
              "part": torch.arange(9.0)[2:5]}  # fmt: skip
    convert(save({**STATE, **others}, tmp_path / "in.pt"), tmp_path / "out.pt")
    found = load(tmp_path / "out.pt")
    for key, value in others.items():
        assert (type(found[key]), found[key].dtype, found[key].layout) == (type(value), value.dtype, value.layout)
        same = value.is_meta or torch.equal(_plain(found[key]), _plain(value))
        assert same, key


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().dequantize() if tensor.is_quantized else tensor.detach().to_dense()
    return tensor.to(torch.int64) if tensor.dtype == torch.uint16 else tensor


@pytest.mark.parametrize("legacy", [False, True])
def test_cutting_a_file_anywhere(legacy: bool, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(LAYER.state("lin."), buffer, _use_new_zipfile_serialization=not legacy)
    data, source = buffer.getvalue(), tmp_path / "in.pt"
    for end in range(1, len(data), 97):
        source.write_bytes(data[:end])
        refused(source, "is not a complete torch checkpoint|ends before byte")


def test_a_plain_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(pickle.dumps({"a": [1, 2]}))
    refused(tmp_path / "in.bin", "begins with no torch checkpoint")


KEYS: dict[str, Any] = {
    "metadata": "__metadata__", "integer": 3, "bytes": b"raw", "tuple": ("a", 0), "surrogate": "a\ud800", "none": None,
    "empty": "", "nul": "a\0b", "quote": 'a"\\', "escape": "\x1b[2J",
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_odd_keys_are_kept_by_torch_and_kept_or_refused_by_safetensors(key: Any, tmp_path: Path) -> None:
    source = save({key: torch.ones(2), "3": torch.zeros(2), **LAYER.state("lin.")}, tmp_path / "in.pt")
    convert(source, tmp_path / "out.pt")
    assert list(load(tmp_path / "out.pt")) == [key, "3", "lin.weight", "lin.bias"]
    assert torch.equal(load(tmp_path / "out.pt")[key], torch.ones(2))
    target = tmp_path / "out.safetensors"
    if isinstance(key, str) and key not in ("__metadata__", "a\ud800"):
        convert(source, target)
        assert set(safetensors.torch.load_file(target)) == {key, "3", "lin.weight", "lin.bias"}
        convert(save({**load(target), **LAYER.state("lin.")}, tmp_path / "in.safetensors"), tmp_path / "again.safetensors")
        assert set(load(tmp_path / "again.safetensors")) == set(load(target))
    else:
        with pytest.raises(CheckpointError, match=r"write a \.pt\.$"):
            convert(source, target)
        assert not target.exists()
