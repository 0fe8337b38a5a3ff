"""Checkpoints of relaxed models: finding the terms in them, and writing the plain model's without the model's code."""

from relaxify.checkpoint.conversion import convert
from relaxify.checkpoint.conversion_report import Conversion, StateConversion, TermConversion
from relaxify.checkpoint.plan import ThetaError
from relaxify.record import CheckpointError, Record

__all__ = ["CheckpointError", "Conversion", "Record", "StateConversion", "TermConversion", "ThetaError", "convert"]
