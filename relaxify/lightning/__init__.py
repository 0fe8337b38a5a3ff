"""Relaxed training with Lightning: `Trainer(callbacks=[Relaxation("O(3)", at="net")])`."""

from relaxify.lightning.callback import Relaxation

__all__ = ["Relaxation"]
