"""MACE's own training, relaxed: f(x) + theta W x (CR eq. 2) in every equivariant linear layer of the model that it builds.

MACE builds its data, model, optimizer and averages as ever. Once the optimizer's groups are made the model is relaxed, and
the terms get a group of their own; in every step the penalty (CR eq. 5) is added to the loss, and theta moves; validation
sees the projected model; and when training ends it is projected, before MACE loads its best weights into it and saves it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relaxify.mace.batches import example_batch, rotated
from relaxify.mace.hook_points import Call, Hook, HookPoint, hooked, training_program
from relaxify.mace.options import SCHEDULES, Relaxation
from relaxify.mace.phases import follow_phases
from relaxify.mace.resuming import KEY, Parts, kept, resume
from relaxify.relaxation.attach import relaxify
from relaxify.relaxation.penalties import penalty
from relaxify.relaxation.projecting import project
from relaxify.relaxation.summary import summary
from relaxify.relaxation.terms.term import terms_of

# of MACE's options, and what each is
REFUSED = {
    "distributed": "training on several processes",
    "lora": "LoRA, whose layers are not MACE's own",
    "lbfgs": "LBFGS, whose line search needs a loss that does not change from one look to the next",
    "enable_oeq": "OpenEquivariance",
}

BUILT = HookPoint("mace.cli.run_train", "configure_model", ("train_loader",))
GROUPED = HookPoint("mace.cli.run_train", "get_params_options", ("args", "model"))
TRAINED = HookPoint(
    "mace.tools", "train", ("model", "train_loader", "optimizer", "max_num_epochs", "start_epoch", "ema", "swa")
)
EPOCH = HookPoint("mace.tools.train", "train_one_epoch", ("epoch",))
STEP = HookPoint("mace.tools.train", "take_step", ("model", "loss_fn"))
SAVED = HookPoint("mace.tools.checkpoint", "CheckpointBuilder.create_checkpoint", ("state",))
LOADED = HookPoint("mace.tools.checkpoint", "CheckpointBuilder.load_checkpoint", ("state", "checkpoint"))

RELAXATION = Relaxation()

_log = logging.getLogger("relaxify")


def train(arguments: argparse.Namespace, relaxation: Relaxation = RELAXATION) -> None:
    """Run MACE's training on the arguments that its own parser has read, relaxed.

    It writes what `mace_run_train` writes: `.model` files of the plain model, with its compiled form, and checkpoints that
    hold the terms (which `relaxify convert` takes out) and with which `--restart_latest` goes on to the last bit.

    ValueError, before the training begins, if MACE cannot be imported or has not the functions that are hooked, for an
    option of `REFUSED`, for what `relaxify` refuses, and for a checkpoint to go on from that no training like this one left.
    """
    for name, what in REFUSED.items():
        if getattr(arguments, name, False):
            raise ValueError(f"a relaxed training does not know {what}; leave --{name} out.")
    program = training_program()
    with hooked(_Run(relaxation).hooks):
        program.run(arguments)


class _Run:
    """One relaxed training: its hooks, in the order in which MACE comes to them, and what they know of each other."""

    def __init__(self, relaxation: Relaxation) -> None:
        self.relaxation = relaxation
        self.examples: Any = None
        self.model: nn.Module | None = None
        # what the checkpoint holds that MACE goes on from, or why it cannot
        self.loaded: Mapping[str, Any] | None = None
        self.not_loaded: ValueError | None = None
        self.is_trained = False
        self.penalty = torch.zeros(())

    @property
    def hooks(self) -> dict[HookPoint, Hook]:
        return {
            BUILT: self._see_data,
            GROUPED: self._relax,
            LOADED: self._load,
            TRAINED: self._train,
            EPOCH: self._train_one_epoch,
            STEP: self._take_step,
            SAVED: self._save,
        }

    def _see_data(self, call: Call) -> Any:
        if self.relaxation.checked:
            self.examples = example_batch(call["train_loader"])
        return call.proceed()

    def _relax(self, call: Call) -> Any:
        """MACE tells parameters by their names, and the groups that it makes are the plain model's."""
        options, model = call.proceed(), call["model"]
        for group in options["params"]:
            # generators, which would find the terms too
            group["params"] = list(group["params"])
        self._relax_model(model)
        self.stop_following = follow_phases(model)
        self.model = model
        terms = [weight for term in terms_of(model).values() for weight in term.parameters()]
        rate = call["args"].lr if self.relaxation.lr is None else self.relaxation.lr
        options["params"].append({"name": "relaxation", "params": terms, "weight_decay": 0.0, "lr": rate})
        _log.info(f"relaxify: {summary(model)}")
        return options

    def _relax_model(self, model: nn.Module) -> None:
        wanted = self.relaxation
        checking: dict[str, Any] = {}
        if self.examples is not None:
            batch = self.examples.to(next(model.parameters()).device).to_dict()
            checking = {"example_inputs": (batch,), "input_action": rotated}
        # a pattern that selects nothing is an error
        frozen = (_is_frozen,) if any(_is_frozen(path, module) for path, module in model.named_modules()) else ()
        exclude = (*wanted.exclude, *frozen)
        relaxify(model, wanted.group, include=wanted.include, exclude=exclude, config=wanted.config, **checking)

    def _load(self, call: Call) -> Any:
        """MACE goes on in silence where a checkpoint does not load; what was wrong is said when training would begin."""
        self.loaded, self.not_loaded = call["checkpoint"].get(KEY), None
        if self.loaded is None and not self.is_trained:
            self.not_loaded = ValueError(
                "the checkpoint to restart from is of a plain training; give this one another --name, or begin from that "
                "one's .model with --foundation_model."
            )
            raise self.not_loaded
        try:
            return call.proceed()
        except Exception as error:
            self.not_loaded = ValueError(
                f"the checkpoint to restart from does not load into this relaxed model ({error}); relax the same layers in "
                "the same way as the training that left it."
            )
            raise

    def _train(self, call: Call) -> Any:
        if self.not_loaded is not None:
            raise self.not_loaded
        model: nn.Module = call["model"]
        if model is not self.model:
            raise ValueError(
                "MACE trains another model than its optimizer was made for, which is not relaxed; train it plainly."
            )
        wanted, loader = self.relaxation, call["train_loader"]
        steps = len(loader) * call["max_num_epochs"]
        schedule = SCHEDULES[wanted.schedule](model, steps, wanted.peak, until=wanted.until, optimizer=call["optimizer"])
        self.parts = Parts(model, schedule, loader, call["ema"], call["swa"])
        self.epoch_to_skip = None if self.loaded is None else call["start_epoch"]
        result = call.proceed()
        self.is_trained = True
        self.stop_following()
        project(model, inplace=True)
        _log.info("relaxify: projected; from here on the model is the plain one")
        return result

    def _train_one_epoch(self, call: Call) -> Any:
        """Trained, unless it is the epoch after which the checkpoint was made: MACE begins with that again."""
        schedule, epoch = self.parts.schedule, call["epoch"]
        if epoch == self.epoch_to_skip and self.loaded is not None:
            self.epoch_to_skip = None
            self._resume(self.loaded)
            return None
        before = schedule.steps
        result = call.proceed()
        if schedule.steps == before:
            raise ValueError("MACE has trained for an epoch without a step that could be relaxed; train it plainly.")
        _log.info(f"relaxify: Epoch {epoch}: theta={schedule.theta:.4f}, penalty={float(self.penalty):.3e}")
        return result

    def _resume(self, state: Mapping[str, Any]) -> None:
        schedule, changed = self.parts.schedule, resume(self.parts, state)
        _log.info(f"relaxify: goes on after step {schedule.steps}, theta={schedule.theta:.4f}")
        if changed:
            _log.warning(f"relaxify: {changed}")

    def _take_step(self, call: Call) -> Any:
        loss_fn, model = call["loss_fn"], call["model"]

        def penalised(*args: Any, **kwargs: Any) -> Tensor:
            loss = loss_fn(*args, **kwargs)
            added = penalty(model, relative_to=loss)
            self.penalty = added.detach()
            return loss + added

        call["loss_fn"] = penalised
        result = call.proceed()
        self.parts.schedule.step()
        return result

    def _save(self, call: Call) -> Any:
        checkpoint = call.proceed()
        if not self.is_trained:
            checkpoint[KEY] = kept(self.parts)
        return checkpoint


def _is_frozen(path: str, module: nn.Module) -> bool:
    own = list(module.parameters())
    return bool(own) and not any(parameter.requires_grad for parameter in own)
