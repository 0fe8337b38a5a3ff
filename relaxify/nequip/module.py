"""Relaxed: a training module of NequIP's whose model is trained relaxed (CR sec. 3), and saved so that it converts."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from nequip.train import NequIPLightningModule
from torch import nn

from relaxify.checkpoint.notes import KEY, Note
from relaxify.nequip.compiled import shown
from relaxify.nequip.options import Options, class_at
from relaxify.nequip.training import RelaxedTraining
from relaxify.relaxation.attach import relaxify
from relaxify.relaxation.planning import UncheckedWarning
from relaxify.relaxation.projecting import project

_TRAINING = ("hyper_parameters", "info_dict", "training_module")


class Relaxed(NequIPLightningModule):  # type: ignore[misc]
    """A training module of NequIP's, trained relaxed: two lines of its YAML.

        training_module:
          _target_: relaxify.nequip.Relaxed
          relaxation: {of: nequip.train.EMALightningModule, group: O(3)}

    All else stays as it was, `model` too, which may be any builder's. `relaxation` takes what `Options` has.

    The model is relaxed as soon as it is built, so that averages of weights hold the terms too, and it is trained as by
    `relaxify.lightning.Relaxation`; theta goes on where it was after a restart (`ckpt_path`). Validation measures the
    equivariant part. `evaluation_model`, which nequip-package, nequip-compile and `ModelFromCheckpoint` ask for, is the
    plain model; `relaxify convert` writes the plain training module's checkpoint.

    ValueError if `relaxation` makes no sense, or the model cannot be relaxed (see `relaxify`).
    """

    def __new__(cls, *args: Any, relaxation: Any = None, **kwargs: Any) -> Relaxed:
        return super().__new__(_relaxed(Options.read(relaxation).of) if cls is Relaxed else cls)

    def __init__(self, *, relaxation: dict[str, Any], **kwargs: Any) -> None:
        # what super() builds the model with
        self.options = Options.read(relaxation)
        super().__init__(**kwargs)

    def _build_model(self, model_config: dict[str, Any]) -> nn.Module:
        model: nn.Module = super()._build_model(model_config)
        options = self.options
        with warnings.catch_warnings():
            # of a model that is not there before its training module is, there are no example inputs
            warnings.simplefilter("ignore", UncheckedWarning)
            return relaxify(model, options.group, include=options.include, exclude=options.exclude, config=options.config)

    def configure_callbacks(self) -> list[Any]:
        own = super().configure_callbacks()
        return [*(own if isinstance(own, list | tuple) else [own]), RelaxedTraining(self.options, self.world_size)]

    def forward(self, inputs: Any) -> Any:
        with shown(self.model):
            return super().forward(inputs)

    @property
    def evaluation_model(self) -> nn.Module:
        return project(super().evaluation_model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY] = self._note().written()

    def _note(self) -> Note:
        averages = "ema.ema_weight_" if isinstance(getattr(self, "ema", None), nn.Module) else None
        state = ("callbacks", RelaxedTraining(self.options, self.world_size).state_key)
        return Note(
            state_dict=("state_dict",),
            parameters=tuple(f"model.{name}" for name, _ in self.model.named_parameters()),
            averages=averages,
            replaced=(((*_TRAINING, "_target_"), self.options.of),),
            removed=((*_TRAINING, "relaxation"), ("hyper_parameters", "relaxation"), state),
        )


@functools.cache
def _relaxed(of: str) -> type[Relaxed]:
    """The class of a relaxed training module."""
    base = class_at(of)
    if not issubclass(base, NequIPLightningModule) or issubclass(base, Relaxed):
        raise ValueError(f"relaxation.of is {of!r}, which is no training module of NequIP's; name the one that is relaxed.")
    return type(f"Relaxed{base.__name__}", (Relaxed, base), {})
