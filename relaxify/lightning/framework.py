"""Lightning itself, under whichever of its two names the user's program has imported it."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

_NAMES = ("lightning.pytorch", "pytorch_lightning")


def _imported() -> Any:
    for name in sorted(_NAMES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError("relaxify.lightning needs Lightning: pip install 'relaxify[lightning]'.")


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    _framework = _imported()
    Callback, LightningModule, Trainer = (getattr(_framework, name) for name in ("Callback", "LightningModule", "Trainer"))

__all__ = ["Callback", "LightningModule", "Trainer"]
