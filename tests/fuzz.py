"""Damaged headers, records, archives, pickles, arrays and logs: each is used right or refused in one sentence, and soon.

tests/checkpoint/test_fuzz.py draws a few of each; `make fuzz` draws for a minute, or for SECONDS:

    PYTHONPATH=tests .venv/bin/python -m fuzz 60
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relaxed_states import IRREPS, relaxed_layer

from relaxify.checkpoint import compare, contents, convert
from relaxify.record import Record
from relaxify_cli.errors import sentence
from relaxify_cli.plots import history
from relaxify_cli.samples import Choice, read_samples

LAYER = relaxed_layer(replace(IRREPS, path="lin"))
STATE = LAYER.state("lin.")
SLOW = 5.0


def _bytes_of(save: Callable[[Any], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def _deflated(data: bytes) -> bytes:
    def write(buffer: Any) -> None:
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
            for name in source.namelist():
                out.writestr(name, source.read(name))

    return _bytes_of(write)


NESTED = {"model": STATE, "epoch": 3, "list": [torch.ones(2), (1, None)], "optimizer": {"state": {}, "param_groups": []}}
TORCH = _bytes_of(lambda buffer: torch.save(NESTED, buffer))
LEGACY = _bytes_of(lambda buffer: torch.save(NESTED, buffer, _use_new_zipfile_serialization=False))
SAFETENSORS = safetensors.torch.save(STATE, metadata={"a": "b"})
ARRAYS = _bytes_of(lambda buffer: np.savez(buffer, X=np.ones((4, 3)), Y=np.zeros(4)))
ARRAY = _bytes_of(lambda buffer: np.save(buffer, np.ones((4, 3))))
LOG = b"step,layer,quantity,value\n" + b"".join(b"%d,lin,share,0.5\n" % step for step in range(9))
with zipfile.ZipFile(io.BytesIO(TORCH)) as _archive:
    PICKLE = _archive.read("archive/data.pkl")
with tempfile.TemporaryDirectory() as _folder, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    dcp.save({"model": STATE, "list": [1, torch.ones(2)]}, checkpoint_id=_folder, no_dist=True)
    METADATA, PARTS = ((Path(_folder) / name).read_bytes() for name in (".metadata", "__0_0.distcp"))


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes changed, inserted, taken out, doubled or cut off, at a few places."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from([1, 1, 1, 2, 4, 8, 40]))
        how = draw(st.sampled_from(["change", "change", "change", "insert", "remove", "double", "cut"]))
        if how == "change":
            data[at : at + size] = draw(st.binary(min_size=size, max_size=size))
        elif how == "insert":
            data[at:at] = draw(st.binary(min_size=size, max_size=size))
        elif how == "remove":
            del data[at : at + size]
        elif how == "double":
            data[at:at] = data[at : at + 8 * size]
        else:
            del data[at:]
    return bytes(data)


def rezipped(pickle: bytes) -> bytes:
    """The archive with another pickle, its checksums right: what the damage does is the pickle's alone."""

    def write(buffer: Any) -> None:
        with zipfile.ZipFile(io.BytesIO(TORCH)) as source, zipfile.ZipFile(buffer, "w") as out:
            for name in source.namelist():
                out.writestr(name, pickle if name.endswith("data.pkl") else source.read(name))

    return _bytes_of(write)


def headed(text: bytes) -> bytes:
    """The safetensors file with another header, whose length is right."""
    (size,) = struct.unpack("<Q", SAFETENSORS[:8])
    return struct.pack("<Q", len(text)) + text + SAFETENSORS[8 + size :]


HEADER = SAFETENSORS[8 : 8 + struct.unpack("<Q", SAFETENSORS[:8])[0]]
RECORD = bytes(IRREPS.encode().numpy())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record with a field of it, or one within, made something else."""
    document = json.loads(RECORD)
    at, key = document, draw(st.sampled_from(sorted(document)))
    while draw(st.booleans()) and isinstance(at[key], dict | list) and at[key]:
        at = at[key]
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
    at[key] = draw(VALUES)
    return json.dumps(document).encode()


def with_record(text: bytes) -> bytes:
    state = {**STATE, "lin.relaxation._extra_state": torch.frombuffer(bytearray(text or b" "), dtype=torch.uint8)}
    return safetensors.torch.save(state)


def _refused(use: Callable[[], object]) -> str | None:
    """The one sentence with which something is refused, or None."""
    try:
        use()
    except ValueError as error:
        said = sentence(error)
        if "unexpected" in said or "\n" in str(error) or not said.endswith("."):
            raise
        return said
    return None


def converted(data: bytes, suffix: str) -> None:
    """CheckpointError in one sentence, or an output that its library loads; shown, and found to be equal to itself."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder, start = Path(name), time.process_time()
        source, target = folder / f"in{suffix}", folder / f"out{suffix}"
        source.write_bytes(data)
        _refused(lambda: contents(source).to_dict())
        _refused(lambda: _same(source))
        said = _refused(lambda: convert(source, target, mode="fold"))
        assert target.exists() is (said is None)
        if said is None:
            safetensors.torch.load_file(target) if suffix == ".safetensors" else torch.load(target, weights_only=True)
        assert source.read_bytes() == data
        assert time.process_time() - start < SLOW


def distributed(metadata: bytes) -> None:
    """The same of a folder of torch.distributed.checkpoint with other metadata."""
    with tempfile.TemporaryDirectory() as name:
        folder, target = Path(name) / "in", Path(name) / "out.pt"
        folder.mkdir()
        (folder / "__0_0.distcp").write_bytes(PARTS)
        (folder / ".metadata").write_bytes(metadata)
        start = time.process_time()
        said = _refused(lambda: convert(folder, target))
        assert target.exists() is (said is None)
        assert time.process_time() - start < SLOW


def _same(source: Path) -> None:
    assert compare(source, source).is_equal


def decoded(text: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _refused(lambda: Record.decode(torch.frombuffer(bytearray(text), dtype=torch.uint8)))


def read(data: bytes, suffix: str, choice: Choice | None = None) -> None:
    """ValueError in one sentence, or what the file holds."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"in{suffix}"
        path.write_bytes(data)
        _refused(lambda: read_samples(path, choice))
        _refused(lambda: history(path))


KINDS: dict[str, tuple[st.SearchStrategy[bytes], Callable[[bytes], None]]] = {
    "safetensors": (damaged(SAFETENSORS), lambda data: converted(data, ".safetensors")),
    "header": (damaged(HEADER).map(headed), lambda data: converted(data, ".safetensors")),
    "archive": (damaged(TORCH), lambda data: converted(data, ".pt")),
    "deflated archive": (damaged(_deflated(TORCH)), lambda data: converted(data, ".pt")),
    "pickle": (damaged(PICKLE).map(rezipped), lambda data: converted(data, ".pt")),
    "legacy": (damaged(LEGACY), lambda data: converted(data, ".pt")),
    "distributed": (damaged(METADATA), distributed),
    "record": (records(), decoded),
    "record in a file": ((records() | damaged(RECORD)).map(with_record), lambda data: converted(data, ".safetensors")),
    "npz": (damaged(ARRAYS), lambda data: read(data, ".npz")),
    "npy": (damaged(ARRAY), lambda data: read(data, ".npy")),
    "csv": (damaged(LOG), lambda data: read(data, ".csv", Choice(columns=("step", "value"), labels=("layer",)))),
}


def draw(kind: str, examples: int) -> None:
    """Try so many of a kind."""
    strategy, use = KINDS[kind]
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    settings(max_examples=examples, deadline=None, suppress_health_check=checks, database=None)(given(strategy)(use))()


if __name__ == "__main__":
    end, tried = time.monotonic() + float(sys.argv[1]), 0
    while time.monotonic() < end:
        for each in KINDS:
            draw(each, 100)
            tried += 100
    sys.stdout.write(f"{tried} damaged files, each used right or refused in a sentence\n")
