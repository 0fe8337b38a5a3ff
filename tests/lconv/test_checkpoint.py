"""The checkpoint of a model with L-convs: its state dict, and what makes the model that it is loaded into."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from relaxify.checkpoint import TargetExistsError
from relaxify.lconv import lconvify, save_lconvs, swaps


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_tied_weights_are_written_each_on_its_own(suffix: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    target = tmp_path / f"out{suffix}"
    save_lconvs(lconvify(model), target, swaps(model), {"mode": "exact"})
    state = torch.load(target, weights_only=True)["state_dict"] if suffix == ".pt" else load_file(target)
    assert torch.equal(state["0.weight"], state["2.weight"])
    assert state["0.weight"].untyped_storage().data_ptr() != state["2.weight"].untyped_storage().data_ptr()


def test_the_record_names_the_settings_and_the_layers(tmp_path: Path) -> None:
    model, target = nn.Sequential(nn.Linear(3, 2)), tmp_path / "out.pt"
    save_lconvs(lconvify(model), target, swaps(model), {"mode": "exact", "rank": 4})
    checkpoint = torch.load(target, weights_only=True)
    assert checkpoint["lconv"] == {
        "format": "relaxify-lconv/1",
        "mode": "exact",
        "rank": 4,
        "layers": {"0": ["Linear", "1 points"]},
    }
    model.load_state_dict(checkpoint["state_dict"], strict=True)


def test_nothing_is_overwritten_unless_asked_for(tmp_path: Path) -> None:
    model, target = nn.Sequential(nn.Linear(3, 2)), tmp_path / "out.pt"
    target.write_text("precious")
    with pytest.raises(TargetExistsError, match=r"out\.pt exists; choose another name, or pass force=True"):
        save_lconvs(model, target, (), {})
    assert target.read_text() == "precious"
    with pytest.raises(ValueError, match=r"name a \.safetensors or a \.pt file"):
        save_lconvs(model, tmp_path / "out.bin", (), {})
