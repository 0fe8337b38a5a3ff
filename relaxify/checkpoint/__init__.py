"""Checkpoints of relaxed models: finding the terms in them, and writing the plain model's without the model's code.

This is the room's face: other rooms and the command line import from here alone.
"""

from relaxify.checkpoint.conversion import convert
from relaxify.checkpoint.loading import LoadError, check_loads, load_weights
from relaxify.checkpoint.output import TargetExistsError, check_target, replacing
from relaxify.checkpoint.plan import Conversion, StateConversion, TermConversion, ThetaError
from relaxify.record import CheckpointError, Record

__all__ = [
    "CheckpointError",
    "Conversion",
    "LoadError",
    "Record",
    "StateConversion",
    "TargetExistsError",
    "TermConversion",
    "ThetaError",
    "check_loads",
    "check_target",
    "convert",
    "load_weights",
    "replacing",
]
