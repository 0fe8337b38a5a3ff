"""What a checkpoint of MACE needs besides its own for a relaxed training to go on to the last bit.

MACE keeps the model, the optimizer and its scheduler. It draws the batches anew from the seed and, where it averages
weights, keeps the average alone. Kept besides are theta's schedule, the weights themselves, and where random numbers go on.
All of it is tensors and plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

KEY = "relaxify"
"""The entry of MACE's checkpoints that holds it."""


def kept(model: nn.Module, controller: Any, loader: Any, ema: Any, swa: Any) -> dict[str, Any]:
    """All that resuming needs, while the model holds the weights that MACE saves: the average's, if there is one."""
    state = {
        "schedule": controller.state_dict(),
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    if loader.generator is not None:
        state["batches"] = loader.generator.get_state()
    if ema is not None:
        named = zip(model.named_parameters(), ema.collected_params, strict=True)
        own = {name: value.detach().clone() for (name, _), value in named}
        # as a whole state dict, so that whoever converts the checkpoint converts this too
        state["average"] = {"updates": ema.num_updates, "model": {**model.state_dict(), **own}}
    if swa is not None:
        state["stage_two"] = _plain(swa.scheduler.state_dict())
    return state


def resume(state: Mapping[str, Any], model: nn.Module, controller: Any, loader: Any, ema: Any, swa: Any) -> None:
    """Go on where `state` was kept. The model, the optimizer and its scheduler are MACE's to restore, and are."""
    controller.load_state_dict(state["schedule"])
    torch.set_rng_state(state["random"].cpu())
    if state["cuda_random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda_random"]])
    if "batches" in state and loader.generator is not None:
        loader.generator.set_state(state["batches"].cpu())
    if ema is not None and "average" in state:
        ema.num_updates = state["average"]["updates"]
        _put(model, state["average"]["model"])
    if swa is not None and "stage_two" in state:
        swa.scheduler.load_state_dict(dict(state["stage_two"]))


@torch.no_grad()
def _put(model: nn.Module, values: Mapping[str, Any]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Without the functions that a scheduler has among its values."""
    return {name: value for name, value in state.items() if isinstance(value, int | float | str | list | bool | None)}
