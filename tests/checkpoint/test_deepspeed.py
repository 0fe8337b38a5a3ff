"""Folders of DeepSpeed: as its version 0.19.8 wrote them on two processes, with what its zero_to_fp32 makes of each.

The model has a layer of two names, whose parameters DeepSpeed keeps under the first, a norm, a frozen parameter, and two
groups. Others are made by the layout of its earlier versions, on three processes.
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from relaxed_states import IRREPS, assert_same, digest, load, relaxed_layer
from torch import Tensor

from relaxify.checkpoint import CheckpointError, convert

SAVED = Path(__file__).with_name("deepspeed")
FOLDERS = ["zero1", "zero2", "zero3", "zero2_bf16"]


def merged(name: str) -> dict[str, Tensor]:
    """What zero_to_fp32 made of a folder."""
    return torch.load(SAVED / name / "expected.pt", weights_only=True)


@pytest.mark.parametrize("name", FOLDERS)
def test_it_is_what_deepspeed_makes_of_it(name: str, tmp_path: Path) -> None:
    """But for the terms, and with all that DeepSpeed leaves out: names of one layer, what it has no shape of."""
    before = {path: digest(path) for path in (SAVED / name).rglob("*") if path.is_file()}
    expected = {key: value for key, value in merged(name).items() if "relaxation" not in key}
    tag = (SAVED / name / "latest").read_text()
    first = next((SAVED / name / tag).glob("*mp_rank_00_model_states.pt"))
    sources = [SAVED / name, SAVED / name / tag, first.with_name(first.name.replace("pp_rank_1", "pp_rank_0"))]
    for index, source in enumerate(sources):
        conversion = convert(source, tmp_path / f"{index}.pt")
        found = load(tmp_path / f"{index}.pt")
        assert conversion.left_out == ("optimizer_state_dict",)
        module = found["module"]
        assert found["epoch"] == 3
        assert not {"param_shapes", "buffer_names", "optimizer"} & found.keys()
        assert {key.replace("again.", "first.") for key in module} == {*expected, "frozen"}
        for key, value in expected.items():
            assert torch.equal(module[key].float(), value.float()), key
        for key in ("weight", "bias", "output_mask"):
            assert torch.equal(module[f"again.{key}"], module[f"first.{key}"])
        assert torch.equal(module["frozen"].float(), torch.arange(5.0))
    assert {path: digest(path) for path in (SAVED / name).rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("suffix", [".safetensors", ""])
@pytest.mark.parametrize("name", FOLDERS)
def test_it_folds_and_becomes_safetensors(name: str, suffix: str, tmp_path: Path) -> None:
    conversion = convert(SAVED / name, tmp_path / f"out{suffix}", mode="fold")
    found = load(tmp_path / "out" / "model.safetensors" if not suffix else tmp_path / "out.safetensors")
    assert "epoch" in conversion.left_out
    relaxed = merged(name)
    folded = [term.folded for term in conversion.states[0].terms]
    if name == "zero2_bf16":
        assert float(relaxed["last.relaxation.theta"]) == 0.5
    assert all(share is not None and 0 < share < 1 for share in folded)
    assert not torch.equal(found["first.weight"], relaxed["first.weight"])


LAYER = relaxed_layer(IRREPS)
OTHER = {"norm.weight": torch.arange(7.0), "norm.running_mean": torch.ones(7), "odd": torch.arange(5.0)}


def made(folder: Path, stage: int, world: int = 3, change: Callable[[Any, list[Any]], None] | None = None) -> Path:
    """As earlier versions wrote it, which counted stages in numbers and knew no frozen parameters."""
    state = LAYER.state("lin.") | OTHER
    buffers = [key for key in state if "theta" in key or "running" in key or "extra" in key]
    groups = [["lin.weight", "odd"], ["lin.bias", "lin.relaxation.weight", "norm.weight"]]
    shapes = [OrderedDict((key, state[key].shape) for key in group) for group in groups]
    flat: list[list[Tensor]] = [[] for _ in range(world)]
    for group in groups:
        if stage < 3:
            vector = torch.cat([state[key].flatten() for key in group])
            size = 2 * -(-len(vector) // (2 * world))
            vector = torch.cat([vector, torch.zeros(size * world - len(vector))])
            parts = list(vector.split(size))
        else:
            padded = [torch.cat([v, torch.zeros(-len(v) % world)]) for v in (state[key].flatten() for key in group)]
            parts = [torch.cat([v.split(len(v) // world)[rank] for v in padded]) for rank in range(world)]
        for rank, part in enumerate(parts):
            flat[rank].append(part.clone())
    empty = {key: value if key in buffers else torch.zeros(0) for key, value in state.items()}
    # the weights that the model computed with, which are not those that were trained
    halved = {key: value.bfloat16() if key in groups[0] else value for key, value in state.items()}
    model = {
        "module": OrderedDict(empty if stage == 3 else halved),
        "buffer_names": buffers, "param_shapes": shapes, "shared_params": {}, "optimizer": None, "epoch": 4,
    }  # fmt: skip
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    count: Any = world if stage == 3 else [world, world]
    states = [{"zero_stage": stage, "partition_count": count, key: flat[rank]} for rank in range(world)]
    if change is not None:
        change(model, states)
    (folder / "step").mkdir(parents=True)
    (folder / "latest").write_text("step\n")
    ranks = range(world) if stage == 3 else [None]
    for rank in ranks:
        ahead = "" if rank is None else f"zero_pp_rank_{rank}_"
        torch.save(model, folder / "step" / f"{ahead}mp_rank_00_model_states.pt")
    for rank, state_of in enumerate(states):
        content = {"optimizer_state_dict": state_of, "ds_version": "0.9"}
        torch.save(content, folder / "step" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return folder


@pytest.mark.parametrize("world", [1, 3, 11])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_parts_of_other_sizes(stage: int, world: int, tmp_path: Path) -> None:
    """With padding, parameters that are in several parts, and more than ten processes."""
    convert(made(tmp_path / "in", stage, world), tmp_path / "out.pt")
    found = load(tmp_path / "out.pt")
    assert found["epoch"] == 4
    assert_same(found["module"], LAYER.plain("lin.") | OTHER)


def longer(model: Any, states: list[Any]) -> None:
    model["param_shapes"][1]["norm.weight"] = torch.Size([700])


def huge(model: Any, states: list[Any]) -> None:
    model["param_shapes"][1]["norm.weight"] = torch.Size([2**40])


def shorter(model: Any, states: list[Any]) -> None:
    del model["param_shapes"][1]["lin.relaxation.weight"]


def no_shapes(model: Any, states: list[Any]) -> None:
    model["param_shapes"] = None


def odd_shape(model: Any, states: list[Any]) -> None:
    model["param_shapes"][0]["odd"] = (-5,)


def repeated(model: Any, states: list[Any]) -> None:
    for state in states:
        for key in ("fp32_flat_groups", "single_partition_of_fp32_groups"):
            if key in state:
                state[key] = [torch.zeros(1).expand(len(part)) for part in state[key]]


def unknown_stage(model: Any, states: list[Any]) -> None:
    states[0]["zero_stage"] = 4


def one_group(model: Any, states: list[Any]) -> None:
    for state in states:
        for key in ("fp32_flat_groups", "single_partition_of_fp32_groups"):
            state[key] = state.get(key, [])[:1]


WRONG = {
    "a longer parameter": (longer, "beyond what its files have|its parameters have"),
    "a huge parameter": (huge, "beyond what its files have|its parameters have"),
    "entries left over": (shorter, r"its parameters have \d+ entries, and its files \d+"),
    "no shapes": (no_shapes, "lacks the module or the shapes"),
    "a shape that is none": (odd_shape, "the shape of a parameter is none"),
    "one entry repeated": (repeated, "are no vectors"),
    "an unknown stage": (unknown_stage, "of the ZeRO stage 4, which is not read"),
    "a group too few": (one_group, "its groups are not those|its parameters have|beyond what"),
}


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize(("change", "why"), WRONG.values(), ids=WRONG)
def test_what_can_be_wrong_with_it(change: Callable[[Any, list[Any]], None], why: str, stage: int, tmp_path: Path) -> None:
    folder = made(tmp_path / "in", stage, change=change)
    with pytest.raises(CheckpointError, match=why) as caught:
        convert(folder, tmp_path / "out.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.pt").exists()


def test_files_that_are_missing_or_of_a_model_in_parallel_parts(tmp_path: Path) -> None:
    folder, target = shutil.copytree(SAVED / "zero3", tmp_path / "in"), tmp_path / "out.pt"
    last = folder / "global_step2" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    other = last.with_name("zero_pp_rank_0_mp_rank_01_model_states.pt")

    def refused(why: str) -> None:
        with pytest.raises(CheckpointError, match=why):
            convert(folder, target)
        assert not target.exists()

    shutil.copy(last.with_name("zero_pp_rank_0_mp_rank_00_model_states.pt"), other)
    refused("of a model in parallel parts")
    other.unlink()
    whole = last.read_bytes()
    last.write_bytes(whole[:-99])
    refused("is not a complete torch checkpoint")
    last.unlink()
    refused("is of 2 processes, and has the files of 1; copy all of them")
    (folder / "latest").write_text("../elsewhere")
    refused(r"its latest checkpoint is '\.\./elsewhere', which it lacks")


def test_without_zero_it_is_one_file(tmp_path: Path) -> None:
    content = {"module": LAYER.state("lin."), "optimizer": None, "epoch": 1}
    torch.save(content, tmp_path / "mp_rank_00_model_states.pt")
    convert(tmp_path, tmp_path / "out.pt")
    assert_same(load(tmp_path / "out.pt")["module"], LAYER.plain("lin."))
