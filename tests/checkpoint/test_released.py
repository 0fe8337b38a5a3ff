"""Checkpoints of every released version convert for ever; later versions are refused, or read with a warning."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from relaxed_states import IRREPS, assert_same, load, relaxed_layer, save
from torch import Tensor

from relaxify.checkpoint import CheckpointError, convert
from relaxify.record import FORMAT, Record

RELEASED = Path(__file__).with_name("released")
FILES = sorted(path for path in RELEASED.rglob("*") if path.is_file() and path.stem.count(".") == 0)


@pytest.mark.parametrize("mode", ["drop", "fold"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(RELEASED)))
def test_what_was_released_converts_as_it_did(path: Path, mode: Any, tmp_path: Path) -> None:
    convert(path, tmp_path / "out.safetensors", mode=mode)
    expected = safetensors.torch.load_file(path.with_name(f"{path.stem}.{mode}.safetensors"))
    found = load(tmp_path / "out.safetensors")
    if mode == "drop" and "convolution" not in path.stem:
        assert_same(found, expected)
    torch.testing.assert_close(found, expected)


def test_there_are_files_of_every_kind() -> None:
    assert len(FILES) == 4
    assert {path.suffix for path in FILES} == {".pt", ".safetensors"}


def versioned(version: object, **more: object) -> Tensor:
    document = json.loads(bytes(IRREPS.encode().numpy())) | {"format": version} | more
    return torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("version", ["relaxify/1.1", "relaxify/1.27"])
def test_a_later_minor_version_is_read_with_a_warning(version: str, tmp_path: Path) -> None:
    layer = relaxed_layer()
    state = layer.state("lin.") | {"lin.relaxation._extra_state": versioned(version, novelty=[1, {"a": None}])}
    with pytest.warns(UserWarning, match=re.escape(f"records have format {version!r}: what it adds is ignored")):
        convert(save(state, tmp_path / "in.pt"), tmp_path / "out.pt")
    assert_same(load(tmp_path / "out.pt"), layer.plain("lin."))


@pytest.mark.parametrize("version", ["relaxify/2", "relaxify/0", "relaxify/2.1", "relaxify/10"])
def test_another_major_version_is_refused(version: str) -> None:
    with pytest.raises(CheckpointError, match="written by a newer relaxify; upgrade relaxify"):
        Record.decode(versioned(version))


@pytest.mark.parametrize("version", ["relaxify/1.", "relaxify/1.x", "relaxify/-1", "other/1", 1, None, f"relaxify/{10**99}"])
def test_what_is_no_version(version: object) -> None:
    with pytest.raises(CheckpointError, match="it is not a relaxify record"):
        Record.decode(versioned(version))


def test_a_field_that_this_version_does_not_have_is_no_record_of_it() -> None:
    with pytest.raises(CheckpointError, match="does not have the fields"):
        Record.decode(versioned(FORMAT, novelty=1))


def test_the_page_names_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "checkpoint-format.md").read_text()
    document = json.loads(bytes(IRREPS.encode().numpy()))
    for name in (*document, *document["rep_in"][0], *document["paths"][0], *document["layout"]):
        assert f"`{name}`" in page or f'"{name}"' in page, name
