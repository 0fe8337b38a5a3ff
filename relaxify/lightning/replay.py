"""The loss of a batch without the terms: `training_step` of a copy, so that what it does besides leaves no trace."""

from __future__ import annotations

import contextlib
import copy
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relaxify.lightning.framework import LightningModule, Trainer
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.switching import projected
from relaxify.relaxation.terms.term import terms_of

_STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")


class Replay:
    """Runs training steps a second time, without the terms and with the same random numbers, until one fails."""

    def __init__(self) -> None:
        self.has_failed = False

    def compared(
        self, module: LightningModule, model: nn.Module, step: Callable[..., Any], batch: tuple[Any, ...], options: Any
    ) -> tuple[Any, dict[str, float]]:
        """What the step returns, and its loss with the terms and without, as far as they are told."""
        is_acting = any(not term.finished and bool(term.theta) for term in terms_of(model).values())
        without = self._projected_loss(module, model, batch) if is_acting else None
        output = step(*batch, **options)
        loss = _loss(output)
        # Lightning would go on showing the last number that there was
        unknown = math.nan if self.has_failed else None
        found = {"relaxed": loss, "projected": loss if not is_acting else unknown if without is None else without}
        return output, {f"loss/{name}": value for name, value in found.items() if value is not None}

    def _projected_loss(self, module: LightningModule, model: nn.Module, batch: tuple[Any, ...]) -> float | None:
        """What `training_step(*batch)` returns without the terms of `model`, a part of the module; None if that is not told.

        The copy shares the parameters, and has batch statistics, metrics and the like of its own; it logs nothing.
        """
        # what steps read themselves from an iterator is read once
        if self.has_failed or any(isinstance(value, Iterator) for value in batch):
            return None
        try:
            with _same_random_numbers(), _eager():
                return _loss(_again(module, model, batch))
        except Exception as error:
            self.has_failed = True
            warnings.warn(
                f"the projected loss is not logged, since training_step did not run on a copy of {type(module).__name__}: "
                f"{type(error).__name__}: {error}",
                PitfallWarning,
                stacklevel=2,
            )
            return None


def _again(module: LightningModule, model: nn.Module, batch: tuple[Any, ...]) -> Any:
    memo: dict[int, Any] = {id(parameter): parameter for parameter in module.parameters()}
    twin = copy.deepcopy(module, memo)
    # of a compiled LightningModule these are the original's
    for name in _STEPS if module._compiler_ctx is not None else ():
        vars(twin).pop(name, None)
    vars(twin).update(_trainer=_Silent(module.trainer), log=_nothing, log_dict=_nothing, print=_nothing)
    with projected(memo.get(id(model), twin)):
        return type(twin).training_step(twin, *copy.deepcopy(batch))


def _loss(output: Any) -> float | None:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    return float(loss) if isinstance(loss, Tensor) else None


def _nothing(*_: Any, **__: Any) -> None:
    pass


class _Silent:
    """A Trainer without loggers, on which nothing can be set."""

    logger = None
    loggers: tuple[Any, ...] = ()

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Within this context random numbers are drawn that are drawn again after it."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _eager() -> contextlib.AbstractContextManager[Any]:
    """A copy is worth no compilation."""
    stance = getattr(torch.compiler, "set_stance", None)
    return contextlib.nullcontext() if stance is None else stance("force_eager")
