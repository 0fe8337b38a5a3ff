"""Two checkpoints are the same, whatever holds them, or what differs is named; nothing large is made of little."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from relaxed_states import relaxed_layer, save
from torch import Tensor

from relaxify.checkpoint import CheckpointError, Comparison, compare

LAYER = relaxed_layer()
STATE = {"big": torch.arange(400_000.0).view(1000, 400), **LAYER.state("lin.")}


def compared(folder: Path, a: Any, b: Any, suffixes: tuple[str, str] = (".pt", ".pt")) -> Comparison:
    return compare(save(a, folder / f"a{suffixes[0]}"), save(b, folder / f"b{suffixes[1]}"))


def sharded(state: dict[str, Tensor], folder: Path) -> Path:
    names = list(state)
    for number, part in enumerate((names[::2], names[1::2])):
        safetensors.torch.save_file({name: state[name] for name in part}, folder / f"m-{number}.safetensors")
    places = ",".join(f'"{name}":"m-{index % 2}.safetensors"' for index, name in enumerate(names))
    index = folder / "m.safetensors.index.json"
    index.write_text(f'{{"weight_map":{{{places}}}}}')
    return index


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_container_is_compared_with_every_other(suffix: str, tmp_path: Path) -> None:
    index = sharded(STATE, tmp_path)
    a = save(STATE, tmp_path / f"a{suffix}")
    nested = save({"epoch": 3, "net": {"ema": STATE}}, tmp_path / "b.ckpt")
    legacy = tmp_path / "c.pt"
    torch.save(STATE, legacy, _use_new_zipfile_serialization=False)
    for other in (index, nested, legacy):
        assert compare(a, other).is_equal
        assert compare(other, a).same == len(STATE)


def test_differences_are_told_with_their_size_largest_first(tmp_path: Path) -> None:
    changed = {key: value.clone() for key, value in STATE.items()}
    changed["big"][3, 5] += 0.5
    changed["lin.weight"] = STATE["lin.weight"].half()
    changed["lin.bias"] = torch.zeros(5)
    changed["more"] = changed.pop("lin.relaxation.theta")
    found = compared(tmp_path, STATE, changed, (".safetensors", ".pt"))
    assert (found.only_a, found.only_b, found.same) == (("lin.relaxation.theta",), ("more",), 2)
    shape, big, half = found.differing
    assert (shape.key, shape.a, shape.b, shape.largest) == ("lin.bias", "float32 [4]", "float32 [5]", None)
    assert (big.key, big.largest, big.entries) == ("big", 0.5, 1)
    assert big.relative == 0.5 / 399_999
    rounding = (STATE["lin.weight"].half().double() - STATE["lin.weight"].double()).abs()
    assert (half.a, half.b) == ("float32 [26]", "float16 [26]")
    assert half.largest == float(rounding.max())
    assert half.entries == int(rounding.count_nonzero())


def test_tensors_of_other_layouts_are_compared_entry_by_entry(tmp_path: Path) -> None:
    turned = {"w": torch.arange(6.0).view(2, 3).mT}
    assert compared(tmp_path, turned, {"w": turned["w"].contiguous()}).is_equal
    assert compared(tmp_path, turned, {"w": torch.arange(6.0).view(3, 2)}).differing[0].entries == 4


DTYPES = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128", "int64",
          "int32", "int16", "int8", "uint8", "bool", "uint16", "uint32", "uint64"]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_entry_of_any_dtype(dtype: str, tmp_path: Path) -> None:
    ones = torch.ones(70_000).to(getattr(torch, dtype))
    other = torch.ones(70_000)
    other[69_999] = 0
    found = compared(tmp_path, {"w": ones}, {"w": other.to(getattr(torch, dtype))})
    (difference,) = found.differing
    assert (difference.largest, difference.relative, difference.entries) == (1, 1, 1)
    assert compared(tmp_path, {"w": ones}, {"w": ones.clone()}).is_equal


def test_integers_that_floating_point_does_not_tell_apart(tmp_path: Path) -> None:
    (found,) = compared(tmp_path, {"w": torch.tensor([2**60, 0])}, {"w": torch.tensor([2**60 + 1, 0])}).differing
    assert (found.largest, found.entries) == (1, 1)


@pytest.mark.parametrize(("a", "b", "largest"), [
    (math.nan, math.nan, None), (math.inf, math.inf, None), (0.0, -0.0, None), (math.nan, 1.0, math.inf),
    (1.0, math.nan, math.inf), (math.inf, -math.inf, math.inf), (1.0, math.inf, math.inf),
])  # fmt: skip
def test_what_is_not_finite(a: float, b: float, largest: float | None, tmp_path: Path) -> None:
    found = compared(tmp_path, {"w": torch.tensor([a, 2.0])}, {"w": torch.tensor([b, 2.0])})
    assert [each.largest for each in found.differing] == ([] if largest is None else [largest])


def test_state_dicts_belong_together_that_are_at_one_place_or_alone(tmp_path: Path) -> None:
    other = {"w": torch.ones(3), "v": torch.zeros(1)}
    both = {"model": STATE, "ema": other}
    assert compared(tmp_path, both, {"ema": other, "model": STATE}).is_equal
    alone = compared(tmp_path, both, {"weights": other})
    assert (alone.only_b, alone.same) == ((), 2)
    assert alone.only_a == tuple(f"model.{key}" for key in STATE)


def test_small_files_do_not_become_large(tmp_path: Path) -> None:
    save({"w": torch.zeros(1).expand(2**31)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="many times as large"):
        compare(tmp_path / "a.pt", tmp_path / "a.pt")


def test_bytes_that_do_not_have_their_checksum_are_no_difference(tmp_path: Path) -> None:
    path = save(STATE, tmp_path / "a.pt")
    data = bytearray(path.read_bytes())
    data[data.index(STATE["big"].numpy().tobytes()[4000:4400]) + 8] ^= 1
    (tmp_path / "b.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="do not match its own checksum"):
        compare(path, tmp_path / "b.pt")
