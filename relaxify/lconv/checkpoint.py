"""Checkpoints of models with L-convs: the state dict, and the settings with which `lconvify` makes the model to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from relaxify.lconv.conversion import Swap
from relaxify.output import check_target, replacing

FORMAT = "relaxify-lconv/1"
SUFFIXES = (".safetensors", ".pt")


def check_output(target: Path, *, force: bool = False) -> None:
    """ValueError unless `save_lconvs` may write to `target`: it has a known ending, and nothing is there unless `force`."""
    if target.suffix not in SUFFIXES:
        raise ValueError(f"{target} has no known ending; name a .safetensors or a .pt file.")
    check_target(target, force=force)


def save_lconvs(
    model: nn.Module, target: Path, swapped: Sequence[Swap], settings: Mapping[str, Any], *, force: bool = False
) -> None:
    """Write a converted model's state dict, whole or not at all, with what was swapped and the `settings` of `lconvify`.

    A .safetensors file has these as JSON under the metadata key `lconv`, a .pt file under the key `lconv` next to
    `state_dict`. ValueError as `check_output`.
    """
    check_output(target, force=force)
    record = {"format": FORMAT, **settings, "layers": {entry.path: [entry.before, entry.generators] for entry in swapped}}
    # tied weights each on their own: safetensors takes no shared storage
    state = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    with replacing(target, force=force) as new:
        if target.suffix == ".pt":
            torch.save({"state_dict": state, "lconv": record}, new.file)
        else:
            new.file.write(safetensors.torch.save(state, metadata={"lconv": json.dumps(record)}))
