"""Relaxed: a training module of NequIP's whose model is trained relaxed (CR sec. 3), and saved so that it converts."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from nequip.train import NequIPLightningModule
from torch import Tensor, nn

from relaxify.checkpoint.notes import Note
from relaxify.nequip.compiled import check_controller, shown
from relaxify.nequip.options import Options, class_at
from relaxify.relaxation.attach import relaxify
from relaxify.relaxation.controllers.controller import LearningController
from relaxify.relaxation.penalties import penalty
from relaxify.relaxation.planning import UncheckedWarning
from relaxify.relaxation.projecting import project
from relaxify.relaxation.switching import thetas

NOTE = "relaxify"
_TRAINING = ("hyper_parameters", "info_dict", "training_module")


class Relaxed(NequIPLightningModule):  # type: ignore[misc]
    """A training module of NequIP's, trained relaxed: two lines of its YAML.

        training_module:
          _target_: relaxify.nequip.Relaxed
          relaxation: {of: nequip.train.EMALightningModule, group: O(3)}

    All else stays as it was, `model` too, which may be any builder's. `relaxation` takes what `Options` has.

    The model is relaxed as soon as it is built, so that averages of weights hold the terms too; the penalty (CR eq. 5) is
    added to the loss; theta moves with the optimizer's steps, and goes on where it was after a restart (`ckpt_path`).
    Validation measures the equivariant part. `evaluation_model`, which nequip-package, nequip-compile and
    `ModelFromCheckpoint` ask for, is the plain model; `relaxify convert` writes the plain training module's checkpoint.

    ValueError if `relaxation` makes no sense, or for training modules that step their optimizer themselves.
    """

    def __new__(cls, *args: Any, relaxation: Any = None, **kwargs: Any) -> Relaxed:
        return super().__new__(_relaxed(Options.read(relaxation).of) if cls is Relaxed else cls)

    def __init__(self, *, relaxation: dict[str, Any], **kwargs: Any) -> None:
        # what super() builds the model with
        self.options = Options.read(relaxation)
        self.controller: Any = None
        self._saved_controller: dict[str, Any] | None = None
        super().__init__(**kwargs)
        if not self.automatic_optimization:
            raise ValueError(
                f"{self.options.of} steps its optimizer itself, so no penalty can be added to its loss; "
                "relax nequip.train.EMALightningModule, or another that leaves this to Lightning."
            )

    def _build_model(self, model_config: dict[str, Any]) -> nn.Module:
        model: nn.Module = super()._build_model(model_config)
        options = self.options
        with warnings.catch_warnings():
            # of a model that is not there before its training module is, there are no example inputs
            warnings.simplefilter("ignore", UncheckedWarning)
            return relaxify(model, options.group, include=options.include, exclude=options.exclude, config=options.config)

    def on_train_start(self) -> None:
        super().on_train_start()
        total_steps = int(self.trainer.estimated_stepping_batches)
        self.controller = self.options.make_controller(self.model, total_steps)
        check_controller(self.model, self.controller)
        if self._saved_controller is not None:
            self.controller.load_state_dict(self._saved_controller)
            self._say_if_longer(total_steps)
        optimizer = self.optimizers(use_pl_optimizer=False)
        self._stepping = optimizer.register_step_post_hook(lambda *_: self.controller.step())

    def _say_if_longer(self, total_steps: int) -> None:
        """Theta goes on as it was planned, however long the training has become."""
        planned = (self._saved_controller or {}).get("total_steps")
        if planned is not None and planned != total_steps:
            warnings.warn(
                f"this training has {total_steps} steps and was begun with {planned}: theta stays on the schedule of the "
                f"{planned}.",
                stacklevel=2,
            )

    def on_train_end(self) -> None:
        self._stepping.remove()
        super().on_train_end()

    def forward(self, inputs: Any) -> Any:
        with shown(self.model):
            return super().forward(inputs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        # NequIP multiplies by the number of processes, over which the gradients are averaged
        unit = loss.detach() / self.world_size if self.options.relative else None
        added = penalty(self._replicated, relative_to=unit)
        if isinstance(self.controller, LearningController):
            added = added + self.controller.loss_term()
        self.log_dict({"relaxation/penalty": added.detach(), "relaxation/theta": max(map(abs, thetas(self.model).values()))})
        return loss + added

    @property
    def _replicated(self) -> nn.Module:
        """The model as the processes of the training share it."""
        wrapped = self.trainer.strategy.model
        return wrapped if isinstance(wrapped, nn.parallel.DistributedDataParallel) else self.model

    @property
    def evaluation_model(self) -> nn.Module:
        return project(super().evaluation_model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        state = {} if self.controller is None else {"controller": self.controller.state_dict()}
        checkpoint[NOTE] = self._note().written() | state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._saved_controller = checkpoint.get(NOTE, {}).get("controller")

    def _note(self) -> Note:
        averages = "ema.ema_weight_" if isinstance(getattr(self, "ema", None), nn.Module) else None
        return Note(
            state_dict=("state_dict",),
            parameters=tuple(f"model.{name}" for name, _ in self.model.named_parameters()),
            averages=averages,
            replaced=(((*_TRAINING, "_target_"), self.options.of),),
            removed=((*_TRAINING, "relaxation"), ("hyper_parameters", "relaxation")),
        )


@functools.cache
def _relaxed(of: str) -> type[Relaxed]:
    """The class of a relaxed training module."""
    base = class_at(of)
    if not issubclass(base, NequIPLightningModule) or issubclass(base, Relaxed):
        raise ValueError(f"relaxation.of is {of!r}, which is no training module of NequIP's; name the one that is relaxed.")
    return type(f"Relaxed{base.__name__}", (Relaxed, base), {})
