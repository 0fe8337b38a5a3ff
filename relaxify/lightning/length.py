"""How many optimizer steps a Trainer will make."""

from __future__ import annotations

import math
from typing import Any

from relaxify.lightning.framework import Trainer


def steps_of(trainer: Trainer, *, automatic: bool) -> int:
    """The optimizer steps of the whole training; with manual optimization, its batches.

    ValueError if they are not known beforehand.
    """
    # StochasticWeightAveraging trains an epoch more, without steps, where there are batch statistics
    extra = sum(_is_longer(callback, trainer.max_epochs) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    trainer.fit_loop.max_epochs -= extra  # type: ignore[operator]
    try:
        steps = _scheduled(trainer) or trainer.estimated_stepping_batches
    finally:
        trainer.fit_loop.max_epochs += extra
    if not automatic and trainer.max_steps != -1:
        # these count the steps of all optimizers
        steps = min(steps, math.ceil(trainer.max_steps / max(len(trainer.optimizers), 1)))
    if not 0 <= steps < math.inf:
        raise ValueError(
            "how many steps this training takes is not known beforehand (no max_epochs or max_steps, or a loader without a "
            "length): say after how many theta is to have ended, Relaxation(..., total_steps=...)."
        )
    return max(int(steps), 1)


def _is_longer(callback: Any, epochs: int | None) -> bool:
    is_after = getattr(callback, "_model_contains_batch_norm", None) and isinstance(epochs, int)
    return bool(is_after) and getattr(callback, "_max_epochs", None) == epochs - 1  # type: ignore[operator]


def _scheduled(trainer: Trainer) -> int | None:
    """The steps, if accumulation differs from epoch to epoch (GradientAccumulationScheduler)."""
    schedules = [callback for callback in trainer.callbacks if hasattr(callback, "get_accumulate_grad_batches")]  # type: ignore[attr-defined]
    if not schedules or trainer.num_training_batches == math.inf or not (trainer.max_epochs or 0) > 0:
        return None
    batches = trainer.num_training_batches
    steps = sum(
        math.ceil(batches / schedules[-1].get_accumulate_grad_batches(epoch)) for epoch in range(trainer.max_epochs or 0)
    )
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
