"""Checkpoints around a relaxed fit: relaxed ones come into a plain module, and plain ones lie beside the relaxed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from relaxify.checkpoint import CheckpointError, convert
from relaxify.checkpoint.terms import is_term_key
from relaxify.lightning.framework import LightningModule, Trainer
from relaxify.relaxation.pitfalls import PitfallWarning
from relaxify.relaxation.terms.term import terms_of

FINAL = "projected.ckpt"


class RelaxedKeys:
    """Has a plain module relaxed when it is about to load the state dict of a relaxed one, until `end()`.

    `relax` does it; `has_relaxed` says if it was called.
    """

    def __init__(self, module: LightningModule, relax: Callable[[LightningModule], None]) -> None:
        self.module, self.relax = module, relax
        self.has_relaxed = False
        self._hook = module.register_load_state_dict_pre_hook(self._before)  # type: ignore[no-untyped-call]

    def _before(self, module: LightningModule, state: Mapping[str, Any], *_: Any) -> None:
        if not terms_of(module) and any(map(is_term_key, state)):
            self.relax(module)
            self.has_relaxed = True

    def end(self) -> None:
        self._hook.remove()


def save_projected(trainer: Trainer) -> None:
    """Save the plain model beside the last checkpoint, and convert the best one, which is then known by the new path.

    The best one as it was validated: without its terms.
    """
    for callback in trainer.checkpoint_callbacks:
        last = getattr(callback, "_last_checkpoint_saved", "")
        if best := getattr(callback, "best_model_path", ""):
            callback.best_model_path = _converted(trainer, best)  # type: ignore[attr-defined]
        if last:
            folder = last.rpartition("/")[0]
            trainer.save_checkpoint(f"{folder}/{FINAL}", getattr(callback, "save_weights_only", False))


def _converted(trainer: Trainer, path: str) -> str:
    """The path of the plain model's checkpoint, made by the first process; `path` itself if none could be made."""
    source, target = Path(path), _projected(path)
    done = False
    if trainer.is_global_zero and source.is_file():
        try:
            convert(source, target, force=True)
            done = True
        except CheckpointError as error:
            warnings.warn(f"the best checkpoint stays as it is: {error}", PitfallWarning, stacklevel=2)
    return str(target) if trainer.strategy.broadcast(done) else path


def lead_to_projected(trainer: Trainer) -> None:
    """After a checkpoint was loaded, which has the paths of when it was saved, the best one is again the plain model's."""
    for callback in trainer.checkpoint_callbacks:
        best = getattr(callback, "best_model_path", "")
        if best and _projected(best).is_file():
            callback.best_model_path = str(_projected(best))  # type: ignore[attr-defined]


def _projected(path: str) -> Path:
    return Path(path).with_name(f"projected-{Path(path).name}")
