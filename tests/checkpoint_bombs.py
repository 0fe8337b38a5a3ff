"""Small files made to cost much: each as what writes it to a folder."""

from __future__ import annotations

import itertools
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from relaxed_states import IRREPS, relaxed_layer
from torch import Tensor

from relaxify.record import Record

LAYER = relaxed_layer()
MIB = 2**20


def archive(path: Path, pickle: bytes, how: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a/data.pkl", pickle, compress_type=how)
        for name, content in members.items():
            out.writestr(f"a/data/{name.removeprefix('_')}", content, compress_type=how)


def document(record: Record = IRREPS, **changes: Any) -> Tensor:
    found = json.loads(bytes(record.encode().numpy())) | changes
    return torch.frombuffer(bytearray(json.dumps(found, separators=(",", ":")).encode()), dtype=torch.uint8)


def with_record(path: Path, record: Tensor) -> None:
    torch.save({**LAYER.state("lin."), "lin.relaxation._extra_state": record}, path)


def many_axes(path: Path) -> None:
    with_record(path, document(base_shapes={"weight": [2**40] * 250_000, "bias": [4]}))


def deep_record(path: Path) -> None:
    with_record(path, torch.frombuffer(bytearray(b"[" * 3_000_000), dtype=torch.uint8))


def many_taps(path: Path) -> None:
    shapes = {"weight": [1, 1, 300_000], "bias": [4]}
    with_record(path, document(base_shapes=shapes, paths=[], symmetriser=[[0] * 300_000]))


def deep_pickle(path: Path) -> None:
    archive(path, b"\x80\x02" + b"]" * 80_000 + b"a" * 79_999 + b".")


def deep_tuples(path: Path) -> None:
    archive(path, b"\x80\x02N" + b"\x85" * 80_000 + b".")


def many_lists(path: Path) -> None:
    archive(path, b"\x80\x02(" + b"]" * 3_500_000 + b"t.")


def a_far_memo(path: Path) -> None:
    archive(path, b"\x80\x02]r\xff\xff\xff\xff.")


def a_key_that_is_never_hashed(path: Path) -> None:
    archive(path, b"\x80\x02}N" + b"2\x86".replace(b"2", b"q\x00h\x00") * 60 + b"Ns.")


def a_graph_of_many_ways(path: Path) -> None:
    """Every way through it would take for ever; it is walked once, and converts."""
    graph: Any = {"model": LAYER.state("lin.")}
    for _ in range(60):
        graph = {"a": graph, "b": graph, "c": [graph, graph]}
    torch.save(graph, path)


def one_record_many_times(path: Path) -> None:
    text = torch.cat([torch.full((3 * MIB,), ord(" "), dtype=torch.uint8), IRREPS.encode()])
    views = {f"l{i}.relaxation._extra_state": text[i:] for i in range(3000)}
    torch.save({**LAYER.state("lin."), **views}, path)


def one_weight_many_times(path: Path) -> None:
    n = 500
    block = replace(IRREPS.rep_in[0], multiplicity=n)
    record = replace(IRREPS, rep_in=(block,), rep_out=(block,), paths=(), base_shapes={})
    weight, theta, text = torch.ones(n, n), torch.tensor(1.0), record.encode()
    keys = itertools.chain.from_iterable(
        {f"l{i}.relaxation.weight": weight, f"l{i}.relaxation.theta": theta, f"l{i}.relaxation._extra_state": text}.items()
        for i in range(3000)
    )
    torch.save(dict(keys), path)


def low_rank(path: Path, up: tuple[int, int], down: tuple[int, int]) -> None:
    into, out = (replace(IRREPS.rep_in[0], multiplicity=n) for n in (down[1], up[0]))
    record = replace(IRREPS, rep_in=(into,), rep_out=(out,), weight_keys=("up", "down"), paths=(), base_shapes={})
    term = {"relaxation.up": torch.ones(up), "relaxation.down": torch.ones(down), "relaxation.theta": torch.tensor(1.0)}
    torch.save({**term, "relaxation._extra_state": record.encode()}, path)


def a_wide_rank(path: Path) -> None:
    low_rank(path, (2, 200_000), (200_000, 2))


def repeated_entries(path: Path) -> None:
    torch.save({**LAYER.state("lin."), "mask": torch.zeros(1).expand(2**28)}, path)


def packed_pickle(path: Path) -> None:
    archive(path, b"\x80\x02" + b"]" * (300 * MIB) + b".", zipfile.ZIP_DEFLATED)


def packed_storage(path: Path) -> None:
    plain = path.with_name("plain.pt")
    torch.save({**LAYER.state("lin."), "big": torch.zeros(300 * MIB // 4)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name in source.namelist():
            out.writestr(name, source.read(name))
    plain.unlink()


def header(path: Path, text: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def many_objects(path: Path) -> None:
    header(path, b'{"a":[' + b"{}," * 1_000_000 + b"{}]}")


def deep_header(path: Path) -> None:
    header(path, b"[" * 3_000_000)


def a_long_number(path: Path) -> None:
    header(path, b'{"a":{"dtype":"F32","shape":[' + b"9" * 3_000_000 + b'],"data_offsets":[0,0]}}')


def many_sizes(path: Path) -> None:
    header(path, b'{"a":{"dtype":"F32","shape":[' + b"999999999," * 300_000 + b'9],"data_offsets":[0,0]}}')


BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    function.__name__: (function, suffix)
    for suffix, functions in {
        ".pt": (
            many_axes, deep_record, many_taps, deep_pickle, deep_tuples, many_lists, a_far_memo, a_key_that_is_never_hashed,
            a_graph_of_many_ways, one_record_many_times, one_weight_many_times, a_wide_rank, repeated_entries, packed_pickle,
            packed_storage,
        ),
        ".safetensors": (many_objects, deep_header, a_long_number, many_sizes),
    }.items()
    for function in functions
}  # fmt: skip
