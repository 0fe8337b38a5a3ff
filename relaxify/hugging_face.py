"""Training with Hugging Face's Trainer: a callback that relaxes, moves theta and projects, and a Trainer with the penalty.

With Accelerate, whose loop is the user's, `attach` of a controller takes the prepared optimizer, and nothing else is needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from relaxify.groups import Group
from relaxify.relaxation.attach import relaxify
from relaxify.relaxation.controllers.controller import Controller, LearningController
from relaxify.relaxation.controllers.lengthening import go_on
from relaxify.relaxation.controllers.schedules import Triangle
from relaxify.relaxation.optimizing import add_terms, relaxation_parameters
from relaxify.relaxation.penalties import penalty
from relaxify.relaxation.pitfalls import PitfallWarning, terms_outside
from relaxify.relaxation.projecting import Mode, project
from relaxify.relaxation.summary import summary
from relaxify.relaxation.terms.term import terms_of

__all__ = ["Relaxation", "RelaxedTrainer", "WithPenalty"]


class Relaxation(TrainerCallback, ExportableState):
    """Relaxes the Trainer's model, moves theta with its steps, and projects it in place when the training is over.

    - `group`, and `options` such as `include`, `exclude`, `config`, `example_inputs`: as of `relaxify`. A model that is
      relaxed already stays as it is.
    - `controller`: makes what moves theta, of the model and the number of steps: `partial(Triangle, until=0.25)`.
    - `relative`: whether the penalty is relative to the loss (see `penalty`).
    - `project_at_end`, `mode`: whether and how to `project` after the last step, or after the best model was loaded, so that
      `save_model` writes the plain one. Without it, `relaxify convert` takes the folders that are saved.

    Steps are the optimizer's, as the Trainer counts them: not those of micro-batches, and those that a scaler leaves out
    too. A training that is resumed goes on where it was saved; if it is to be longer or shorter than it was then, or its
    controller has another `until` or `peak`, theta goes on by those, and a warning says so. Use it with `RelaxedTrainer`,
    which adds the penalty to the loss.

        trainer = RelaxedTrainer(model, args, train_dataset=data, callbacks=[Relaxation("SO(3)")])
    """

    def __init__(
        self,
        group: Group | str,
        *,
        controller: Callable[[nn.Module, int], Controller] = Triangle,
        relative: bool = True,
        project_at_end: bool = True,
        mode: Mode = "drop",
        **options: Any,
    ) -> None:
        self.group, self.options = group, options
        self.make_controller, self.relative = controller, relative
        self.project_at_end, self.mode = project_at_end, mode
        self.controller: Controller | None = None
        self.has_penalty = False

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Before the optimizer is made, and the model wrapped or loaded."""
        if getattr(args, "restore_callback_states_from_checkpoint", False):
            raise ValueError(
                "restore_callback_states_from_checkpoint makes callbacks anew, which Relaxation cannot be; leave it out: "
                "Relaxation goes on where it was saved without it."
            )
        if not terms_of(given["model"]):
            relaxify(given["model"], self.group, **self.options)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        model: nn.Module = given["model"]
        if not terms_of(model):
            raise RuntimeError(
                "the model was projected at the end of the last training; make a new Trainer to train it relaxed again, or "
                "pass Relaxation(..., project_at_end=False) and project it yourself."
            )
        optimizer = given.get("optimizer")
        if optimizer is not None and (sentence := terms_outside(model, optimizer)) is not None:
            warnings.warn(sentence, PitfallWarning, stacklevel=2)
        self.controller = self.make_controller(model, state.max_steps)
        states: Any = state.stateful_callbacks
        saved = dict(states.get(type(self).__name__) or {}).get("attributes", {}).get("saved")
        if saved is not None and state.global_step and (changed := go_on(self.controller, saved, model)):
            warnings.warn(changed, PitfallWarning, stacklevel=2)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if not self.has_penalty:
            raise RuntimeError(
                "the Trainer adds no penalty to its loss: train with RelaxedTrainer, or derive yours, as in "
                "class MyTrainer(relaxify.hugging_face.WithPenalty, Trainer)."
            )
        assert self.controller is not None
        self.controller.step()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if self.project_at_end:
            project(given["model"], mode=self.mode, inplace=True)

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps of it in a checkpoint."""
        return {"args": {}, "attributes": {"saved": None if self.controller is None else self.controller.state_dict()}}

    def penalty(self, model: nn.Module, loss: Tensor, micro_batches: int) -> Tensor:
        """To be added to the loss of one of so many micro-batches, whose losses are added up."""
        self.has_penalty = True
        added = penalty(model, relative_to=loss) if self.relative else penalty(model) / micro_batches
        if isinstance(self.controller, LearningController):
            added = added + self.controller.loss_term() / micro_batches
        return added


# what it is mixed into is a Trainer
if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
else:
    _Trainer = object


class WithPenalty(_Trainer):
    """For Trainers of your own: the penalty in the loss, the terms without weight decay, theta and the share in the log.

    class MyTrainer(WithPenalty, Trainer): ...
    """

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The Trainer's loss, and in training the penalty."""
        found: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        relaxation = self._relaxation
        if relaxation is None or not model.training:
            return found
        loss = found[0] if return_outputs else found
        total = loss + relaxation.penalty(model, loss, self._micro_batches(num_items_in_batch))
        return (total, *found[1:]) if return_outputs else total

    def create_optimizer(self, *args: Any, **options: Any) -> Optimizer:
        """The Trainer's optimizer, with the terms in a group of their own, without weight decay."""
        model: Any = self.model
        is_new = getattr(self, "optimizer", None) is None
        optimizer: Optimizer = super().create_optimizer(*args, **options)
        if is_new and terms_of(model):
            _set_apart(optimizer, model)
        return optimizer

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """With theta, the mean of its layers, and the mean share of their outputs."""
        model: Any = self.model
        if "loss" in logs and self._relaxation is not None and terms_of(model):
            found = summary(model)
            layers = list(found.layers.values())
            logs["relaxation_theta"] = sum(layer.theta for layer in layers) / len(layers)
            if found.share is not None:
                logs["relaxation_share"] = found.share
        super().log(logs, *args, **options)

    @property
    def _relaxation(self) -> Relaxation | None:
        callbacks = self.callback_handler.callbacks
        return next((callback for callback in callbacks if isinstance(callback, Relaxation)), None)

    def _micro_batches(self, items: Any) -> int:
        """By how many the Trainer does not divide this loss, though it adds up so many."""
        is_scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if is_scaled is None:
            accepts = getattr(self, "model_accepts_loss_kwargs", False)
            is_scaled = (accepts and items is not None) or getattr(self, "compute_loss_func", None) is not None
        return self.current_gradient_accumulation_steps if is_scaled else 1


class RelaxedTrainer(WithPenalty, Trainer):
    """transformers' Trainer for a relaxed model: give it `Relaxation` among its callbacks."""


def _set_apart(optimizer: Optimizer, model: nn.Module) -> None:
    """Take the terms out of the optimizer's groups, into one of their own."""
    terms = {id(parameter) for parameter in relaxation_parameters(model)}
    for group in optimizer.param_groups:
        kept = [index for index, parameter in enumerate(group["params"]) if id(parameter) not in terms]
        for name in ("params", "param_names"):
            if name in group:
                group[name] = [group[name][index] for index in kept]
    add_terms(optimizer, model)
