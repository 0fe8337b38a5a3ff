"""Checkpoints of relaxed models: finding the terms in them, and writing the plain model's without the model's code.

This is the room's face: other rooms and the command line import from here alone.
"""

from relaxify.checkpoint.conversion import convert, relax
from relaxify.checkpoint.loading import LoadError, check_loads, load_weights
from relaxify.checkpoint.plan import Conversion, StateConversion, TermConversion, ThetaError
from relaxify.checkpoint.source import SourceChangedError
from relaxify.output import TargetExistsError
from relaxify.record import CheckpointError, Record

__all__ = [
    "CheckpointError",
    "Conversion",
    "LoadError",
    "Record",
    "SourceChangedError",
    "StateConversion",
    "TargetExistsError",
    "TermConversion",
    "ThetaError",
    "check_loads",
    "convert",
    "load_weights",
    "relax",
]
