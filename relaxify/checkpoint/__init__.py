"""Checkpoints of relaxed models: finding the terms in them, and writing the plain model's without the model's code.

This is the room's face: other rooms and the command line import from here alone.
"""

from relaxify.checkpoint.checking import Checked, check_converted
from relaxify.checkpoint.comparing import Comparison, Difference, compare
from relaxify.checkpoint.contents import Contents, StateContents, TensorContents, TermContents, Totals, contents
from relaxify.checkpoint.conversion import convert, relax
from relaxify.checkpoint.loading import LoadError, check_loads, load_state, load_weights
from relaxify.checkpoint.plan import Conversion, StateConversion, TermConversion, ThetaError
from relaxify.checkpoint.source import SourceChangedError
from relaxify.output import TargetExistsError
from relaxify.record import CheckpointError, Record

__all__ = [
    "Checked",
    "CheckpointError",
    "Comparison",
    "Contents",
    "Conversion",
    "Difference",
    "LoadError",
    "Record",
    "SourceChangedError",
    "StateContents",
    "StateConversion",
    "TargetExistsError",
    "TensorContents",
    "TermContents",
    "TermConversion",
    "ThetaError",
    "Totals",
    "check_converted",
    "check_loads",
    "compare",
    "contents",
    "convert",
    "load_state",
    "load_weights",
    "relax",
]
