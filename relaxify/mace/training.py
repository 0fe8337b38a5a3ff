"""MACE's own training, relaxed: f(x) + theta W x (CR eq. 2) in every equivariant linear layer of the model that it builds.

MACE builds its data, model, optimizer and averages as ever. Once the optimizer's groups are made the model is relaxed, and
the terms get a group of their own; in every step the penalty (CR eq. 5) is added to the loss, and theta moves; validation
sees the projected model; and when training ends it is projected, before MACE loads its best weights into it and saves it.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from relaxify.groups import Group
from relaxify.mace.hook_points import Call, Hook, HookPoint, hooked, training_program
from relaxify.mace.resuming import KEY, kept, resume
from relaxify.modules.patterns import Pattern
from relaxify.relaxation.attach import relaxify
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.controllers.controller import Span
from relaxify.relaxation.controllers.schedules import Constant, Cosine, Schedule, Triangle
from relaxify.relaxation.penalties import penalty
from relaxify.relaxation.projecting import project
from relaxify.relaxation.summary import summary
from relaxify.relaxation.terms.term import terms_of

_log = logging.getLogger("relaxify")

SCHEDULES: dict[str, type[Schedule]] = {"triangle": Triangle, "cosine": Cosine, "constant": Constant}

REFUSED = {
    "distributed": "training on several processes",
    "lora": "LoRA, whose layers are not MACE's own",
    "lbfgs": "LBFGS, whose line search needs a loss that does not change from one look to the next",
    "enable_oeq": "OpenEquivariance",
}
"""Options of MACE with which a relaxed training is not known to work, and what each is."""

ROTATED = ("positions", "shifts", "cell", "rcell", "external_field")
"""What MACE's models read of a batch that turns along with the atoms, on the last axis."""

BUILT = HookPoint("mace.cli.run_train", "configure_model", ("train_loader",))
GROUPED = HookPoint("mace.cli.run_train", "get_params_options", ("args", "model"))
TRAINED = HookPoint(
    "mace.tools", "train", ("model", "train_loader", "optimizer", "max_num_epochs", "start_epoch", "ema", "swa")
)
EPOCH = HookPoint("mace.tools.train", "train_one_epoch", ("epoch",))
STEP = HookPoint("mace.tools.train", "take_step", ("model", "loss_fn"))
SAVED = HookPoint("mace.tools.checkpoint", "CheckpointBuilder.create_checkpoint", ("state",))
LOADED = HookPoint("mace.tools.checkpoint", "CheckpointBuilder.load_checkpoint", ("state", "checkpoint"))


@dataclass(frozen=True)
class Relaxation:
    """How a training of MACE is relaxed.

    - `group`, `include`, `exclude`, `config`: as of `relaxify`.
    - `schedule`: triangle, cosine or constant, with its `peak` and `until`.
    - `lr`: the terms' learning rate; MACE's by default.
    - `checked`: whether it is measured first, on two structures of the training set, that the model has the symmetry.

    ValueError for an unknown group or schedule, or an `until` outside (0, 1].

    >>> Relaxation().group
    'O(3)'
    """

    group: str = "O(3)"
    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    config: RelaxConfig = field(default_factory=RelaxConfig)
    schedule: Literal["triangle", "cosine", "constant"] = "triangle"
    peak: float = 1.0
    until: float = 0.5
    lr: float | None = None
    checked: bool = True

    def __post_init__(self) -> None:
        Group.parse(self.group)
        Span.checked(1, self.until)
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r}: unknown; use {', '.join(SCHEDULES)}.")


def train(arguments: argparse.Namespace, relaxation: Relaxation = Relaxation()) -> None:
    """Run MACE's training on the arguments that its own parser has read, relaxed.

    It writes what `mace_run_train` writes: `.model` files of the plain model, with its compiled form, and checkpoints that
    hold the terms (which `relaxify convert` takes out) and with which `--restart_latest` goes on to the last bit.

    ValueError, before the training begins, if MACE cannot be imported or has not the functions that are hooked, for an
    option of `REFUSED`, for what `relaxify` refuses, and for a checkpoint to go on from that no training like this one left.
    """
    program = training_program()
    for name, what in REFUSED.items():
        if getattr(arguments, name, False):
            raise ValueError(f"a relaxed training does not know {what}; leave --{name} out.")
    with hooked(_Run(relaxation).hooks):
        program.run(arguments)


class _Run:
    """One relaxed training: what its hooks need to know of each other."""

    def __init__(self, relaxation: Relaxation) -> None:
        self.relaxation = relaxation
        self.examples: list[Any] = []
        self.model: nn.Module | None = None
        self.epoch_to_skip: int | None = None
        self.loaded: dict[str, Any] | None = None
        self.not_loaded: Exception | None = None
        self.parts: dict[str, Any] = {}
        self.handles: list[Any] = []
        self.penalty = 0.0

    @property
    def hooks(self) -> dict[HookPoint, Hook]:
        return {
            BUILT: self._see_data,
            GROUPED: self._relax,
            TRAINED: self._train,
            EPOCH: self._train_one_epoch,
            STEP: self._take_step,
            SAVED: self._save,
            LOADED: self._load,
        }

    def _see_data(self, call: Call) -> Any:
        """Two structures of the training set, taken past the loader: to iterate it would change the batches to come."""
        loader = call["train_loader"]
        if self.relaxation.checked:
            with_edges = (sample for sample in _samples(loader.dataset) if sample.edge_index.shape[1])
            self.examples = [loader.collate_fn(list(itertools.islice(with_edges, 2)))]
        return call.proceed()

    def _relax(self, call: Call) -> Any:
        options, model = call.proceed(), call["model"]
        if "training" not in _parameters(type(model).forward):
            raise ValueError(
                f"the forward of MACE's {type(model).__name__} is not told whether it trains; use another model."
            )
        for group in options["params"]:
            # MACE hands on generators, which would find the terms too
            group["params"] = list(group["params"])
        self._relax_model(model)
        terms = [weight for term in terms_of(model).values() for weight in term.parameters()]
        rate = call["args"].lr if self.relaxation.lr is None else self.relaxation.lr
        options["params"].append({"name": "relaxation", "params": terms, "weight_decay": 0.0, "lr": rate})
        self.model = model
        self.handles = [
            model.register_forward_pre_hook(_enter, with_kwargs=True),
            model.register_forward_hook(_leave, always_call=True),
        ]
        _log.info(f"relaxify: {summary(model)}")
        return options

    def _relax_model(self, model: nn.Module) -> None:
        wanted = self.relaxation
        options: dict[str, Any] = {}
        if self.examples:
            device = next(model.parameters()).device
            options = {"example_inputs": (self.examples[0].to(device).to_dict(),), "input_action": rotated}
        frozen = [_is_frozen] if any(_is_frozen(path, module) for path, module in model.named_modules()) else []
        relaxify(
            model,
            wanted.group,
            include=wanted.include,
            exclude=(*wanted.exclude, *frozen),
            config=wanted.config,
            **options,
        )

    def _train(self, call: Call) -> Any:
        if self.not_loaded is not None:
            raise self.not_loaded
        model: nn.Module = call["model"]
        optimizer, loader = call["optimizer"], call["train_loader"]
        if self.model is None or model is not self.model:
            raise ValueError(
                "MACE trains another model than it made an optimizer for, so it is not relaxed; train it plainly."
            )
        steps = len(loader) * call["max_num_epochs"]
        wanted = self.relaxation
        schedule = SCHEDULES[wanted.schedule](model, steps, wanted.peak, until=wanted.until, optimizer=optimizer)
        self.parts = {
            "model": model,
            "controller": schedule,
            "loader": loader,
            "ema": call["ema"],
            "swa": call["swa"],
        }
        if self.loaded is not None:
            self.epoch_to_skip = call["start_epoch"]
        result = call.proceed()
        self._project(model)
        return result

    def _project(self, model: nn.Module) -> None:
        for handle in self.handles:
            handle.remove()
        project(model, inplace=True)
        self.parts = {}
        _log.info("relaxify: projected; what follows is the plain model")

    def _train_one_epoch(self, call: Call) -> Any:
        """Trained, unless it is the epoch after which the checkpoint was made: MACE begins with that again."""
        if call["epoch"] == self.epoch_to_skip:
            self.epoch_to_skip = None
            assert self.loaded is not None
            self._resume(self.loaded)
            return None
        schedule = self.parts["controller"]
        before = schedule.steps
        result = call.proceed()
        if schedule.steps == before:
            raise ValueError("MACE has trained for an epoch without a step that could be relaxed; train it plainly.")
        _log.info(f"relaxify: Epoch {call['epoch']}: theta={schedule.theta:.4f}, penalty={self.penalty:.3e}")
        return result

    def _resume(self, state: dict[str, Any]) -> None:
        schedule = self.parts["controller"]
        steps = schedule.span.total_steps
        resume(state, **self.parts)
        _log.info(f"relaxify: goes on after step {schedule.steps}, theta={schedule.theta:.4f}")
        if (begun := schedule.span.total_steps) != steps:
            _log.warning(
                f"relaxify: theta's schedule goes on as it was begun, over {begun} steps; this training has {steps}"
            )

    def _take_step(self, call: Call) -> Any:
        loss_fn, model = call["loss_fn"], call["model"]

        def penalised(*args: Any, **kwargs: Any) -> Tensor:
            loss = loss_fn(*args, **kwargs)
            added = penalty(model, relative_to=loss)
            self.penalty = float(added.detach())
            return loss + added

        call["loss_fn"] = penalised
        result = call.proceed()
        self.parts["controller"].step()
        return result

    def _save(self, call: Call) -> Any:
        checkpoint = call.proceed()
        if self.parts:
            checkpoint[KEY] = kept(**self.parts)
        return checkpoint

    def _load(self, call: Call) -> Any:
        """MACE goes on in silence where a checkpoint does not load; what was wrong is said when training would begin."""
        checkpoint = call["checkpoint"]
        self.loaded, self.not_loaded = checkpoint.get(KEY), None
        if self.loaded is None:
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


def rotated(g: Tensor, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch of MACE, a dict, with the atoms and their cells turned by the matrix g.

    >>> batch = {"positions": torch.eye(3), "charges": torch.ones(3)}
    >>> rotated(-torch.eye(3), (batch,))[0]["positions"][0]
    tensor([-1., -0., -0.])
    """
    batch, *more = inputs
    turned = {name: batch[name] @ g.to(batch[name]).mT for name in ROTATED if name in batch}
    return ({**batch, **turned}, *more)


def _samples(dataset: Any) -> Iterator[Any]:
    return (dataset[index] for index in range(len(dataset)))


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _is_frozen(path: str, module: nn.Module) -> bool:
    own = list(module.parameters())
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def _enter(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """MACE's models stay in train() for good; whether they train, their forward is told."""
    trains = kwargs.get("training", args[1] if len(args) > 1 else False)
    _force(model, None if trains else False)


def _leave(model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    _force(model, None)


def _force(model: nn.Module, value: bool | None) -> None:
    for term in terms_of(model).values():
        term.forced = value
