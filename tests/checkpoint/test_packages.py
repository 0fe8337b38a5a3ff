"""Checkpoints as packages of equivariant models save them: MACE and torch_ema by their functions, NequIP by its layout."""

from __future__ import annotations

import argparse
import copy
import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from relaxed_states import load, relaxed_layer
from torch import nn
from torch_ema import ExponentialMovingAverage
from zoo.mace_models import ENTRIES

from relaxify import project, relaxify
from relaxify.checkpoint import CheckpointError, convert

ENTRY = next(entry for entry in ENTRIES if entry.name == "MACE")
# its parent imports what training needs, which the zoo has stood in for
SAVING = importlib.import_module("mace.tools.checkpoint")


@pytest.fixture(scope="module")
def mace() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return relaxify(ENTRY.make(), "O(3)")


def state_of(model: nn.Module) -> Any:
    """With the groups of parameters that MACE makes."""
    found: dict[str, list[nn.Parameter]] = {"interactions_decay": [], "interactions_no_decay": []}
    for name, parameter in model.interactions.named_parameters():
        decays = "linear.weight" in name or "skip_tp_full.weight" in name
        found["interactions_decay" if decays else "interactions_no_decay"].append(parameter)
    found["embedding"], *rest = (list(part.parameters()) for part in (model.node_embedding, model.products, model.readouts))
    found |= dict(zip(("products", "readouts"), rest, strict=True))
    groups = [{"name": name, "params": found[name], "lr": 0.01 * len(name)} for name in sorted(found)]
    optimizer = torch.optim.Adam(groups, amsgrad=True)
    return SAVING.CheckpointState(model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))


def test_training_of_mace_goes_on(mace: nn.Module, tmp_path: Path) -> None:
    """Its five groups of parameters, and its average of them, which it loads into the plain model itself."""
    state = state_of(mace)
    average = ExponentialMovingAverage(mace.parameters(), decay=0.9)
    for parameter in mace.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    state.optimizer.step()
    state.lr_scheduler.step()
    average.update()
    checkpoint = SAVING.CheckpointBuilder.create_checkpoint(state) | {
        "ema": average.state_dict(),
        "args": argparse.Namespace(a=1),
    }
    SAVING.CheckpointIO(str(tmp_path), "in").save(checkpoint, 3)
    conversion = convert(tmp_path / "in_epoch-3.pt", tmp_path / "out_epoch-3.pt")
    assert conversion.left_out == ("args",)
    plain = state_of(ENTRY.make())
    found, _ = SAVING.CheckpointIO(str(tmp_path), "out").load_latest(device=torch.device("cpu"))
    SAVING.CheckpointBuilder.load_checkpoint(plain, found, strict=True)
    expected = project(mace)
    wanted = expected.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in plain.model.state_dict().items())
    names, again = dict(mace.named_parameters()), ExponentialMovingAverage(plain.model.parameters(), decay=0.5)
    again.load_state_dict(found["ema"])
    shadows = dict(zip(names, average.shadow_params, strict=True))
    for (name, parameter), shadow in zip(plain.model.named_parameters(), again.shadow_params, strict=True):
        assert torch.equal(shadow, shadows[name])
        for key, value in state.optimizer.state[names[name]].items():
            assert torch.equal(plain.optimizer.state[parameter][key], value), name
    assert [group["name"] for group in plain.optimizer.param_groups] == [
        group["name"] for group in state.optimizer.param_groups
    ]


def test_whole_models_of_mace_are_code(mace: nn.Module, tmp_path: Path) -> None:
    """What it saves at the end is the model pickled, of which a record would have to be asked for, with e3nn's code."""
    torch.save(copy.deepcopy(mace), tmp_path / "in.model")
    with pytest.raises(
        CheckpointError, match=r"pickled model \(mace\.modules\.models\.MACE\).*save relaxify\.project\(model\)"
    ):
        convert(tmp_path / "in.model", tmp_path / "out.pt")


def test_an_average_whose_parameters_cannot_be_told_is_named(tmp_path: Path) -> None:
    layer = relaxed_layer()
    content: dict[str, Any] = {
        "model": layer.state("lin."),
        "ema": {"decay": 0.9, "shadow_params": [torch.ones(3)], "collected_params": []},
    }
    torch.save(content, tmp_path / "in.pt")
    assert convert(tmp_path / "in.pt", tmp_path / "out.pt").left_out == ("ema.shadow_params",)
    assert load(tmp_path / "out.pt")["ema"] == {"decay": 0.9, "collected_params": []}


class DictConfig:
    """As omegaconf's, which NequIP's checkpoints have for hyper_parameters."""

    def __init__(self) -> None:
        self._content = {"cutoff_radius": 4.0}


def test_nequip(tmp_path: Path) -> None:
    """Lightning's, with the model below `sole_model`, its settings as an object of omegaconf's and the average beside."""
    layer, average = relaxed_layer(), relaxed_layer(seed=1)
    content = {
        "state_dict": layer.state("model.sole_model.lin.") | {"loss.weight": torch.ones(1)},
        "ema_state_dict": average.state("model.sole_model.lin."),
        "hyper_parameters": {"model": DictConfig(), "info": {"versions": {"nequip": "0.12"}}},
        "pytorch-lightning_version": "2.6",
    }
    torch.save(content, tmp_path / "in.ckpt")
    conversion = convert(tmp_path / "in.ckpt", tmp_path / "out.ckpt")
    assert conversion.left_out == ("hyper_parameters.model",)
    assert load(tmp_path / "out.ckpt")["hyper_parameters"] == {"info": {"versions": {"nequip": "0.12"}}}
    convert(tmp_path / "in.ckpt", tmp_path / "ema.pt", key="ema_state_dict", prefix="model.sole_model.")
    found = load(tmp_path / "ema.pt")
    assert found.keys() == layer.plain("lin.").keys()
    assert torch.equal(found["lin.weight"], average.base["weight"])
