"""Lightning's averages of weights (EMAWeightAveraging, StochasticWeightAveraging): copies of the module that is trained."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.optim.swa_utils import AveragedModel

from relaxify.lightning.framework import Callback, LightningModule, Trainer
from relaxify.relaxation.projecting import project
from relaxify.relaxation.terms.term import terms_of

_AVERAGE = "_average_model"


def _averaging(trainer: Trainer) -> list[Callback]:
    return [callback for callback in trainer.callbacks if hasattr(callback, _AVERAGE)]  # type: ignore[attr-defined]


def _averages(trainer: Trainer) -> Iterator[tuple[Callback, nn.Module]]:
    for callback in _averaging(trainer):
        if (average := getattr(callback, _AVERAGE)) is not None:
            yield callback, average


def in_order(trainer: Trainer, relaxation: Callback, module: LightningModule) -> None:
    """Averages of a module that was just relaxed are copied anew, and come before `relaxation` in each hook.

    So what they average is over when theta moves on. For those that the Trainer calls later this changes nothing.
    """
    for callback, _ in _averages(trainer):
        callback.setup(trainer, module, "fit")
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    ahead = {id(callback) for callback in _averaging(trainer)}
    last = max((k for k, callback in enumerate(callbacks) if id(callback) in ahead), default=-1)
    if last > callbacks.index(relaxation):
        behind = [callback for callback in callbacks[: last + 1] if callback is not relaxation]
        # a list of its own: the Trainer is going through the one that there is
        trainer.callbacks = [*behind, relaxation, *callbacks[last + 1 :]]  # type: ignore[attr-defined]


def tie_thetas(trainer: Trainer, module: LightningModule) -> None:
    """Averages of buffers have the very theta of what is trained, wherever both have been moved: it is not averaged."""
    for _, average in _averages(trainer):
        if isinstance(average, AveragedModel):
            for term, own in zip(terms_of(average.module).values(), terms_of(module).values(), strict=True):
                term.theta = own.theta


def end_averages(trainer: Trainer) -> None:
    """After the fit, when the averages have been copied to what is projected."""
    for callback, average in _averages(trainer):
        if isinstance(average, AveragedModel):
            # WeightAveraging would save it, relaxed, in the place of the module
            setattr(callback, _AVERAGE, None)
        elif terms_of(average):
            project(average, inplace=True)
