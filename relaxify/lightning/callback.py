"""Relaxation: all that a loop does for a relaxed model, as a callback of Lightning's Trainer (CR sec. 3.2)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from relaxify.groups import Group
from relaxify.lightning.averages import end_averages, in_order, tie_thetas
from relaxify.lightning.checkpoints import RelaxedKeys, lead_to_projected, save_projected
from relaxify.lightning.dependence import depends_on
from relaxify.lightning.framework import Callback, LightningModule, Trainer
from relaxify.lightning.length import steps_of
from relaxify.lightning.methods import StandIn
from relaxify.lightning.optimizers import join_layers, remove_terms, with_terms
from relaxify.lightning.places import NotThereError, part_of, uncompiled
from relaxify.lightning.progress import Progress
from relaxify.lightning.values import PREFIX, Values
from relaxify.modules.patterns import Pattern
from relaxify.relaxation.attach import relaxify
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.controllers.controller import Controller, LearningController
from relaxify.relaxation.controllers.schedules import Triangle
from relaxify.relaxation.distributed import replicated
from relaxify.relaxation.penalties import penalty
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.planning import ExampleInputs, plan
from relaxify.relaxation.projecting import Mode, project
from relaxify.relaxation.terms.term import terms_of

_NO_LOSS = (
    "no loss of this training had a penalty added, so nothing holds the terms: training_step has to return the loss, or, "
    "with manual optimization, to call self.manual_backward(loss) with one that depends on the relaxed part."
)
_SHARDING = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")


class Relaxation(Callback):
    """Relaxes a part of a LightningModule, trains its terms with it, and projects it when the fit is over.

    The part is relaxed before optimizers are configured, the module wrapped for data parallelism, or a checkpoint loaded.
    To each loss that `training_step` returns (or `manual_backward` is given) `penalty(part, relative_to=loss)` is added.
    After every optimizer step, of `trainer.global_step`, theta moves on; with manual optimization, after every batch.

    - `group`, `include`, `exclude`, `config` and what else `relaxify` takes: see there.
    - `at`: the path of the part in the LightningModule. By default its only child with layers to relax; the whole, if there
      are several.
    - `controller`: makes what moves theta, of the model and `total_steps`: `functools.partial(Triangle, until=0.25)`.
    - `total_steps`: by default `trainer.estimated_stepping_batches`, also of a fit that is resumed with another length:
      then theta goes on by the new length, and a warning says where it is.
    - `relative`: whether the penalty is relative to the loss.
    - `log`: every `trainer.log_every_n_steps` steps theta, the largest share of a term in its layer's output, the penalty,
      and the losses of the same batch with the terms and without (of what `training_step` returns) go to the loggers, as
      "relaxation/...". "layers": theta, share and penalty of each layer besides. False: nothing.
    - `project_at_end`, `mode`: when the fit is over the part is projected in place, so that `test`, `predict` and
      `save_checkpoint` have the plain model, and optimizers without terms. Beside the last checkpoint that model is saved as
      `projected.ckpt`, and the best one is converted, to which `best_model_path` then leads. With False, the model stays
      relaxed: see `project`. A fit that is interrupted leaves it relaxed.

    Relaxed checkpoints load into the plain module whenever the Trainer has this callback; `relaxify convert` takes them too.

    ValueError if the part is not there or cannot be relaxed (see `relaxify`), or the length of the training is not known.

    >>> import torch
    >>> from lightning.pytorch import LightningModule, Trainer
    >>> class Task(LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.net = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False))
    ...
    ...     def training_step(self, batch, index):
    ...         return (self.net(batch) - 1).square().mean()
    ...
    ...     def configure_optimizers(self):
    ...         return torch.optim.Adam(self.parameters())
    >>> x = torch.randn(8, 5, 3, 2)  # clouds, points, components, channels
    >>> task, relaxation = Task(), Relaxation("SO(3)", example_inputs=x[0])
    >>> quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    >>> Trainer(callbacks=[relaxation], max_epochs=1, accelerator="cpu", **quiet).fit(task, torch.utils.data.DataLoader(x))
    >>> relaxation.steps, list(task.state_dict())
    (8, ['net.0.weight', 'net.1.weight'])
    """

    def __init__(
        self,
        group: Group | str,
        at: str | None = None,
        *,
        controller: Callable[[nn.Module, int], Controller] = Triangle,
        total_steps: int | None = None,
        config: RelaxConfig = RelaxConfig(),
        include: Sequence[Pattern] = (),
        exclude: Sequence[Pattern] = (),
        overrides: Mapping[Pattern, RelaxConfig] | None = None,
        example_inputs: ExampleInputs | None = None,
        keep_relaxed: bool = False,
        relative: bool = True,
        log: bool | str = True,
        project_at_end: bool = True,
        mode: Mode = "drop",
        **options: Any,
    ) -> None:
        if log not in (True, False, "layers"):
            raise ValueError(f"Relaxation(log={log!r}): True, False, or 'layers' for each layer's values besides.")
        if mode not in ("drop", "fold", "fit"):
            raise ValueError(f"Relaxation(mode={mode!r}): unknown; use 'drop', 'fold' or 'fit'.")
        self.group, self.at = group, at
        self.make_controller, self.total_steps = controller, total_steps
        self.selection: dict[str, Any] = {"include": include, "exclude": exclude, "example_inputs": example_inputs}
        self.how: dict[str, Any] = {"config": config, "overrides": overrides, "keep_relaxed": keep_relaxed, **options}
        self.relative, self.project_at_end, self.mode = relative, project_at_end, mode
        self.model: nn.Module | None = None
        self.progress = Progress()
        self._stand_ins: list[StandIn] = []
        self._keys: RelaxedKeys | None = None
        self._checkpoint: dict[str, Any] = {}
        self._processes: dist.ProcessGroup | None = None
        self._values = Values(log)
        self._acted_at_start = False

    @property
    def controller(self) -> Controller | None:
        """What moves theta, once the training has begun."""
        return self.progress.controller

    @property
    def steps(self) -> int:
        """How many steps theta has moved on."""
        return self.progress.steps

    @property
    def state_key(self) -> str:
        return self._generate_state_key(at=self.at)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._keys is not None:
            self._keys.end()
        self._keys = RelaxedKeys(pl_module, self._relax) if stage != "fit" else None
        if stage != "fit":
            return
        if (strategy := type(trainer.strategy).__name__) in _SHARDING:
            raise ValueError(
                f"Relaxation cannot train with {strategy}, which shards the parameters before terms could be added; use "
                "strategy='ddp', or relax the model yourself before it is sharded."
            )
        self.progress.begin()
        try:
            self._relax_for_training(trainer, pl_module)
        except NotThereError:
            # of a module that makes its parts in one of these
            later = [name for name in ("setup", "configure_model") if _has_own(pl_module, name)]
            if not later:
                raise
            for name in later:
                self._stand_in(pl_module, name, functools.partial(self._after, trainer, pl_module, name == later[-1]))

    def _after(
        self, trainer: Trainer, pl_module: LightningModule, is_last: bool, own: Any, *args: Any, **kwargs: Any
    ) -> Any:
        result = own(*args, **kwargs)
        try:
            if self.model is None:
                self._relax_for_training(trainer, pl_module)
        except NotThereError:
            if is_last:
                raise
        return result

    def _relax_for_training(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._relax(pl_module)
        in_order(trainer, self, pl_module)

    def _relax(self, pl_module: LightningModule) -> None:
        self.model = None
        part = part_of(pl_module, self.at, self._is_relaxable)
        with uncompiled(part):
            self.model = relaxify(part, self.group, **self.selection, **self.how)

    def _is_relaxable(self, part: nn.Module) -> bool:
        with uncompiled(part):
            return bool(plan(part, self.group).sites)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._checkpoint = checkpoint
        # of a fit whose callback had another `at`, which may have meant the same part
        states = checkpoint.get("callbacks") or {}
        others = [state for key, state in states.items() if str(key).startswith(f"{type(self).__qualname__}{{")]
        if self.state_key not in states and len(self._alike(trainer)) == len(others) == 1:
            self.load_state_dict(others[0])

    def _alike(self, trainer: Trainer) -> list[Callback]:
        return [callback for callback in trainer.callbacks if isinstance(callback, type(self))]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_stand_ins()
        assert self.model is not None
        join_layers(self.model, trainer.optimizers)
        tie_thetas(trainer, pl_module)
        if states := self._checkpoint.get("optimizer_states"):
            optimizers = zip(trainer.optimizers, states, strict=False)
            self._checkpoint["optimizer_states"] = [with_terms(self.model, *pair) for pair in optimizers]
        self._checkpoint = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.model is not None
        self._processes = self.processes(trainer)
        with replicated(self._processes):
            self.progress.start(
                lambda steps: self._controller(trainer, steps),
                self.model,
                self.total_steps or steps_of(trainer, automatic=pl_module.automatic_optimization),
                _clock(trainer, pl_module),
                is_told=self.total_steps is not None,
            )
        self._acted_at_start = not all(term.finished for term in terms_of(self.model).values())
        self._values.begin(trainer, PREFIX if len(self._alike(trainer)) == 1 else f"{PREFIX}{self.at or 'module'}/")
        if pl_module.automatic_optimization:
            self._stand_in(pl_module, "training_step", functools.partial(self._training_step, trainer, pl_module))
        else:
            self._stand_in(pl_module, "manual_backward", self._manual_backward)

    def _controller(self, trainer: Trainer, steps: int) -> Controller:
        assert self.model is not None
        controller = self.make_controller(self.model, steps)
        if getattr(controller, "scaler", False) is None:
            controller.scaler = getattr(trainer.precision_plugin, "scaler", None)  # type: ignore[attr-defined]
        return controller

    def _training_step(self, trainer: Trainer, pl_module: LightningModule, own: Any, *args: Any, **kwargs: Any) -> Any:
        assert self.model is not None
        output = self._values.of_step(pl_module, self.model, _clock(trainer, pl_module) + 1, own, args, kwargs)
        if isinstance(output, Mapping) and output.get("loss") is not None:
            return {**output, "loss": self._penalised(output["loss"])}
        return self._penalised(output) if isinstance(output, Tensor) else output

    def _manual_backward(self, own: Any, loss: Tensor, *args: Any, **kwargs: Any) -> Any:
        assert self.model is not None
        if depends_on(loss, [parameter for term in terms_of(self.model).values() for parameter in term.parameters()]):
            loss = self._penalised(loss)
        return own(loss, *args, **kwargs)

    def _penalised(self, loss: Tensor) -> Tensor:
        """The loss, the penalty, and what a controller that learns adds."""
        assert self.model is not None
        terms = terms_of(self.model).values()
        if all(term.sketch.is_empty for term in terms) and not all(term.finished for term in terms):
            # the step did without the relaxed part
            return loss
        with replicated(self._processes):
            added = penalty(self.model, relative_to=self.unit(loss) if self.relative else None)
        self._values.penalty = added.detach()
        loss = loss + added
        return loss + self.controller.loss_term() if isinstance(self.controller, LearningController) else loss

    def processes(self, trainer: Trainer) -> dist.ProcessGroup | None:
        """Over which gradients are averaged, if there are several."""
        wrapped = trainer.strategy.model
        return wrapped.process_group if isinstance(wrapped, DistributedDataParallel) else None

    def unit(self, loss: Tensor) -> Tensor:
        """What a penalty is relative to: the loss, unless a subclass knows better."""
        return loss

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        clock = _clock(trainer, pl_module)
        due = self.progress.due(clock)
        if due and self._values.are_due(clock) and self.model is not None:
            with replicated(self._processes):
                pl_module.log_dict(self._values.taken(self.model))
        with replicated(self._processes):
            for _ in range(due):
                self.progress.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_stand_ins()
        if self.steps and self._acted_at_start and self._values.penalty is None:
            warnings.warn(_NO_LOSS, PitfallWarning, stacklevel=2)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end_stand_ins()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.project_at_end or self.model is None:
            return
        remove_terms(self.model, trainer.optimizers)
        with replicated(self._processes), uncompiled(self.model):
            project(self.model, mode=self.mode, inplace=True)
        end_averages(trainer)
        self.model = None
        save_projected(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._project_loaded(trainer)

    on_predict_start = on_validation_start = on_test_start

    def _project_loaded(self, trainer: Trainer) -> None:
        keys, self._keys, self._checkpoint = self._keys, None, {}
        if keys is None:
            return
        keys.end()
        if not self.project_at_end:
            return
        if keys.has_relaxed and self.model is not None:
            project(self.model, inplace=True)
            self.model = None
        lead_to_projected(trainer)

    def _stand_in(self, pl_module: LightningModule, name: str, call: Callable[..., Any]) -> None:
        self._stand_ins.append(StandIn(pl_module, name, call))

    def _end_stand_ins(self) -> None:
        while self._stand_ins:
            self._stand_ins.pop().end()

    def state_dict(self) -> dict[str, Any]:
        return self.progress.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.progress.saved = state_dict


def _clock(trainer: Trainer, pl_module: LightningModule) -> int:
    """What theta moves with: optimizer steps; batches, if the module makes the steps itself, as often as it likes."""
    return trainer.global_step if pl_module.automatic_optimization else trainer.fit_loop.total_batch_idx + 1


def _has_own(pl_module: LightningModule, name: str) -> bool:
    return getattr(type(pl_module), name) is not getattr(LightningModule, name)
