"""Every dtype that safetensors write, of every shape, bit for bit from each format to each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from relaxed_states import assert_same, load, relaxed_layer, save

from relaxify.checkpoint import CheckpointError, convert

LAYER = relaxed_layer()
DTYPES = sorted({dtype for dtype in safetensors.torch._SIZE if dtype is not None}, key=str)
SHAPES: list[tuple[int, ...]] = [(), (0, 2), (3,), (4, 2), (2, 1, 2)]


def tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """With any bits."""
    found = {}
    for shape in SHAPES:
        count = torch.Size(shape).numel()
        bits = torch.arange(count * dtype.itemsize, dtype=torch.uint8) * (1 if dtype is torch.bool else 37)
        if dtype is torch.bool:
            bits %= 2
        if shape or dtype is not torch.float4_e2m1fn_x2:
            found[f"x{len(found)}"] = bits.view(dtype).view(shape) if count else torch.empty(shape, dtype=dtype)
    return found


@pytest.mark.parametrize("target", [".safetensors", ".pt"])
@pytest.mark.parametrize("source", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_every_dtype_of_safetensors(dtype: torch.dtype, source: str, target: str, tmp_path: Path) -> None:
    values = tensors(dtype)
    save(LAYER.state("lin.") | values, tmp_path / f"in{source}")
    convert(tmp_path / f"in{source}", tmp_path / f"out{target}", mode="fold")
    folded = ("lin.weight", "lin.bias")
    assert_same({key: value for key, value in load(tmp_path / f"out{target}").items() if key not in folded}, values)


def test_what_neither_has(tmp_path: Path) -> None:
    """torch has no numbers of 6 bits, safetensors no pair of 4 without an axis; each stays in its own kind of file."""
    header = '{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]},'
    inner = safetensors.torch.save(LAYER.state("lin."))
    size = int.from_bytes(inner[:8], "little")
    text = inner[8 : 8 + size].decode().strip()
    document = json.loads(text)
    shifted = {key: {**entry, "data_offsets": [at + 3 for at in entry["data_offsets"]]} for key, entry in document.items()}
    body = (header + json.dumps(shifted)[1:]).encode()
    (tmp_path / "in.safetensors").write_bytes(len(body).to_bytes(8, "little") + body + b"abc" + inner[8 + size :])
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert b"F6_E2M3" in (tmp_path / "out.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"a has the dtype F6_E2M3, which a \.pt file cannot hold"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.pt")
    pair = torch.zeros(1, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).view(())
    save(LAYER.state("lin.") | {"pair": pair}, tmp_path / "in.pt")
    with pytest.raises(CheckpointError, match=r"pair is a tensor \(torch\.float4_e2m1fn_x2\) that safetensors cannot hold"):
        convert(tmp_path / "in.pt", tmp_path / "more.safetensors")
    convert(tmp_path / "in.pt", tmp_path / "out.pt")
