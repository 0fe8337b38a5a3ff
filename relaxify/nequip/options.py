"""What stands under `relaxation` in a NequIP config, checked, and what becomes of it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.controllers.controller import Controller

SCHEDULE = "relaxify.Triangle"


@dataclass(frozen=True)
class Options:
    """How a training module of NequIP's is relaxed.

    - `of`: the training module, as `nequip.train.EMALightningModule`.
    - `group`, `include`, `exclude`: see `relaxify`.
    - `config`: what `RelaxConfig` takes, by name.
    - `controller`: what moves theta: its class under `_target_`, and what this takes besides the model. `total_steps` is
      the training's where it is not given.
    - `relative`: whether the penalty is in units of the loss (see `penalty`).

    ValueError, naming the entry, if one is not known, or `of` is missing.

    >>> Options.read({"of": "nequip.train.EMALightningModule", "config": {"rank": 4}}).config
    RelaxConfig(weight=0.01, reduction='rms', rows=64, rank=4, ...)
    """

    of: str
    group: str = "O(3)"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    config: RelaxConfig = RelaxConfig()
    controller: Mapping[str, Any] = field(default_factory=dict)
    relative: bool = True

    @classmethod
    def read(cls, entries: object) -> Options:
        """Of the plain data that a YAML file holds."""
        if not isinstance(entries, Mapping) or not isinstance(entries.get("of"), str):
            raise ValueError(
                "relaxation names the training module that is relaxed: relaxation: {of: nequip.train.EMALightningModule}."
            )
        known = [option.name for option in dataclasses.fields(cls)]
        if unknown := [name for name in entries if name not in known]:
            raise ValueError(f"relaxation has no {unknown[0]!r}; it has {', '.join(known)}.")
        config = entries.get("config", {})
        names = [option.name for option in dataclasses.fields(RelaxConfig)]
        if unknown := [name for name in config if name not in names]:
            raise ValueError(f"relaxation.config has no {unknown[0]!r}; it has {', '.join(names)}.")
        return cls(**{**entries, "config": RelaxConfig(**config)})

    def make_controller(self, model: nn.Module, total_steps: int) -> Controller:
        """The controller of a training of so many steps."""
        arguments = {"total_steps": total_steps, **self.controller}
        made: Any = class_at(arguments.pop("_target_", SCHEDULE))
        controller: Controller = made(model, **arguments)
        return controller


def class_at(name: str) -> type:
    """The class of a dotted name. ValueError if there is none.

    >>> class_at("relaxify.Triangle").__name__
    'Triangle'
    """
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no class {name!r} ({error}); give its dotted name.") from error
    if not isinstance(found, type):
        raise ValueError(f"{name!r} is no class; give the dotted name of one.")
    return found
