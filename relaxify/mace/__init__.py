"""MACE trained relaxed: its own training program, with the terms of CR eq. 2 in its model until it saves.

Only this room knows MACE, which it imports when a training begins.
"""

from relaxify.mace.options import Relaxation
from relaxify.mace.training import train

__all__ = ["Relaxation", "train"]
