"""Verdicts: whether a model as it is commutes with a group, measured end to end, without a look inside."""

from relaxify.verdicts.measuring import measure
from relaxify.verdicts.verdict import Errors, OutputVerdict, OwnPrecision, Reason, Status, Verdict

__all__ = ["Errors", "OutputVerdict", "OwnPrecision", "Reason", "Status", "Verdict", "measure"]
