"""What a checkpoint of MACE needs besides its own for a relaxed training to go on to the last bit.

MACE keeps the model, the optimizer and its scheduler. It draws the batches anew from the seed and, where it averages
weights, keeps the average alone. Kept besides are theta's schedule, the weights themselves, and where random numbers go on.
All of it is tensors and plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from relaxify.relaxation.controllers.lengthening import go_on
from relaxify.relaxation.controllers.schedules import Schedule

KEY = "relaxify"
"""The entry of MACE's checkpoints that holds it."""


@dataclass(frozen=True)
class Parts:
    """What of a training goes on from one epoch to the next: of MACE's parts those that its own checkpoints leave out."""

    model: nn.Module
    schedule: Schedule
    loader: Any
    ema: Any
    swa: Any


def kept(parts: Parts) -> dict[str, Any]:
    """All that resuming needs, while the model holds the weights that MACE saves: the average's, if there is one."""
    state: dict[str, Any] = {
        "schedule": parts.schedule.state_dict(),
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    if parts.loader.generator is not None:
        state["batches"] = parts.loader.generator.get_state()
    if parts.ema is not None:
        named = zip(parts.model.named_parameters(), parts.ema.collected_params, strict=True)
        own = {name: value.detach().clone() for (name, _), value in named}
        # as a whole state dict, so that whoever converts the checkpoint converts this too
        state["average"] = {"updates": parts.ema.num_updates, "model": {**parts.model.state_dict(), **own}}
    if parts.swa is not None:
        state["stage_two"] = _plain(parts.swa.scheduler.state_dict())
    return state


def resume(parts: Parts, state: Mapping[str, Any]) -> str:
    """Go on where `state` was kept; what another length of the training does to theta (see `go_on`).

    The model, the optimizer and its scheduler are MACE's to restore, and are.
    """
    changed = go_on(parts.schedule, state["schedule"], parts.model)
    torch.set_rng_state(state["random"].cpu())
    if state["cuda_random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda_random"]])
    if "batches" in state and parts.loader.generator is not None:
        parts.loader.generator.set_state(state["batches"].cpu())
    if parts.ema is not None and "average" in state:
        parts.ema.num_updates = state["average"]["updates"]
        _put(parts.model, state["average"]["model"])
    if parts.swa is not None and "stage_two" in state:
        parts.swa.scheduler.load_state_dict(dict(state["stage_two"]))
    return changed


@torch.no_grad()
def _put(model: nn.Module, values: Mapping[str, Any]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Without the functions that a scheduler has among its values."""
    return {name: value for name, value in state.items() if isinstance(value, int | float | str | list | bool | None)}
