"""Checkpoints load strictly into a model wherever their state dict is nested, and whatever wraps its keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from relaxed_states import save
from torch import Tensor, nn

from relaxify.checkpoint import LoadError, load_weights


def state(prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}weight": torch.full((2, 3), 5.0), f"{prefix}bias": torch.zeros(2)}


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_prefixes_of_wrappers_are_taken_off(prefix: str, suffix: str, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    load_weights(model, save(state(prefix), tmp_path / f"in{suffix}"))
    assert (model.weight == 5).all()


def test_the_first_nested_state_dict_that_fits_is_loaded(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    checkpoint = {"epoch": 3, "other": {"weight": torch.ones(1)}, "ema": {"net": state("module.")}}
    load_weights(model, save(checkpoint, tmp_path / "in.pt"))
    assert (model.weight == 5).all()


def test_what_does_not_load_is_told_by_fields(tmp_path: Path) -> None:
    path = save(state("deep."), tmp_path / "in.pt")
    with pytest.raises(LoadError, match="pass the model that it was saved from") as failure:
        load_weights(nn.Linear(3, 2), path)
    assert (failure.value.what, failure.value.model) == (str(path), "Linear")
    assert "deep.weight" in failure.value.reason
    with pytest.raises(LoadError) as failure:
        load_weights(nn.Linear(3, 2), save({"epoch": 3}, path))
    assert failure.value.reason == "it holds no state dict"
